"""`tpplan solve`: read model and profile, find the split, save, print."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from .options import Cap, Split, by_device
from .output import emit, note, print_lines, print_tables

if TYPE_CHECKING:
    from ..planner.explanation import Explanation
    from ..planner.plan import Plan

COUNT = click.IntRange(1, 2**24)
STRATEGY = click.Choice(["row", "column"])
SOLVE_FIELDS = ("status", "objective_s", "bound_s", "gap", "space", "solve_s", "predicted", "baselines", "reasons")


@click.command()
@click.argument("model")
@click.option("--hardware", default="profile.json", show_default=True, metavar="FILE", help="A profile.")
@click.option("--prompt-tokens", type=COUNT, default=512, show_default=True, help="Per sequence.")
@click.option("--new-tokens", type=COUNT, default=128, show_default=True, help="Per sequence.")
@click.option("--batch", type=COUNT, default=1, show_default=True, help="Sequences at once.")
@click.option("--context", type=COUNT, default=4096, show_default=True, help="Tokens the KV cache holds per sequence.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "int8", "int4"]), help="Of weights.")
@click.option("--cache-dtype", type=click.Choice(["float32", "bfloat16"]), help="Of the KV cache.")
@click.option("--cap", "caps", type=Cap(), multiple=True, callback=by_device, help="Memory limit: cpu:0=8GiB.")
@click.option("--attention-split", type=Split(), help="KV heads per device, in profile order: 2,1.")
@click.option("--attention-strategy", type=STRATEGY, help="What output projections are split along.")
@click.option("--mlp-split", type=Split(), help="MLP columns per device, in profile order: 1024,512.")
@click.option("--mlp-strategy", type=STRATEGY)
@click.option("--time-limit", type=click.FloatRange(0.1, 86_400), default=30.0, show_default=True, metavar="S")
@click.option("--explain", "explained", is_flag=True, help="Also say why, and what other limits would buy (20 s).")
@click.option("-o", "--output", default="plan.json", show_default=True, metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(model: str, hardware: str, explained: bool, output: str, as_json: bool, **wishes: Any) -> None:
    """Find the fastest split of MODEL over the profiled devices, and how far from the best it can be.

    MODEL: a config .json with Hugging Face names, a Hugging Face directory, or a .gguf file. What is not given is
    solved.

    \b
    tpplan solve model.gguf
    tpplan solve llama/ --context 8192 --cap cpu:0=8GiB
    tpplan solve model.gguf --attention-split 2,1 --mlp-strategy column
    """
    from ..hwprofiles.files import check_writable
    from ..hwprofiles.storage import load_profile
    from ..planner.explain import explain
    from ..planner.model_files import load_model
    from ..planner.solve import solve
    from ..planner.storage import save_plan

    check_writable(output, model, hardware)
    profile, spec, request = load_profile(hardware), load_model(model), _request(**wishes)
    plan = solve(spec, os.path.abspath(model), profile, request)
    save_plan(plan, output)
    if not as_json:
        _print_plan(plan)
    note(f"wrote {output}")
    found = explain(plan, spec, profile, request) if explained else None
    if as_json:
        result = {"plan": output} | {field: getattr(plan, field) for field in SOLVE_FIELDS}
        emit(result | {"devices": plan.device_use} | ({"explanation": found} if found else {}))
    elif found:
        _print_explanation(plan, found)


def _request(prompt_tokens: int, new_tokens: int, batch: int, context: int, time_limit: float, **splits: Any) -> Any:
    from ..planner.plan import Workload
    from ..planner.request import Request

    return Request(Workload(prompt_tokens, new_tokens, batch, context), time_limit_s=time_limit, **splits)


def _print_plan(plan: Plan) -> None:
    from ..planner.report import plan_tables, split_notes, verdict

    print_tables(plan_tables(plan))
    print_lines(split_notes(plan))
    print(verdict(plan))


def _print_explanation(plan: Plan, found: Explanation) -> None:
    from ..planner.explain_tables import end_words, explanation_tables
    from ..planner.report import memory_table

    print_tables([memory_table(plan), *explanation_tables(found)])
    ends = [end_words(end) for end in found.ends if end.figures]
    print_lines([*found.tight, *ends, *plan.reasons, f"the proof covers: {plan.space}"])
