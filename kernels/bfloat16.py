"""bfloat16 for compiled kernels, which have no such type: its bits in uint16 words.

`widened` and `rounded` take either format, so that one kernel serves float32 and bfloat16 memory.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .jit import kernel


@kernel
def widen(word):  # type: ignore[no-untyped-def]
    """bfloat16 bits (uint16) as float32."""
    return np.uint32(np.uint32(word) << np.uint32(16)).view(np.float32)


@kernel
def narrow(value):  # type: ignore[no-untyped-def]
    """float32 as bfloat16 bits (uint16), to nearest, ties to even, as torch rounds; NaN stays NaN."""
    if value != value:
        return np.uint16(0x7FC0)
    word = np.uint64(np.float32(value).view(np.uint32))
    return np.uint16((word + np.uint64(0x7FFF) + (word >> np.uint64(16) & np.uint64(1))) >> np.uint64(16))


def widened(value):  # type: ignore[no-untyped-def]
    """A value of float32 or bfloat16 memory as float32."""
    raise NotImplementedError("for compiled kernels only")


def rounded(value, like):  # type: ignore[no-untyped-def]
    """A float32 value as an array like `like` holds it."""
    raise NotImplementedError("for compiled kernels only")


@overload(widened)
def _widened(value):  # type: ignore[no-untyped-def]
    return (lambda value: widen(value)) if value == types.uint16 else (lambda value: value)


@overload(rounded)
def _rounded(value, like):  # type: ignore[no-untyped-def]
    return (lambda value, like: narrow(value)) if like.dtype == types.uint16 else (lambda value, like: value)
