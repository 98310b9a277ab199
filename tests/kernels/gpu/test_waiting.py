"""The kernels of the collectives, compiled for every architecture without a GPU."""

from __future__ import annotations

import re

import pytest

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from tpplan.kernels.gpu import bulk, exchange, handover, waiting  # noqa: E402

ARCHITECTURES = [75, 80, 86, 89, 90, 120]
ADDRESSES = ("base", "data", "flags", "pulled", "abort", "trouble", "results")
POINTERS = {"scaled": "*bf16", "control": "*i32", "done": "*i32", "begins": "*i32", "best_id": "*i64", "token": "*i64"}
FLOATS = ("part", "carry", "out", "residual", "weight", "squares", "best_value")


def aligned(name: str, kind: str) -> bool:
    """What is a multiple of 16 when a model runs: pointers, strides, slots, spans."""
    return kind.startswith("*") or name.endswith(("_stride", "_step")) or name in ("data", "begin", "end")


def ptx(kernel, architecture: int, **constants: object) -> str:
    types = dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(ADDRESSES, "i64") | POINTERS
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    sixteens = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if aligned(n, signature[n])}
    source = ASTSource(kernel, signature, constants, sixteens)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": 4}).asm["ptx"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("wire", "values"), [(tl.bfloat16, 2), (tl.float32, 1)])
def test_a_sum_polls_all_peers_in_one_loop_with_whole_cells(architecture, wire, values) -> None:
    wait, constraints = waiting.wait_cells_asm((0, 2))
    text = ptx(
        exchange.sum_kernel, architecture, WAIT=wait, CONSTRAINTS=constraints, PAYLOADS=(tl.int32,) * 6, PRODUCERS=3,
        OWN=1, PULLS=True, PUSHES=True, WIRE=wire, VALUES=values, BLOCK=128,
        OVERLAP=architecture >= 90,
    )  # fmt: skip
    assert_polls(text, 2)
    assert text.count("st.relaxed.sys.global.b128 [%rd") == 1, "one push of a cell"
    assert text.count("st.relaxed.sys.global.b64 [%rd") == 1, "one trouble word"
    assert "%globaltimer" in text


def assert_polls(text: str, cells: int) -> None:
    """So many whole cells, asked for before any is looked at."""
    polls = [m.start() for m in re.finditer(r"ld\.relaxed\.sys\.global\.b128 cell\d", text)]
    assert len(polls) == cells
    assert polls[-1] < text.index("mov.b128 {low, high}, cell0", polls[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_concatenation_polls_one_producer(architecture) -> None:
    wait, constraints = waiting.wait_cells_asm((0,))
    text = ptx(
        exchange.concat_kernel, architecture, WAIT=wait, CONSTRAINTS=constraints, WIDTHS=(576, 300, 12),
        SLOT_CELLS=(0, 96, 152), OWN=1, PULLS=True, PUSHES=True, WIRE=tl.bfloat16, VALUES=2, BLOCK=128,
        OVERLAP=architecture >= 90,
    )  # fmt: skip
    assert_polls(text, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hand_over_waits_for_value_and_id_in_one_cell(architecture) -> None:
    wait, constraints = waiting.wait_cells_asm((0,))
    text = ptx(
        handover.handover_kernel, architecture, WAIT=wait, CONSTRAINTS=constraints, PRODUCERS=3, OWN=1, PULLS=True,
        PUSHES=True, SLOT_CELLS=8, RING=64,
    )  # fmt: skip
    assert_polls(text, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("concat", [False, True])
def test_bulk_flags_follow_a_fence_and_are_acquired(architecture, concat) -> None:
    wait, constraints = waiting.wait_flags_asm((0, 2))
    held, _ = waiting.wait_flags_asm((0, 2), reached=True)
    text = ptx(
        bulk.bulk_kernel, architecture, READERS_WAIT=held, WAIT=wait, CONSTRAINTS=constraints, DEVICES=(0, 1, 2),
        WIDTHS=(576,) * 3, DEVICE=1, OWN=1, PUSHERS=16, PULLERS=16, WIRE=tl.bfloat16, TILE=2048, LINE=128,
        CONCAT=concat, PUSHES=True, PULLS=True,
    )  # fmt: skip
    assert re.search(r"bar\.sync(?:(?!st\.global).)*?fence\.acq_rel\.sys;\s*st\.relaxed\.sys\.global\.b64", text, re.S)
    assert len(re.findall(r"ld\.acquire\.sys\.global\.b64", text)) >= 4
    assert "ld.volatile.global.v4.b32" in text
    assert "ld.volatile.global.b16" not in text
    assert re.search(r"st\.global\.v4\.b32", text)
