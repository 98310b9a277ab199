"""What quantised weights are said to cost: bits, units and act-order's tables, as worked out by hand."""

from __future__ import annotations

from plans import block, ranges
from profiles import make_model, make_profile, with_format

from tpplan.planner.model_spec import Quant
from tpplan.planner.plan import LayerPlan, Split, Workload
from tpplan.planner.price import Pricer
from tpplan.planner.quant_words import quantised_words

MODEL = make_model(layers=4, hidden=256, heads=8, kv_heads=4, head_dim=32, mlp=512, vocab=1024)


def words(quant: Quant | None, strategy: str, dtype: str = "int4") -> str:
    """Of two devices with heads 5:3 and MLP columns 256:256."""
    import msgspec

    model = msgspec.structs.replace(MODEL, quant=quant)
    profile = with_format(make_profile([1.0, 1.0]), "int4", 0.5)
    layer = LayerPlan(block(strategy, [5, 3], [128, 128]), block("row", [256, 256], []))
    split = Split(ranges([512, 512]), (layer,) * 4, ranges([512, 512]))
    return "\n".join(quantised_words(Pricer(model, profile, dtype, Workload(), "float32"), split))  # type: ignore[arg-type]


def test_act_order_by_row_costs_the_scales_of_others() -> None:
    """Groups of 64: of 4 groups 160 inputs have two, 96 have one; the others' scales and a group's number an input."""
    found = words(Quant(4, 64, act_order=True), "row")
    for inputs, own, name in ((160, 2, "cpu:0"), (96, 1, "cpu:1")):
        extra = 4 * (4 * (4 - own) * 256 + 4 * inputs)
        assert f"{extra / 1024:.2f} KiB and " in found
        assert f"a token on {name}" in found
    assert "down_proj's order of inputs is folded into gate and up" in found


def test_act_order_by_column_costs_nothing_more() -> None:
    found = words(Quant(4, 64, act_order=True), "column")
    assert "reads their scales" not in found
    assert "costs nothing" in found


def test_bits_and_units() -> None:
    """Groups of 128 with 32 bits each, and columns in whole groups; floats are not spoken of."""
    found = words(Quant(4, 128), "row")
    assert "4.25 bits in qkv, o_proj, gate_up and down_proj" in found
    assert "cut 128 at a time, not 32" in found
    assert "act-order" not in found
    assert words(None, "row", "float32") == ""
