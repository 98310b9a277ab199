"""Profiles measured on an H100, whole and cut into parts of 8 and 16 SMs, against what the executor then did there.

Both were taken with the same kernels (`docs/measurements.md`, decode and prefill through the runner); later kernels are
faster, which changes profile and truth alike.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tpplan.hwprofiles.storage import load_profile
from tpplan.planner.model_files import load_model
from tpplan.planner.plan import HIDDEN_UNIT, VOCAB_UNIT, BlockPlan, LayerPlan, Range, Split, Workload
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.solve import solve
from tpplan.planner.units import Units, proportional

FOLDER = Path(__file__).parents[1] / "data"
MODEL = load_model(Path(__file__).parents[2] / "examples" / "llama-3.1-8b.json")
WHOLE, PARTS = (load_profile(FOLDER / f"profile-{name}.json") for name in ("h100", "h100-8-16"))
WORKLOAD = Workload(prompt_tokens=512, new_tokens=80, context=1024, prefill_chunk=256)


def split_by(weights: list[float], strategy: str = "row") -> Split:
    """Every block in proportion to `weights`, as `benchmarks/gpu_decode.py` cuts it."""

    def spans(total: int, unit: int) -> tuple[Range, ...]:
        units = Units(total, unit)
        return units.spans(proportional(units.count, weights))

    def block(total: int, unit: int) -> BlockPlan:
        return BlockPlan(strategy, spans(total, unit), spans(MODEL.hidden, HIDDEN_UNIT) if strategy == "column" else ())

    layer = LayerPlan(block(MODEL.heads, 1), block(MODEL.mlp, 128))
    table = spans(MODEL.vocab, VOCAB_UNIT)
    return Split(table, (layer,) * MODEL.layers, table)


@pytest.mark.parametrize(
    ("profile", "weights", "strategy", "tokens_per_s"),
    [
        (WHOLE, [1], "row", 186.8),
        (PARTS, [8, 16], "row", 70.3),
        (PARTS, [8, 16], "column", 71.0),
        (PARTS, [1, 1], "row", 51.3),
    ],
)
def test_decode_is_priced_as_it_was_measured(
    profile: object, weights: list[float], strategy: str, tokens_per_s: float
) -> None:
    """Within 6 %, whole and split, by speed and even."""
    pricer = Pricer(MODEL, profile, "bfloat16", WORKLOAD, "bfloat16")  # type: ignore[arg-type]
    predicted = pricer.predict(split_by(weights, strategy))
    assert predicted.decode_tokens_per_s == pytest.approx(tokens_per_s, rel=0.06)


@pytest.mark.parametrize(
    ("weights", "strategy", "tokens_per_s"),
    [([8, 16], "row", 3898), ([8, 16], "column", 2734), ([1, 1], "row", 3322), ([1, 1], "column", 2734)],
)
def test_prefill_is_priced_as_it_was_measured(weights: list[float], strategy: str, tokens_per_s: float) -> None:
    """Of parts that exchange, within 20 %, and on the slow side."""
    pricer = Pricer(MODEL, PARTS, "bfloat16", WORKLOAD, "bfloat16")
    seconds = pricer.predict(split_by(weights, strategy)).prefill_s
    assert 0.8 * tokens_per_s <= 512 / seconds <= tokens_per_s


def test_a_plan_beats_the_splits_that_were_measured() -> None:
    """Solved in the format that GPUs take without asking; faster by price than shares by SMs and than even ones."""
    plan = solve(MODEL, "llama-3.1-8b.json", PARTS, Request(WORKLOAD, time_limit_s=10.0))
    assert (plan.dtype, plan.cache_dtype) == ("bfloat16", "bfloat16")
    pricer = Pricer(MODEL, PARTS, "bfloat16", plan.workload, "bfloat16")
    by_sms, even = (pricer.split_s(split_by(weights)) for weights in ([8, 16], [1, 1]))
    assert plan.objective_s <= by_sms < even
    assert 71 <= plan.predicted.decode_tokens_per_s <= 80
    assert all(layer.mlp.strategy == "row" for layer in plan.layers)
