"""The largest logit: the lowest id on ties; a NaN beats all numbers, so that it is seen.

A logit and its id become one int64 that sorts as they do, so any order of comparison gives the same answer.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import options, wait

BLOCK = 2048
PARTS = 128


def scratch(device: torch.device | str) -> torch.Tensor:
    """[PARTS] int64, to be allocated once."""
    return torch.empty(PARTS, dtype=torch.int64, device=device)


@triton.jit
def _ranked(value, index):
    """Sorts by value, NaN last, then by falling index; -0 equals 0."""
    bits = (value + 0.0).to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = tl.where(value != value, 0x7FFFFFFF, key)
    return (key.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit(do_not_specialize=["count"])
def _best_of_parts(logits, count, best, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    wait(OVERLAP)
    index = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), -0x8000000000000000, tl.int64)
    for start in range(tl.program_id(0) * BLOCK, count, tl.num_programs(0) * BLOCK):
        at = start + index
        value = tl.load(logits + at, mask=at < count, other=0.0)
        top = tl.maximum(top, tl.where(at < count, _ranked(value, at), -0x8000000000000000))
    tl.store(best + tl.program_id(0), tl.max(top, 0))


@triton.jit(do_not_specialize=["offset"])
def _best(logits, best, offset, best_id, best_value, PARTS: tl.constexpr, OVERLAP: tl.constexpr):
    wait(OVERLAP)
    top = tl.max(tl.load(best + tl.arange(0, PARTS)), 0)
    index = 0x7FFFFFFF - (top & 0x7FFFFFFF)
    tl.store(best_id, index + offset)
    tl.store(best_value, tl.load(logits + index))


def argmax(
    logits: torch.Tensor, offset: int, best_id: torch.Tensor, best_value: torch.Tensor, scratch: torch.Tensor
) -> None:
    """logits: [count] float32; offset: vocabulary id of the first; best_id: [1] int64; best_value: [1] float32;
    scratch: from `scratch`."""
    launch = options(logits)
    _best_of_parts[(PARTS,)](logits, logits.shape[0], scratch, BLOCK=BLOCK, **launch, num_warps=8)
    _best[(1,)](logits, scratch, offset, best_id, best_value, PARTS=PARTS, **launch)
