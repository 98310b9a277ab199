"""A CPU device's side of the exchanges with GPUs: words of 4 payload bytes and the epoch of the pass that wrote them.

Layout and rules are those of `kernels/gpu/slots.py`; the payload is always a float32. Knows no torch and no devices.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from .jit import f32, i64, kernel, load_acquire, monotonic_ns, sched_yield, u32
from .staging import ABORTED, ARRIVED, SPINS_BEFORE_YIELD, TIMED_OUT

SUM, CONCAT = range(2)


@kernel
def push_words(i, epoch, rows):  # type: ignore[no-untyped-def]
    """[1] part, float32 [rows, values] [2] the producer's slot [3] values a row [4] bytes to the slot's other copy."""
    part = carray(u32(i[1]), (rows * i[3],))
    slot = carray(i64(i[2] + (epoch & 1) * i[4]), (rows * i[3],))
    stamp = epoch << 32
    for k in range(part.size):
        slot[k] = stamp | np.int64(part[k])


@kernel
def wait_word(address, epoch, abort, deadline_ns):  # type: ignore[no-untyped-def]
    """Until the word at `address` is of pass `epoch`: ARRIVED, ABORTED or TIMED_OUT."""
    spins = 0
    while load_acquire(address) >> 32 != epoch:
        spins += 1
        if spins >= SPINS_BEFORE_YIELD:
            if load_acquire(abort) != 0:
                return ABORTED
            if monotonic_ns() > deadline_ns:
                return TIMED_OUT
            sched_yield()
    return ARRIVED


@kernel
def _join_words(address, out, epoch, first, abort, deadline_ns):  # type: ignore[no-untyped-def]
    """out: [values]; becomes the payload of the words from `address` on, or has it added. Waits for each."""
    for k in range(out.size):
        word = load_acquire(address + 8 * k)
        if word >> 32 != epoch:
            outcome = wait_word(address + 8 * k, epoch, abort, deadline_ns)
            if outcome != ARRIVED:
                return outcome
            word = load_acquire(address + 8 * k)
        value = np.uint32(word & 0xFFFFFFFF).view(np.float32)
        out[k] = value if first else out[k] + value
    return ARRIVED


@kernel
def pull_words(i, epoch, rows, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """[1] out [2] table of (1 if words, where: own part or first wanted word, values a row, values from row to row)
    [3] producers [4] SUM or CONCAT [5] values of a row of the output [6] bytes to the other copy of the slots."""
    parts = carray(i64(i[2]), (i[3], 4))
    out, at = carray(f32(i[1]), (rows, i[5])), 0
    for p in range(parts.shape[0]):
        is_words, where, values, stride = parts[p, 0], parts[p, 1], parts[p, 2], parts[p, 3]
        first = p == 0 or i[4] == CONCAT
        for r in range(rows):
            target = out[r, at : at + values]
            if is_words:
                address = where + (epoch & 1) * i[6] + 8 * r * stride
                outcome = _join_words(address, target, epoch, first, abort, deadline_ns)
                if outcome != ARRIVED:
                    trouble[2] = p
                    return outcome
            else:
                own = carray(f32(where + 4 * r * stride), (values,))
                for k in range(values):
                    target[k] = own[k] if first else target[k] + own[k]
        at += values if i[4] == CONCAT else 0
    return ARRIVED
