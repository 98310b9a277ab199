"""A CPU device's side of large exchanges with GPUs: whole rows in host memory, a flag for every chunk of them.

Layout, numbers and rules are those of `kernels/gpu/bulk.py`; values are always float32. A flag is a 64-bit word whose
upper half is a number of 32 bits. Knows no torch and no devices.
"""

from __future__ import annotations

from numba import carray

from .cells import CONCAT
from .jit import f32, i64, kernel, store_release
from .staging import ARRIVED, wait

LINE_BYTES = 128


@kernel
def push_flagged(i, base, base_before, rows, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """[0] part, float32 [rows, values] [1] the producer's slot [2] its flags [3] values a row [4] rows a chunk [5] the
    exchange's place in the pass [6] that of the one before in this slot [7] 1 if that was in the pass before [8] words
    of those who read it [9] how many."""
    readers = carray(i64(i[8]), (i[9],))
    before = (base_before if i[7] else base) + i[6]
    for r in range(readers.size):
        outcome = wait(readers[r], before << 32, abort, deadline_ns)
        if outcome != ARRIVED:
            trouble[2] = r
            return outcome
    for first in range(0, rows, i[4]):
        begin, end = first * i[3], min(rows, first + i[4]) * i[3]
        part, slot = carray(f32(i[0] + 4 * begin), (end - begin,)), carray(f32(i[1] + 4 * begin), (end - begin,))
        for k in range(part.size):
            slot[k] = part[k]
        store_release(i[2] + first // i[4] * LINE_BYTES, (base + i[5]) << 32)
    return ARRIVED


@kernel
def pull_flagged(i, base, rows, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """[0] out [1] table of (flags or 0 for this device's part, where it is, first wanted value, values wanted of a row,
    values of a whole row) [2] producers [3] SUM or CONCAT [4] values of a row of the output [5] rows a chunk [6] the
    exchange's place in the pass [7] this device's word for producers."""
    parts = carray(i64(i[1]), (i[2], 5))
    out = carray(f32(i[0]), (rows, i[4]))
    for first in range(0, rows, i[5]):
        end, at = min(rows, first + i[5]), 0
        for p in range(parts.shape[0]):
            if parts[p, 0]:
                flag = parts[p, 0] + first // i[5] * LINE_BYTES
                outcome = wait(flag, (base + i[6]) << 32, abort, deadline_ns)
                if outcome != ARRIVED:
                    trouble[2] = p
                    return outcome
            begin, values, whole = parts[p, 2], parts[p, 3], parts[p, 4]
            for r in range(first, end):
                part, target = carray(f32(parts[p, 1] + 4 * (r * whole + begin)), (values,)), out[r, at : at + values]
                for k in range(values):
                    target[k] = part[k] if p == 0 or i[3] == CONCAT else target[k] + part[k]
            at += values if i[3] == CONCAT else 0
    store_release(i[7], (base + i[6]) << 32)
    return ARRIVED
