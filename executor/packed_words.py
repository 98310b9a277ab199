"""Numbers of a few bits in 32-bit words, as GPTQ, AWQ and compressed-tensors pack them. Knows bits only."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Which nibble of a word holds each of eight neighbours in AWQ's gemm packing."""


def word_span(begin: int, end: int, bits: int) -> tuple[int, int]:
    """The words that hold numbers [begin, end) of a line."""
    return begin * bits // 32, -(-end * bits // 32)


def unpacked(words: Array, numbers: Array, bits: int, first_word: int = 0) -> Array:
    """Those numbers of each line: uint32 [words, lines] -> uint8 [numbers, lines].

    A line is a stream of bits, low ones first, that begins at bit 0 of word 0; `words` begin with `first_word`.
    """
    at = numbers.astype(np.int64) * bits
    word, shift = at // 32 - first_word, (at % 32).astype(np.uint32)[:, None]
    values = words[word] >> shift
    if 32 % bits:  # some lie across two words
        over = np.minimum(word + 1, len(words) - 1)
        values |= np.where(shift > 32 - bits, words[over] << (np.uint32(32) - shift) % 32, 0).astype(np.uint32)
    return (values & np.uint32(2**bits - 1)).astype(np.uint8)


def awq_unpacked(words: Array, numbers: Array, first_word: int = 0) -> Array:
    """As `unpacked` for the order of AWQ's gemm packing: uint32 [words, lines] -> uint8 [numbers, lines]."""
    shift = (4 * AWQ_ORDER[numbers % 8]).astype(np.uint32)[:, None]
    return (words[numbers // 8 - first_word] >> shift & np.uint32(15)).astype(np.uint8)
