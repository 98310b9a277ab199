"""A CPU device's side of the exchanges with GPUs: cells of three float32 payloads and the epoch of their pass.

Layout and rules are those of `kernels/gpu/slots.py`. A cell is two 64-bit words here: the one with the epoch is written
after the other and read before it, so that on x86, which keeps both orders, whoever sees the epoch sees all payloads.
Knows no torch and no devices.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from .jit import f32, i64, kernel, load_acquire, monotonic_ns, sched_yield, store_release, u32
from .staging import ABORTED, ARRIVED, SPINS_BEFORE_YIELD, TIMED_OUT

CELL_BYTES, PAYLOADS = 16, 3
SUM, CONCAT = range(2)


@kernel
def push_cells(i, epoch, rows):  # type: ignore[no-untyped-def]
    """[1] part, float32 [rows, values] [2] the producer's slot [3] values a row [4] bytes to the slot's other copy."""
    values = i[3]
    cells = (values + PAYLOADS - 1) // PAYLOADS
    for r in range(rows):
        part = carray(u32(i[1] + 4 * r * values), (values,))
        at = i[2] + (epoch & 1) * i[4] + CELL_BYTES * r * cells
        for cell in range(cells):
            first, left = PAYLOADS * cell, values - PAYLOADS * cell
            second = np.int64(part[first + 1]) if left > 1 else np.int64(0)
            third = np.int64(part[first + 2]) if left > 2 else np.int64(0)
            store_release(at, np.int64(part[first]) | (second << 32))
            store_release(at + 8, third | (epoch << 32))
            at += CELL_BYTES


@kernel
def wait_cell(address, epoch, abort, deadline_ns):  # type: ignore[no-untyped-def]
    """Until the cell at `address` is of pass `epoch`: ARRIVED, ABORTED or TIMED_OUT."""
    spins = 0
    while load_acquire(address + 8) >> 32 != epoch:
        spins += 1
        if spins >= SPINS_BEFORE_YIELD:
            if load_acquire(abort) != 0:
                return ABORTED
            if monotonic_ns() > deadline_ns:
                return TIMED_OUT
            sched_yield()
    return ARRIVED


@kernel
def _payload(word, half):  # type: ignore[no-untyped-def]
    return np.uint32((word >> (32 * half)) & 0xFFFFFFFF).view(np.float32)


@kernel
def _join_cells(address, begin, out, epoch, first, abort, deadline_ns):  # type: ignore[no-untyped-def]
    """out: [values]; becomes values `begin` on of the row of cells at `address`, or has them added. Waits for each."""
    end = begin + out.size
    for cell in range(begin // PAYLOADS, (end + PAYLOADS - 1) // PAYLOADS):
        at = address + CELL_BYTES * cell
        outcome = wait_cell(at, epoch, abort, deadline_ns)
        if outcome != ARRIVED:
            return outcome
        high, low = load_acquire(at + 8), load_acquire(at)
        for k in range(PAYLOADS):
            column = PAYLOADS * cell + k - begin
            if 0 <= column < out.size:
                value = _payload(high, 0) if k == 2 else _payload(low, k)
                out[column] = value if first else out[column] + value
    return ARRIVED


@kernel
def pull_cells(i, epoch, rows, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """[1] out [2] table of (1 if cells, own part or first row of cells, first wanted value, values wanted of a row,
    values of a whole row) [3] producers [4] SUM or CONCAT [5] values of a row of the output [6] bytes to the other copy
    of the slots."""
    parts = carray(i64(i[2]), (i[3], 5))
    out, at = carray(f32(i[1]), (rows, i[5])), 0
    for p in range(parts.shape[0]):
        where, begin, values, whole = parts[p, 1], parts[p, 2], parts[p, 3], parts[p, 4]
        first = p == 0 or i[4] == CONCAT
        for r in range(rows):
            target = out[r, at : at + values]
            if parts[p, 0]:
                row = where + (epoch & 1) * i[6] + CELL_BYTES * r * ((whole + PAYLOADS - 1) // PAYLOADS)
                outcome = _join_cells(row, begin, target, epoch, first, abort, deadline_ns)
                if outcome != ARRIVED:
                    trouble[2] = p
                    return outcome
            else:
                own = carray(f32(where + 4 * (r * whole + begin)), (values,))
                for k in range(values):
                    target[k] = own[k] if first else target[k] + own[k]
        at += values if i[4] == CONCAT else 0
    return ARRIVED
