"""`tpplan export`: read a plan, print the nearest command line of another engine, and what that engine cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .output import emit, note

if TYPE_CHECKING:
    from ..planner.plan import Plan


@click.command()
@click.argument("plan", default="plan.json")
@click.option("--to", "engine", type=click.Choice(["llama.cpp", "ik_llama.cpp", "exllamav3", "vllm"]), required=True)
@click.option("--model", metavar="PATH", help="The weights in that engine's format, where the plan names others.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(plan: str, engine: str, model: str | None, as_json: bool) -> None:
    """Print the command line that makes another engine do the nearest to PLAN.

    The command goes to stdout, ready to paste; what that engine cannot express, and what to check, to stderr.

    \b
    tpplan export plan.json --to llama.cpp
    tpplan export --to vllm --model /models/llama-3.1-8b
    tpplan export --to exllamav3 --json
    """
    from ..planner.export import export
    from ..planner.storage import load_plan

    loaded = load_plan(plan)
    _check(loaded, model)
    exported = export(loaded, engine, model)
    if as_json:
        emit(exported)
        return
    print(exported.shell)
    for title, lines in ((f"{engine} cannot express", exported.cannot_express), ("to know", exported.notes)):
        if lines:
            note(f"{title}:")
        for line in lines:
            note(f"- {line}")


def _check(plan: Plan, given: str | None) -> None:
    """ValueError where the plan's model, or the same at `given`, can be read and the plan is no sound plan of it."""
    from ..planner.check import check
    from ..planner.model_files import load_model

    for path in (plan.model, given):
        try:
            model = load_model(path or "")
        except (ValueError, OSError):
            continue
        if path == plan.model or model.fingerprint == plan.model_fingerprint:  # other formats make other models
            check(plan, model)
            return
