"""`tpplan simulate`: read plan, model and profile, play one decode step and one prefill chunk through, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import emit, note, print_tables

if TYPE_CHECKING:
    from ..hwprofiles.profile import HardwareProfile
    from ..planner.model_spec import ModelSpec
    from ..planner.plan import Plan
    from ..planner.price import Pricer
    from ..planner.timeline import Timeline


@click.command()
@click.argument("plan_path", metavar="PLAN", default="plan.json")
@click.option("--model", "model_path", metavar="PATH", help="The model's files, if they have moved since the solve.")
@click.option("--hardware", metavar="FILE|MACHINE", help="As of solve.  [default: profile.json beside the plan]")
@click.option("--trace", metavar="FILE", help="Write every step as Chrome trace JSON (opens in Perfetto).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(plan_path: str, model_path: str | None, hardware: Any, trace: str | None, as_json: bool) -> None:
    """Play PLAN (plan.json unless given) through step by step: what each device does when, what it waits for, and what
    decides the speed.

    Pushes and pulls share root ports and host memory as they meet. Another machine will do if it has devices of the
    plan's names.

    \b
    tpplan simulate plan.json
    tpplan simulate plan.json --trace trace.json
    tpplan simulate plan.json --hardware faster-links.json --json
    """
    from ..hwprofiles.files import check_writable
    from ..hwprofiles.machine import is_file
    from ..planner.model_files import load_model
    from ..planner.simulate import pricer_of_plan, simulate
    from ..planner.storage import load_plan

    plan = load_plan(plan_path)
    model_path, hardware = model_path or plan.model, hardware or str(Path(plan_path).with_name("profile.json"))
    if trace:
        check_writable(trace, plan_path, model_path, *([hardware] if is_file(hardware) else []))
    model = load_model(model_path)
    pricer = pricer_of_plan(plan, model, _checked_profile(plan, model, hardware))
    timelines = [simulate(plan.split, pricer, phase) for phase in ("decode", "prefill")]
    _report(plan_path, hardware, plan, pricer, timelines, as_json)
    if trace:
        _save(timelines, trace)


def _save(timelines: list[Timeline], path: str) -> None:
    from ..planner.chrome_trace import chrome_trace, save_trace

    save_trace(chrome_trace(timelines), path)
    note(f"wrote {path}")


def _checked_profile(plan: Plan, model: ModelSpec, hardware: str) -> HardwareProfile:
    """The machine to simulate; ValueError where the plan is unsound or the machine lacks a device of it."""
    import msgspec

    from ..planner.check import check
    from ..planner.memory import device_bytes, device_caps, fits

    profile = _profile_with(plan.devices, hardware)
    if profile.fingerprint == plan.profile_fingerprint:
        check(plan, model, profile)
        return profile
    check(plan, model)
    profile = msgspec.structs.replace(profile, devices=tuple(profile.device(name) for name in plan.devices))
    note(f"{hardware} is not what the plan was made for; the same split is played through on it")
    held = device_bytes(model, plan.split, plan.workload, plan.dtype, plan.cache_dtype)
    if not fits(held, profile, device_caps(profile, {})):
        note(f"{hardware} has too little memory for it; times are as if it fitted")
    return profile


def _profile_with(devices: tuple[str, ...], hardware: str) -> HardwareProfile:
    """The machine, which has these devices; ValueError says how to get it, which a plan of cards by name tells."""
    from ..hwprofiles.catalogue_files import known_devices
    from ..hwprofiles.machine import is_file, load_hardware

    same = "give the same --hardware as for solve"
    try:
        profile = load_hardware(hardware)
        for name in devices:
            profile.device(name)
    except (ValueError, FileNotFoundError) as error:
        if not is_file(hardware):
            raise
        if any(name.partition(":")[0] in known_devices() for name in devices):
            raise ValueError(f"{hardware} is no profile with the plan's {', '.join(devices)}: {same}") from error
        raise ValueError(f"{error}, or {same}") from error
    return profile


def _report(
    plan_path: str, hardware: str, plan: Plan, pricer: Pricer, timelines: list[Timeline], as_json: bool
) -> None:
    from ..planner.simulate import predicted_pass_s, simulated_prefill_s
    from ..planner.timeline_report import timeline_fields

    predicted_s = [predicted_pass_s(plan.split, pricer, timeline.phase) for timeline in timelines]
    whole_s = simulated_prefill_s(plan.split, pricer), pricer.prefill_s(plan.split)
    if as_json:
        phases = {t.phase: timeline_fields(t, seconds) for t, seconds in zip(timelines, predicted_s)}
        phases["prefill"] |= {"whole_prompt_s": whole_s[0], "whole_prompt_predicted_s": whole_s[1]}
        emit({"plan": plan_path, "hardware": hardware, "phases": phases})
    else:
        _print(timelines, predicted_s, whole_s, plan.workload.prompt_tokens)


def _print(
    timelines: list[Timeline], predicted_s: list[float], whole_s: tuple[float, float], prompt_tokens: int
) -> None:
    from ..hwprofiles.units import duration
    from ..planner.timeline_report import compared, length_lines, usage_table

    for timeline, seconds in zip(timelines, predicted_s):
        print_tables([usage_table(timeline)])
        print(*length_lines(timeline, seconds), "", sep="\n")
    print(f"whole prefill of {prompt_tokens} tokens: {duration(whole_s[0])}, {compared(*whole_s)}")
