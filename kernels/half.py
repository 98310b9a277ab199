"""float16 for compiled kernels, which have no such type: its bits in uint16 words."""

from __future__ import annotations

import numpy as np

from .jit import kernel


@kernel
def half(word):  # type: ignore[no-untyped-def]
    """float16 bits (uint16) of a finite value as float32, exactly; in integers, which every vector unit has."""
    bits = np.uint32(word)
    moved = (bits & np.uint32(0x7FFF)) << np.uint32(13) | (bits & np.uint32(0x8000)) << np.uint32(16)
    return np.uint32(moved).view(np.float32) * np.float32(2.0**112)
