"""Each reason's figures are those of the plan it compares with, priced on its own."""

from __future__ import annotations

import re

import msgspec
import pytest
from plans import block, plan_by_hand
from profiles import make_model, make_profile

from tpplan.hwprofiles.units import binary_bytes
from tpplan.planner.memory import device_bytes
from tpplan.planner.plan import LayerPlan, Split, Workload
from tpplan.planner.price import Pricer
from tpplan.planner.reasons import reasons

MODEL = make_model(layers=4, vocab=4096)
NAMES = ["cpu:0", "cpu:1", "cpu:2"]
ROOM = (2**40,) * 3
WORK = Workload(prompt_tokens=200, new_tokens=50, context=512)


def pricer() -> Pricer:
    return Pricer(MODEL, make_profile([1.0, 0.6, 0.3]), "bfloat16", WORK)


def split(heads: list[int], columns: list[int], rows: list[int], attention: str = "row") -> Split:
    return plan_by_hand(MODEL, NAMES, heads, columns, rows, attention).split


def percent(line: str, words: str) -> float:
    """The signed percentage that follows `words`."""
    number, sign = re.search(rf"{words}([\d.]+) % (more|less)", line).groups()
    return float(number) * (1 if sign == "more" else -1)


def test_a_strategy_is_compared_in_both_phases() -> None:
    """Row against column with the same shares: whole, decode and prefill as the pricer has them."""
    now, other = (split([2, 1, 0], [1024, 512, 0], [4096, 0, 0], how) for how in ("row", "column"))
    line = next(
        line for line in reasons(pricer(), now, "why", ROOM) if line.startswith("attention is split by row (2:1:0)")
    )
    before, after = pricer().predict(now), pricer().predict(other)
    for words, field in (("decode step [^,]*, ", "decode_s_per_token"), ("prefill [^,]*, ", "prefill_s")):
        change = 100 * (getattr(after, field) / getattr(before, field) - 1)
        assert percent(line, words) == pytest.approx(change, abs=0.06)
    whole = 100 * (pricer().split_s(other) / pricer().split_s(now) - 1)
    assert percent(line, "would take ") == pytest.approx(whole, abs=0.06)


def test_a_device_left_out_is_tried_with_one_unit() -> None:
    """The third device: one KV head a layer from the largest share, and one unit of columns."""
    lines = reasons(pricer(), split([2, 1, 0], [1024, 512, 0], [2048, 1024, 1024]), "why", ROOM)
    (attention,) = [line for line in lines if line.startswith("cpu:2 has no part in attention")]
    now, tried = (
        split([2, 1, 0], [1024, 512, 0], [2048, 1024, 1024]),
        split([1, 1, 1], [1024, 512, 0], [2048, 1024, 1024]),
    )
    whole = 100 * (pricer().split_s(tried) / pricer().split_s(now) - 1)
    assert percent(attention, "would take ") == pytest.approx(whole, abs=0.06)
    assert any(line.startswith("cpu:2 has no part in mlp") for line in lines)


def test_a_device_without_part_in_the_head() -> None:
    """Only of devices that have part in something else; the rest is left out altogether."""
    lines = reasons(pricer(), split([2, 1, 0], [1024, 512, 0], [4096, 0, 0]), "why", ROOM)
    heads = [line for line in lines if "no part in the head" in line]
    assert [line.split()[0] for line in heads] == ["cpu:1"]


def test_layers_that_differ_are_named() -> None:
    """Every kind of shared block is compared on its own, with the layers that have it."""
    base = split([2, 1, 0], [1024, 512, 0], [4096, 0, 0])
    other = LayerPlan(block("row", [3, 6, 0], []), block("row", [1536, 0, 0], []))
    mixed = msgspec.structs.replace(base, layers=(*base.layers[:3], other))
    lines = [line for line in reasons(pricer(), mixed, "why", ROOM) if "is split by" in line]
    starts = [line.split(")")[0] for line in lines]
    assert starts == [
        "attention is split by row (2:1:0, layers 0-2",
        "attention is split by row (1:2:0, layers 3",
        "mlp is split by row (1024:512:0, layers 0-2",
    ]


def test_one_unit_cannot_be_shared() -> None:
    """With one KV head whose query heads stay together, no unit can move."""
    model = make_model(layers=2, heads=1, kv_heads=1, vocab=1024, mlp=32)
    one = plan_by_hand(model, NAMES[:2], [1, 0], [32, 0], [1024, 0]).split
    lines = reasons(Pricer(model, make_profile([1.0, 0.6]), "bfloat16", WORK), one, "why", ROOM)
    assert "cpu:1 has no part in attention: there is one unit only" in lines
    assert "cpu:1 has no part in mlp: there is one unit only" in lines


def test_what_would_not_fit_is_said_with_what_it_lacks() -> None:
    """A device with a cap of what it holds: more on it would be faster or slower, and does not fit by so much."""
    now, tried = (split([2, 1, 0], [1024, 512, 0], rows) for rows in ([4096, 0, 0], [3072, 1024, 0]))
    caps = tuple(held.total for held in device_bytes(MODEL, now, WORK, "bfloat16"))
    more = device_bytes(MODEL, tried, WORK, "bfloat16")[1].total - caps[1]
    (line,) = [line for line in reasons(pricer(), now, "why", caps) if line.startswith("cpu:1 has no part in the head")]
    assert line.endswith(f"but it does not fit: cpu:1 lacks {binary_bytes(more)}")
