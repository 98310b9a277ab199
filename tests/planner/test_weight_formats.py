"""Bytes of weights in every format against those of real checkpoints, worked out by hand."""

from __future__ import annotations

import pytest
from profiles import make_model

from tpplan.planner.memory import Sizes, device_bytes
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import Quant
from tpplan.planner.plan import BlockPlan, LayerPlan, Split, Workload
from tpplan.planner.weight_formats import (
    bytes_per_weight,
    check_dtype,
    group_size,
    matrix_bytes,
    mlp_unit,
    native_dtype,
    vocabulary_dtype,
)

PLAIN = make_model()


def quantised(bits: int, group: int, act_order: bool = False):  # type: ignore[no-untyped-def]
    return make_model(quant=Quant(bits, group, act_order))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bits", "group", "expected"),
    [
        (4, 128, 4096 * 11008 // 2 + 4096 * 11008 // 128 * (2 + 2)),
        (4, 32, 4096 * 11008 // 2 + 4096 * 11008 // 32 * (2 + 2)),
        (8, 128, 4096 * 11008 + 4096 * 11008 // 128 * (2 + 2)),
        (8, 64, 4096 * 11008 + 4096 * 11008 // 64 * (2 + 2)),
    ],
)
def test_a_gptq_matrix(bits: int, group: int, expected: int) -> None:
    """Llama 2 7B's gate: packed weights, and for each group of inputs of each output a 16-bit scale and minimum."""
    model, dtype = quantised(bits, group), f"int{bits}"
    assert matrix_bytes(model, dtype, 4096 * 11008) == expected  # type: ignore[arg-type]
    assert bytes_per_weight(model, dtype) * 4096 * 11008 == expected  # type: ignore[arg-type]


def test_a_whole_checkpoint() -> None:
    """Llama 2 7B in 4 bits of groups of 128 with act-order, on one device: seven matrices a layer, 16-bit tables."""
    model = load_model("examples/llama-2-7b-int4-actorder.json")
    layer = LayerPlan(BlockPlan("row", ((0, 32),)), BlockPlan("row", ((0, 11008),)))
    split = Split(((0, 32000),), (layer,) * 32, ((0, 32000),))
    weights = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    packed = weights // 2 + weights // 128 * 4
    norms, tables = 4 * 4096 * (2 * 32 + 1), 2 * 2 * 32000 * 4096
    assert device_bytes(model, split, Workload(), "int4")[0].weights == packed + norms + tables


def test_what_act_order_adds_to_a_share() -> None:
    """Half of the heads of an output projection: half of the weights, but all scales, and for each row its group."""
    ordered, plain = (load_model(f"examples/llama-2-7b-int4{suffix}.json") for suffix in ("-actorder", ""))
    halves = LayerPlan(BlockPlan("row", ((0, 16), (16, 32))), BlockPlan("row", ((0, 5504), (5504, 11008))))
    split = Split(((0, 32000), (32000, 32000)), (halves,) * 32, ((0, 32000), (32000, 32000)))
    more, less = (device_bytes(model, split, Workload(), "int4")[1].weights for model in (ordered, plain))
    groups, rows = 4096 // 128, 16 * 128
    assert more - less == 32 * (4 * (groups - groups // 2) * 4096 + 4 * rows)


def test_parts_round_up_and_whole_groups_add_up() -> None:
    """A part of a group takes whole bytes; parts that are whole groups take what the whole takes."""
    model = quantised(4, 128)
    assert [matrix_bytes(model, "int4", n) for n in (0, 1, 127, 128)] == [0, 1, 68, 68]
    for groups in (1, 7, 64):
        one, rest = (matrix_bytes(model, "int4", n * 128) for n in (groups, 100 - groups))
        assert one + rest == matrix_bytes(model, "int4", 100 * 128)


@pytest.mark.parametrize(
    ("quant", "dtype", "unit"),
    [
        (None, "float32", 32),
        (None, "int4", 128),
        (Quant(4, 128), "int4", 128),
        (Quant(4, 48), "int4", 96),
        (Quant(4, 16), "int4", 32),
        (Quant(4, 128), "bfloat16", 32),
    ],
)
def test_mlp_columns_are_cut_between_groups(quant: Quant | None, dtype: str, unit: int) -> None:
    """Whole kernel tiles and whole groups of down_proj; groups count only where weights are held quantised."""
    assert mlp_unit(make_model(quant=quant), dtype) == unit  # type: ignore[arg-type]


def test_formats_of_models_and_tables() -> None:
    """A quantised model stays as it is stored; tables of a quantised model are in 16 bits."""
    assert [native_dtype(PLAIN, gpus) for gpus in (False, True)] == ["float32", "bfloat16"]
    assert [native_dtype(quantised(bits, 64), True) for bits in (4, 8)] == ["int4", "int8"]
    assert native_dtype(quantised(4, 64), False) == "native"
    assert [group_size(model) for model in (PLAIN, quantised(4, 64))] == [128, 64]
    assert [vocabulary_dtype(dtype) for dtype in ("int4", "int8", "float32")] == ["bfloat16", "bfloat16", "float32"]
    assert Sizes(quantised(4, 64), Workload(), "int4").vocabulary(10) == 10 * 576 * 2


def test_another_number_of_bits_is_refused() -> None:
    """4 bits cannot be had from 8, nor the other way; floats can."""
    for bits, dtype in ((4, "int8"), (8, "int4")):
        with pytest.raises(ValueError, match=f"stored in {bits} bits: use --dtype native, int{bits}"):
            check_dtype(quantised(bits, 128), dtype)  # type: ignore[arg-type]
    check_dtype(quantised(4, 128), "bfloat16")
    check_dtype(PLAIN, "int4")
