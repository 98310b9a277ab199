"""`tpplan run`: open the plan, stream text, compare what was expected with what was measured."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import utf8
from .output import emit, loading_bar, note, print_tables

if TYPE_CHECKING:
    from ..executor.session import Generation
    from ..executor.tokenizer import Tokenizer
    from .run_figures import Figures


@click.command()
@click.option("--plan", "plan_path", default="plan.json", show_default=True, metavar="FILE")
@click.option("--model", "model_path", metavar="PATH", help="The model's files, if they have moved since the solve.")
@click.option(
    "--hardware", metavar="FILE", help="The profile, for what to expect.  [default: profile.json beside the plan]"
)
@click.option("--prompt", required=True, callback=utf8, metavar="TEXT")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@click.option("--max-new-tokens", type=click.IntRange(1, 2**24), default=128, show_default=True, metavar="N")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 always takes the likeliest token.")
@click.option("--top-k", type=int, default=0, help="Keep the k likeliest tokens.  [default: all]")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Keep the likeliest tokens up to this share.")
@click.option(
    "--min-p", type=float, default=0.0, show_default=True, help="Drop tokens below this share of the likeliest."
)
@click.option("--seed", type=int, help="Makes drawn text repeatable.  [default: random]")
@click.option("--trace", metavar="FILE", help="Write every step's times as Chrome trace JSON (opens in Perfetto).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of streaming text.")
def command(plan_path: str, model_path: str | None, hardware: Any, trace: str | None, **options: Any) -> None:
    """Generate text with a planned model, and say how the plan's expectation compares with what was measured.

    \b
    tpplan run --prompt "Why is the sky blue?"
    tpplan run --prompt "Once upon a time" --raw --max-new-tokens 64 --temperature 0.8 --seed 1
    tpplan run --plan box/plan.json --prompt Hello --trace trace.json
    """
    from ..hwprofiles.files import check_writable
    from ..planner.check import check
    from ..planner.model_files import load_model
    from ..planner.storage import load_plan
    from .run_figures import Figures

    plan = load_plan(plan_path)
    model_path, hardware = model_path or plan.model, hardware or Path(plan_path).with_name("profile.json")
    if trace:
        check_writable(trace, plan_path, model_path, hardware)
    model = load_model(model_path)
    check(plan, model)
    figures = Figures(plan, model, hardware)
    _generate(figures, model_path, trace, **options)


def _generate(
    figures: Figures,
    model_path: str,
    trace: str | None,
    prompt: str,
    raw: bool,
    max_new_tokens: int,
    as_json: bool,
    **sampling: Any,
) -> None:
    from ..executor.sampling import Sampler
    from ..executor.session import Session
    from ..executor.tokenizer import load_tokenizer
    from ..executor.trace import Trace

    sampler = Sampler(**sampling)
    if not os.path.isdir(model_path) and not model_path.endswith(".gguf"):
        raise ValueError(f"{model_path} is a description without weights: name the weights with --model")
    tokenizer = load_tokenizer(model_path, figures.model.vocab)
    prompt_ids = _prompt_ids(tokenizer, prompt, raw)
    stream = tokenizer.stream()
    with loading_bar(figures.weight_bytes) as progress:
        session = Session.open(figures.plan, figures.model, model_path, progress)
    with session:
        session.trace = Trace(session.plan.devices) if trace else None
        on_token = (lambda token: None) if as_json else (lambda token: _show(stream.push(token)))
        result = session.generate(prompt_ids, max_new_tokens, sampler, tokenizer.stop_ids, on_token)
        if trace:
            _save_trace(session.trace, trace)
        notes = session.notes
    if not as_json:
        _show(stream.finish() + "\n")
    _report(figures, prompt_ids, result, tokenizer, as_json)
    for line in notes:
        note(line)


def _prompt_ids(tokenizer: Tokenizer, prompt: str, raw: bool) -> list[int]:
    if raw:
        return tokenizer.encode(prompt)
    return tokenizer.encode(tokenizer.chat([{"role": "user", "content": prompt}]), add_special=False)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _save_trace(trace: Any, path: str) -> None:
    from ..planner.chrome_trace import save_trace

    save_trace(trace.json(), path)
    note(f"wrote {path}")


def _report(figures: Figures, prompt_ids: list[int], result: Generation, tokenizer: Tokenizer, as_json: bool) -> None:
    measured, predicted = figures.measured(result), figures.predicted(len(prompt_ids), len(result.token_ids))
    if as_json:
        emit(
            {
                "prompt_ids": prompt_ids,
                "token_ids": result.token_ids,
                "text": tokenizer.decode(result.token_ids),
                "finish_reason": result.finish_reason,
                "measured": measured,
                "predicted": predicted,
                "bandwidth_share": figures.bandwidth_share(result),
            }
        )
    else:
        print_tables([figures.table(predicted, measured, len(prompt_ids))], sys.stderr)
    for line in figures.notes(result):
        note(line)
