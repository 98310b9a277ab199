"""`tpplan bench`: a plan's speed on this machine, for lengths as asked; medians beside the expectation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import emit, loading_bar, note, print_tables

if TYPE_CHECKING:
    from ..executor.session import Generation
    from ..planner.plan import Plan
    from .run_figures import Figures


@click.command()
@click.option("--plan", "plan_path", default="plan.json", show_default=True, metavar="FILE")
@click.option("--model", "model_path", metavar="PATH", help="The model's files, if they have moved since the solve.")
@click.option(
    "--hardware", metavar="FILE", help="The profile, for what to expect.  [default: profile.json beside the plan]"
)
@click.option("-p", "--prompt-tokens", type=click.IntRange(1, 2**24), help="[default: the plan's]", metavar="N")
@click.option("-n", "--new-tokens", type=click.IntRange(1, 2**24), help="[default: the plan's]", metavar="N")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    plan_path: str,
    model_path: str | None,
    hardware: Any,
    prompt_tokens: int | None,
    new_tokens: int | None,
    rounds: int,
    as_json: bool,
) -> None:
    """Time a plan: prefill and decode of made-up tokens, the medians of several rounds after one to warm up.

    \b
    tpplan bench
    tpplan bench --plan box/plan.json -p 2048 -n 256 --rounds 10
    """
    from ..planner.check import check
    from ..planner.model_files import load_model
    from ..planner.storage import load_plan
    from .run_figures import Figures

    plan = load_plan(plan_path)
    model_path, hardware = model_path or plan.model, hardware or Path(plan_path).with_name("profile.json")
    if not os.path.isdir(model_path) and not model_path.endswith(".gguf"):
        raise ValueError(f"{model_path} is a description without weights: name the weights with --model")
    model = load_model(model_path)
    check(plan, model)
    figures, lengths = Figures(plan, model, hardware), _lengths(plan, prompt_tokens, new_tokens)
    _report(figures, lengths, _timed(figures, model_path, lengths, rounds), as_json)


def _lengths(plan: Plan, prompt_tokens: int | None, new_tokens: int | None) -> tuple[int, int]:
    """Prompt and new tokens, as asked for or as planned, the plan's cut down to its context."""
    work = plan.workload
    new = new_tokens or min(work.new_tokens, max(1, work.context - (prompt_tokens or 1)))
    return prompt_tokens or max(1, min(work.prompt_tokens, work.context - new + 1)), new


def _timed(figures: Figures, model_path: str, lengths: tuple[int, int], rounds: int) -> list[Generation]:
    from ..executor.sampling import Sampler
    from ..executor.session import Session

    prompt = [(7919 * at + 13) % figures.model.vocab for at in range(lengths[0])]
    with loading_bar(figures.weight_bytes) as progress:
        session = Session.open(figures.plan, figures.model, model_path, progress)
    with session:
        return [session.generate(prompt, lengths[1], Sampler()) for _ in range(rounds + 1)][1:]


def _report(figures: Figures, lengths: tuple[int, int], results: list[Generation], as_json: bool) -> None:
    from statistics import median

    middle = sorted(results, key=lambda result: result.decode_s_per_token)[len(results) // 2]
    predicted = figures.predicted(*lengths)
    every = {name: [getattr(r, name) for r in results] for name in ("prefill_s", "decode_s_per_token")}
    measured = figures.of(*map(median, every.values()))
    if as_json:
        emit(
            {
                "prompt_tokens": lengths[0],
                "new_tokens": lengths[1],
                "rounds": len(results),
                "measured": measured,
                "spread": {name: [min(each), max(each)] for name, each in every.items()},
                "predicted": predicted,
                "bandwidth_share": figures.bandwidth_share(middle),
            }
        )
        return
    print_tables([figures.table(predicted, measured, lengths[0])])
    rounds = f"medians of {len(results)} rounds" if len(results) > 1 else "one round"
    note(f"{rounds} of {lengths[0]} prompt and {lengths[1]} new tokens")
    for line in figures.notes(middle):
        note(line)
