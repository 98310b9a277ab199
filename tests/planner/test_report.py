"""Tables say who holds what in which layers, and call a tie a tie."""

from __future__ import annotations

import msgspec
import pytest
from plans import block, plan_by_hand
from profiles import make_model

from tpplan.planner.plan import Baseline, LayerPlan, Plan
from tpplan.planner.report import plan_tables, queries_per_kv_head, split_notes
from tpplan.planner.wording import layer_words, listed

MODEL = make_model(layers=6, vocab=4096)
NAMES = ["cpu:0", "cpu:1"]


def even() -> Plan:
    return plan_by_hand(MODEL, NAMES, [2, 1], [1024, 512], [3072, 1024])


def mixed() -> Plan:
    """Layers 0-3 shared, 4-5 on the second device alone."""
    plan = even()
    alone = LayerPlan(block("row", [0, 9], []), block("row", [0, 1536], []))
    uses = [
        msgspec.structs.replace(use, attention_units=heads) for use, heads in zip(plan.device_use, (8, 10), strict=True)
    ]
    return msgspec.structs.replace(plan, layers=(*plan.layers[:4], alone, alone), device_use=tuple(uses))


def test_equal_layers_take_one_table() -> None:
    """One row per device, with the shares of every layer."""
    (title, columns, rows), _ = plan_tables(even())
    assert title == "Split of each of 6 layers: attention by row, MLP by row"
    assert columns[:4] == ("device", "KV heads", "MLP columns", "vocabulary rows")
    assert [row[:4] for row in rows] == [("cpu:0", "2", "1024", "3072"), ("cpu:1", "1", "512", "1024")]


def test_layers_that_differ_are_told_apart() -> None:
    """A row per group of layers and device in it, then vocabulary and memory by device."""
    (_, _, rows), (title, _, ends), _ = plan_tables(mixed())
    assert rows == [
        ("0-3", "cpu:0", "2", "row", "1024", "row"),
        ("", "cpu:1", "1", "row", "512", "row"),
        ("4-5", "cpu:1", "3", "-", "1536", "-"),
    ]
    assert title == "Vocabulary and memory"
    assert [row[:3] for row in ends] == [("cpu:0", "3072", "3072"), ("cpu:1", "1024", "1024")]


def test_one_device_is_named_instead_of_a_strategy() -> None:
    """A block that nobody shares has no strategy worth telling."""
    plan = plan_by_hand(MODEL, NAMES, [0, 3], [1024, 512], [3072, 1024])
    assert plan_tables(plan)[0][0] == "Split of each of 6 layers: attention all on cpu:1, MLP by row"


def test_shared_kv_heads_are_fractions_with_a_note() -> None:
    """Five of nine query heads over three KV heads are 1.67 KV heads, and the cost of that is said."""
    plan = even()
    layer = LayerPlan(block("row", [5, 4], []), plan.layers[0].mlp)
    uses = [
        msgspec.structs.replace(use, attention_units=round(q * 6 / 3, 3))
        for use, q in zip(plan.device_use, (5, 4), strict=True)
    ]
    shared = msgspec.structs.replace(plan, layers=(layer,) * 6, device_use=tuple(uses))
    assert queries_per_kv_head(shared) == 3
    assert [row[1] for row in plan_tables(shared)[0][2]] == ["1.67", "1.33"]
    assert split_notes(shared) == [
        "a fraction of a KV head: its keys and values are cached by every device that reads it"
    ]
    assert split_notes(plan) == []


def test_ways_of_summing_are_told() -> None:
    """A reduce-scatter by its columns, a sum on one device by its name; each phase apart."""
    plan = even()
    attention, mlp = plan.layers[0].attention, plan.layers[0].mlp
    summed = LayerPlan(
        msgspec.structs.replace(attention, prefill_sums=((0, 384), (384, 576))),
        msgspec.structs.replace(mlp, decode_sums=((0, 0), (0, 576))),
    )
    assert split_notes(msgspec.structs.replace(plan, layers=(summed,) * 6)) == [
        "decode: cpu:1 adds up the partial sums of mlp",
        "prefill: cpu:0 and cpu:1 add up 384:192 hidden columns of the partial sums of attention",
    ]


@pytest.mark.parametrize(
    ("baseline_s", "said"),
    [(1.0, "ties with the plan"), (1.003, "ties (+0.3%)"), (1.02, "+2.0%"), (3.0, "+200.0%")],
)
def test_ties_are_called_ties(baseline_s: float, said: str) -> None:
    """Within half a percent a baseline ties; the plan itself is not slower than itself."""
    plan = msgspec.structs.replace(
        even(), objective_s=1.0, baselines={"even": Baseline(True, baseline_s, 9.0), "odd": Baseline(False, None, None)}
    )
    rows = {row[0]: row for row in plan_tables(plan)[-1][2]}
    assert rows["even"][-1] == said
    assert rows["this plan"][-1] == "-"
    assert rows["odd"][1:] == ("does not fit", "-", "-")


def test_numbers_in_words() -> None:
    """Runs of layers, and lists."""
    assert layer_words([0, 1, 2, 3]) == "0-3"
    assert layer_words([0, 2, 3, 9]) == "0, 2-3, 9"
    assert layer_words(list(range(0, 20, 2))) == "10 of 0-18"
    assert [listed(["a", "b", "c"][:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
