"""What launches and kernels here share: programmatic dependent launch, tile sizes, the deferred RMSNorm scale.

Programmatic dependent launch (compute capability 9.0 up): a kernel starts while the one before it on its stream drains.
Every kernel calls `wait` before its first read or write of anything but weights, so order stays that of the stream;
weights are read before that, so what writes them must have been synchronised with before the first such launch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@lru_cache
def _overlaps(index: int) -> bool:
    return torch.cuda.get_device_capability(index) >= (9, 0)


def options(tensor: torch.Tensor) -> dict[str, bool]:
    """Launch arguments that let a kernel start before the last one ends, where `tensor`'s device can."""
    if tensor.is_cuda and _overlaps(tensor.device.index):
        return {"OVERLAP": True, "launch_pdl": True}
    return {"OVERLAP": False}


@lru_cache
def _architecture(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def architecture(tensor: torch.Tensor) -> int:
    """Compute capability of `tensor`'s device, 90 for 9.0; Hopper's off a GPU."""
    return _architecture(tensor.device.index) if tensor.is_cuda else 90


@lru_cache
def _shared_bytes(index: int) -> int:
    return triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]


def shared_bytes(tensor: torch.Tensor) -> int:
    """Shared memory that a program may take; off a GPU, the least that any supported one has."""
    return _shared_bytes(tensor.device.index) if tensor.is_cuda else 65536


def tile(count: int, least: int = 1, most: int = 1 << 20) -> int:
    """The power of two that holds `count`, within [least, most]."""
    return max(least, min(most, triton.next_power_of_2(count)))


def row_stride(tensor: torch.Tensor | None) -> int:
    """Values from a row to the next; 0 for no tensor."""
    return 0 if tensor is None else tensor.stride(0)


@triton.jit
def wait(OVERLAP: tl.constexpr):
    """Lets the next kernel start, then waits for the end of the last one."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def inverse_rms(squares, row, parts, width, eps, PARTS: tl.constexpr):
    """1 / sqrt(sum(squares[row]) / width + eps); squares: [rows, parts] float32."""
    at = tl.arange(0, PARTS)
    total = tl.sum(tl.load(squares + row * parts + at, mask=at < parts, other=0.0), 0)
    return 1.0 / tl.sqrt(total / width + eps)
