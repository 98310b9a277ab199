"""`tpplan whatif`: read model and machine, change the machine, solve each, print the ranking or the curves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from .options import Assignment, short_text, workload_options
from .output import Progress, emit, note, print_lines, print_tables

if TYPE_CHECKING:
    from ..planner.request import Request
    from ..planner.sweeps import Point
    from ..planner.variants import Change, Variant
    from ..planner.whatif import Outcome

SECONDS = click.FloatRange(0.1, 86_400)


@click.command()
@click.argument("model")
@click.option("--hardware", default="profile.json", show_default=True, metavar="FILE|MACHINE", help="As of solve.")
@click.option("--add", "added", multiple=True, callback=short_text, metavar="MACHINE", help="More devices.")
@click.option("--remove", "removed", multiple=True, callback=short_text, metavar="NAME", help="One device less.")
@click.option("--link", "links", type=Assignment(), multiple=True, callback=short_text, help="Another slot.")
@click.option("--sweep", type=click.Choice(["context", "batch", "link"]), help="A curve over this for each machine.")
@click.option("--picture", metavar="FILE", help="The curves as .svg or .png.")
@workload_options
@click.option("--time-limit", type=SECONDS, default=5.0, show_default=True, metavar="S", help="For each search.")
@click.option("--total-limit", type=SECONDS, default=300.0, show_default=True, metavar="S", help="For all together.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(
    model: str, hardware: str, sweep: str | None, picture: str | None, total_limit: float, as_json: bool, **given: Any
) -> None:
    """Say what changes of the machine would do for MODEL: each by itself, then all together.

    The change that answers fastest comes first. The largest context is that for which memory suffices, up to the
    model's own. A sweep of the context has prompts that fill it; one of links sets those of all devices, as far as
    their connectors go.

    \b
    tpplan whatif model.gguf --add rtx3090@4.0x8 --add rtx3060@3.0x4
    tpplan whatif llama.json --hardware rtx3090@4.0x16+rtx3060@4.0x4 --remove rtx3060 --link rtx3060=4.0x16
    tpplan whatif llama.json --hardware 2xrtx3090@4.0x8 --sweep context --picture context.svg
    """
    from ..planner.model_files import load_model

    _check_picture(picture, sweep, model, hardware)
    spec, machines, request = load_model(model), *_machines(hardware, **given)
    with Progress() as progress:
        if sweep is None:
            from ..planner.whatif import ranked, what_if

            outcomes = ranked(what_if(spec, machines, total_limit, progress))
        else:
            points = _points(spec, machines, sweep, total_limit, progress)
            outcomes = [point.outcome for point in points]
    if sweep is None:
        _tell(outcomes, request, as_json)
    else:
        _tell_curves(points, sweep, picture, as_json)
    _end(outcomes)


def _check_picture(picture: str | None, sweep: str | None, model: str, hardware: str) -> None:
    if picture is None:
        return
    from ..hwprofiles.files import check_writable
    from ..hwprofiles.machine import is_file

    if sweep is None:
        raise click.UsageError("--picture draws what --sweep finds: give one")
    if not picture.lower().endswith((".svg", ".png")):
        raise ValueError(f"cannot draw {picture}: pictures are .svg or .png; name the file so")
    check_writable(picture, model, *([hardware] if is_file(hardware) else []))


def _machines(
    hardware: str, added: list[str], removed: list[str], links: list[tuple[str, str]], **wishes: Any
) -> tuple[list[Variant], Request]:
    from ..hwprofiles.changes import with_link, with_machine, without_device
    from ..hwprofiles.machine import load_hardware
    from ..planner.variants import variants

    changes: list[Change] = [(f"with {text}", partial(with_machine, text=text)) for text in added]
    changes += [(f"without {name}", partial(without_device, name=name)) for name in removed]
    changes += [(f"{name} on {link}", partial(with_link, name=name, link=link)) for name, link in links]
    request = _request(**wishes)
    return variants(load_hardware(hardware), request, changes), request


def _request(prompt_tokens: int, new_tokens: int, batch: int, context: int, time_limit: float, **more: Any) -> Request:
    from ..planner.plan import Workload
    from ..planner.request import Request

    return Request(Workload(prompt_tokens, new_tokens, batch, context), time_limit_s=time_limit, **more)


def _points(
    spec: Any, machines: list[Variant], kind: Any, total_s: float, progress: Callable[[str, float], None]
) -> list[Point]:
    from ..hwprofiles.changes import link_ladder, with_all_links
    from ..planner.sweeps import sweep

    links: list[Change] = [(name, partial(with_all_links, link=name)) for name in link_ladder()]
    return sweep(spec, machines, kind, links, total_s, progress)


def _tell(outcomes: list[Outcome], request: Request, as_json: bool) -> None:
    from ..planner.whatif_report import outcome_tables, problems

    if as_json:
        emit({"workload": request.workload, "outcomes": outcomes})
        return
    print_tables(outcome_tables(outcomes, request.workload))
    print_lines(problems(outcomes))


def _tell_curves(points: list[Point], kind: str, picture: str | None, as_json: bool) -> None:
    from ..planner.whatif_report import curves, problems, sweep_tables

    if picture is not None:
        from ..planner.figures import save_curve

        values, series = curves(points)
        save_curve(picture, f"What {kind} changes", kind, "expected", values, dict(series))
        note(f"wrote {picture}")
    if as_json:
        emit({"sweep": kind, "points": points})
        return
    print_tables(sweep_tables(points, kind))
    print_lines(problems([point.outcome for point in points]))


def _end(outcomes: list[Outcome]) -> None:
    from ..planner.whatif import refusal

    error = refusal(outcomes)
    if error is not None:
        raise error
