"""`tpplan solve`: read model and profile, find the split, save, print."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from .options import Split, workload_options
from .output import emit, note, print_lines, print_tables

if TYPE_CHECKING:
    from ..hwprofiles.profile import HardwareProfile
    from ..planner.explanation import Explanation
    from ..planner.model_spec import ModelSpec
    from ..planner.plan import Phase, Plan

PHASES: tuple[Phase, ...] = ("decode", "prefill")
STRATEGY = click.Choice(["row", "column"])
SOLVE_FIELDS = ("status", "objective_s", "bound_s", "gap", "space", "solve_s", "predicted", "baselines", "reasons")


@click.command()
@click.argument("model")
@click.option("--hardware", default="profile.json", show_default=True, metavar="FILE|MACHINE", help="See above.")
@workload_options
@click.option("--attention-split", type=Split(), help="KV heads per device, in profile order: 2,1.")
@click.option("--attention-strategy", type=STRATEGY, help="What output projections are split along.")
@click.option("--mlp-split", type=Split(), help="MLP columns per device, in profile order: 1024,512.")
@click.option("--mlp-strategy", type=STRATEGY)
@click.option("--kv-replication/--no-kv-replication", "replicate_kv", default=True, help="KV heads on two devices.")
@click.option("--time-limit", type=click.FloatRange(0.1, 86_400), default=30.0, show_default=True, metavar="S")
@click.option("--explain", "explained", is_flag=True, help="Also say why, and what other limits would buy (20 s).")
@click.option("--trace", metavar="FILE", help="Write the simulated passes as Chrome trace JSON (opens in Perfetto).")
@click.option("--report", metavar="FILE", help="Write all about the plan as one HTML page.")
@click.option("-o", "--output", default="plan.json", show_default=True, metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(
    model: str,
    hardware: str,
    explained: bool,
    trace: str | None,
    report: str | None,
    output: str,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Find the fastest split of MODEL over the devices, and how far from the best it can be.

    MODEL: a config .json with Hugging Face names, a Hugging Face directory, or a .gguf file. What is not given is
    solved.

    FILE: what `tpplan profile` measured. MACHINE: devices of the catalogue joined by +, each
    [COUNTx]NAME[@LINK][/PORT[=LINK]] or cpu:MEMORY[:SIZE]. LINK is the slot, as 4.0x8 or oculink; no link is faster
    than the card's own, which counts where no slot is given. Devices with the same PORT share it: a chipset's 4.0x4
    unless told otherwise. Names that come twice are numbered: rtx3090:0, rtx3090:1. A CPU that is not named computes
    nothing; its memory is that of CPUs with lanes enough for the cards.

    \b
    tpplan solve model.gguf
    tpplan solve examples/llama-3.1-8b.json --hardware rtx3090@4.0x16+2xrtx3060@4.0x4/a+cpu:ddr5-2ch
    tpplan solve llama/ --context 8192 --cap cpu:0=8GiB
    tpplan solve model.gguf --attention-split 2,1 --mlp-strategy column
    tpplan solve model.gguf --report plan.html --trace plan-trace.json
    """
    from ..hwprofiles.machine import load_hardware
    from ..planner.explain import explain
    from ..planner.model_files import load_model
    from ..planner.solve import solve
    from ..planner.storage import save_plan

    _check_outputs([path for path in (output, trace, report) if path is not None], model, hardware)
    profile, spec, request = load_hardware(hardware), load_model(model), _request(**wishes)
    plan = solve(spec, os.path.abspath(model), profile, request)
    save_plan(plan, output)
    if not as_json:
        _print_plan(plan)
    note(f"wrote {output}")
    found = explain(plan, spec, profile, request) if explained else None
    if trace or report:
        _write_pictures(plan, spec, profile, trace, report, found)
    if as_json:
        result = {"plan": output} | {field: getattr(plan, field) for field in SOLVE_FIELDS}
        emit(result | {"devices": plan.device_use} | ({"explanation": found} if found else {}))
    elif found:
        _print_explanation(plan, found)


def _check_outputs(paths: list[str], model: str, hardware: str) -> None:
    """Asked before long work: every file can be written, and none is read or written twice."""
    from ..hwprofiles.files import check_writable
    from ..hwprofiles.machine import is_file

    for path in paths:
        check_writable(path, model, *([hardware] if is_file(hardware) else []))
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise ValueError(f"{' and '.join(paths)} are not all different: name two files")


def _write_pictures(
    plan: Plan,
    model: ModelSpec,
    profile: HardwareProfile,
    trace: str | None,
    report: str | None,
    found: Explanation | None,
) -> None:
    """Both passes as they are simulated: as a trace, and on the page that tells all about the plan."""
    from ..planner.chrome_trace import chrome_trace, save_trace
    from ..planner.report_page import write_report
    from ..planner.simulate import pricer_of_plan, simulate

    pricer = pricer_of_plan(plan, model, profile)
    timelines = [simulate(plan.split, pricer, phase) for phase in PHASES]
    if trace:
        save_trace(chrome_trace(timelines), trace)
        note(f"wrote {trace}")
    if report:
        write_report(report, plan, model, profile, timelines, found)
        note(f"wrote {report}")


def _request(prompt_tokens: int, new_tokens: int, batch: int, context: int, time_limit: float, **splits: Any) -> Any:
    from ..planner.plan import Workload
    from ..planner.request import Request

    return Request(Workload(prompt_tokens, new_tokens, batch, context), time_limit_s=time_limit, **splits)


def _print_plan(plan: Plan) -> None:
    from ..planner.report import plan_tables, split_notes, verdict

    print_tables(plan_tables(plan))
    print_lines(split_notes(plan))
    print_lines([verdict(plan)], bullet="")


def _print_explanation(plan: Plan, found: Explanation) -> None:
    from ..planner.explain_tables import end_words, explanation_tables
    from ..planner.report import memory_table

    print_tables([memory_table(plan), *explanation_tables(found)])
    ends = [end_words(end) for end in found.ends if end.figures]
    print_lines([*found.tight, *ends, *found.weights, *plan.reasons, f"the proof covers: {plan.space}"])
