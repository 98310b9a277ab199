"""A device's whole decode step as one call: a table of instructions that runs without Python's global lock.

This is to CPU devices what a CUDA graph is to GPUs: bound once, replayed per token, collectives inside. An instruction
is a row of int64: opcode, then addresses and sizes. Position, rows and collective base are read from `state`, so the
table never changes. All lanes (threads) of a device run the same table and share out the work. Prefill runs the same
table in stretches: all steps take several rows but LINEAR and ATTENTION, between which it stops.
"""

from __future__ import annotations

import struct

import numpy as np
from numba import carray

from .attention import attend
from .cells import CONCAT as CONCAT
from .cells import SUM as SUM
from .cells import pull_cells, push_cells
from .embed import embed_bf16, embed_f16, embed_f32
from .flagged import pull_flagged, push_flagged
from .grouped import OUTPUTS, TILE, WORDS, embed_part, linear_parts
from .jit import f32, i64, kernel, monotonic_ns, store_release, u16
from .linear import linear_bf16, linear_f16, linear_f32
from .norm import rms_norm
from .rope import rope
from .staging import ARRIVED, wait
from .swiglu import swiglu
from .tile_products import TOKENS

WIDTH = 16
EMBED, NORM, LINEAR, ROPE, ATTENTION, SWIGLU, RESIDUAL, ARGMAX, PUSH, PULL, PUSH_CELLS, PULL_CELLS = range(12)
# Words of `state`. BASE: number of the pass's first collective, or of the pass; the last two only beside GPUs: where
# the numbers of its large exchanges begin, and those of the pass before that had any.
POSITION, ROWS, BASE, BULK, BULK_BEFORE = range(5)


def bits(value: float) -> int:
    """A float64 as the int64 of the same bits, to travel in an instruction."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def table(instructions: list[tuple[int, ...]]) -> np.ndarray:
    """Instructions as the int64 table `[steps, WIDTH]` that `run` takes."""
    tape = np.zeros((len(instructions), WIDTH), dtype=np.int64)
    for row, instruction in zip(tape, instructions, strict=True):
        row[: len(instruction)] = instruction
    return tape


@kernel
def share(size, grain, lane, lanes):  # type: ignore[no-untyped-def]
    """Lane's part of `size` items in multiples of `grain`."""
    grains = (size + grain - 1) // grain
    return min(size, grains * lane // lanes * grain), min(size, grains * (lane + 1) // lanes * grain)


@kernel
def _linear(i, rows, lane, lanes):  # type: ignore[no-untyped-def]
    """[1] x [2] weight [3] bias, 0 if none [4] out [5] inputs [6] outputs [7] format of the weight; of one in parts:
    [8] how many [9] scratch [10] floats of it a lane [11] 1 where one row is wanted, whatever the pass."""
    x = carray(f32(i[1]), (i[5],))
    bias = carray(f32(i[3]), (i[6] if i[3] else 0,))
    out = carray(f32(i[4]), (i[6],))
    begin, end = share(i[6], 16, lane, lanes)
    if i[7] == 0:
        linear_f32(x, carray(f32(i[2]), (i[6], i[5])), bias, out, begin, end)
    elif i[7] == 1:
        linear_bf16(x, carray(u16(i[2]), (i[6], i[5])), bias, out, begin, end)
    elif i[7] == 2:
        linear_f16(x, carray(u16(i[2]), (i[6], i[5])), bias, out, begin, end)
    else:
        _linear_parts(i, 1 if i[11] else rows, bias, lane, lanes)


@kernel
def _linear_parts(i, rows, bias, lane, lanes):  # type: ignore[no-untyped-def]
    parts = carray(i64(i[2]), (i[8], WORDS))
    scratch = carray(f32(i[9] + 4 * lane * i[10]), (i[10],))
    tiles = 0
    for p in range(parts.shape[0]):
        tiles += (parts[p, OUTPUTS] + TILE - 1) // TILE
    begin, end = share(tiles, 1, lane, lanes)
    x, out = carray(f32(i[1]), (rows, i[5])), carray(f32(i[4]), (rows, i[6]))
    for r in range(0, rows, TOKENS):
        linear_parts(x[r : r + TOKENS], parts, bias, out[r : r + TOKENS], begin, end, scratch)


@kernel
def _embed(i, rows, lane, lanes):  # type: ignore[no-untyped-def]
    """[1] table [2] out [3] first token held [4] tokens held [5] width [6] format of the table [7] tokens."""
    tokens, out = carray(i64(i[7]), (rows,)), carray(f32(i[2]), (rows, i[5]))
    begin, end = share(rows, 1, lane, lanes)
    for r in range(begin, end):
        if i[6] == 0:
            embed_f32(tokens[r], carray(f32(i[1]), (i[4], i[5])), i[3], out[r])
        elif i[6] == 1:
            embed_bf16(tokens[r], carray(u16(i[1]), (i[4], i[5])), i[3], out[r])
        elif i[6] == 2:
            embed_f16(tokens[r], carray(u16(i[1]), (i[4], i[5])), i[3], out[r])
        elif i[3] <= tokens[r] < i[3] + i[4]:
            embed_part(carray(i64(i[1]), (WORDS,)), tokens[r] - i[3], out[r])
        else:
            out[r, :] = 0


@kernel
def _norm(i, rows, lane, lanes):  # type: ignore[no-untyped-def]
    """[6] 1 where only the last row is wanted, as row 0 of the output."""
    skipped = rows - 1 if i[6] else 0
    x, out = carray(f32(i[1]), (rows, i[4]))[skipped:], carray(f32(i[3]), (rows, i[4]))
    weight, eps = carray(f32(i[2]), (i[4],)), np.int64(i[5]).view(np.float64)
    begin, end = share(rows - skipped, 1, lane, lanes)
    for r in range(begin, end):
        rms_norm(x[r], weight, eps, out[r])


@kernel
def _rope(i, first, rows, lane, lanes):  # type: ignore[no-untyped-def]
    """[1] qkv [2] cos [3] sin [4] keys [5] values [6] query heads [7] KV heads [8] head_dim [9] capacity [10] q norm,
    0 if none [11] k norm [12] eps [13] format of the cache."""
    shape = (i[7], i[9], i[8])
    if i[13] == 0:
        _rope_into(i, carray(f32(i[4]), shape), carray(f32(i[5]), shape), first, rows, lane, lanes)
    else:
        _rope_into(i, carray(u16(i[4]), shape), carray(u16(i[5]), shape), first, rows, lane, lanes)


@kernel
def _rope_into(i, keys, values, first, rows, lane, lanes):  # type: ignore[no-untyped-def]
    """keys, values: [KV heads, capacity, head_dim]."""
    heads, kv_heads, head_dim, capacity = i[6], i[7], i[8], i[9]
    qkv = carray(f32(i[1]), (rows, heads + 2 * kv_heads, head_dim))
    cos, sin = carray(f32(i[2]), (capacity, head_dim // 2)), carray(f32(i[3]), (capacity, head_dim // 2))
    normed = head_dim if i[10] else 0
    q_norm, k_norm = carray(f32(i[10]), (normed,)), carray(f32(i[11]), (normed,))
    eps = np.int64(i[12]).view(np.float64)
    begin, end = share(rows, 1, lane, lanes)
    for r in range(begin, end):
        at = first + r
        rope(qkv[r], cos[at], sin[at], q_norm, k_norm, eps, keys[:, at], values[:, at])


@kernel
def _attention(i, position, lane, lanes):  # type: ignore[no-untyped-def]
    """[1] q [2] keys [3] values [4] out [5] scores [6] query heads [7] KV heads [8] head_dim [9] capacity [10] window
    [11] query heads to a KV head [12] heads of the first group that others hold [13] format of the cache."""
    shape = (i[7], i[9], i[8])
    if i[13] == 0:
        _attend_heads(i, carray(f32(i[2]), shape), carray(f32(i[3]), shape), position, lane, lanes)
    else:
        _attend_heads(i, carray(u16(i[2]), shape), carray(u16(i[3]), shape), position, lane, lanes)


@kernel
def _attend_heads(i, keys, values, position, lane, lanes):  # type: ignore[no-untyped-def]
    """keys, values: [KV heads, capacity, head_dim]."""
    q, out = carray(f32(i[1]), (i[6], i[8])), carray(f32(i[4]), (i[6], i[8]))
    scores = carray(f32(i[5]), (lanes, i[9]))
    begin, end = share(i[6], 1, lane, lanes)
    for h in range(begin, end):
        kv_head = (i[12] + h) // i[11]
        attend(q[h], keys[kv_head], values[kv_head], out[h], scores[lane], position, i[10])


@kernel
def _swiglu(i, rows, lane, lanes):  # type: ignore[no-untyped-def]
    gate_up, out = carray(f32(i[1]), (rows, 2 * i[3])), carray(f32(i[2]), (rows, i[3]))
    begin, end = share(i[3], 64, lane, lanes)
    for r in range(rows):
        swiglu(gate_up[r], out[r], begin, end)


@kernel
def _residual(i, rows, lane, lanes):  # type: ignore[no-untyped-def]
    """[1] part [2] first wanted value of the hidden state [3] values [4] values of a whole row of the hidden state."""
    part = carray(f32(i[1]), (rows, i[3]))
    begin, end = share(rows, 1, lane, lanes)
    for r in range(begin, end):
        x = carray(f32(i[2] + 4 * r * i[4]), (i[3],))
        for k in range(x.size):
            part[r, k] += x[k]


@kernel
def _argmax(i):  # type: ignore[no-untyped-def]
    logits = carray(f32(i[1]), (i[2],))
    best = 0
    for k in range(logits.size):
        if not logits[k] <= logits[best]:  # a NaN wins, so that the host sees it
            best = k
            if logits[k] != logits[k]:
                break
    carray(i64(i[4]), (1,))[0] = best + i[3]
    carray(f32(i[5]), (1,))[0] = logits[best]


@kernel
def _push(i, base, rows, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """[1] part [2] slot [3] values a row [4] site [5] pushed word [6] site that last used the slot, -1 if none
    [7] table of its readers' pulled words [8] how many."""
    readers = carray(i64(i[7]), (i[8],))
    for r in range(readers.size if i[6] >= 0 else 0):
        outcome = wait(readers[r], base + i[6], abort, deadline_ns)
        if outcome != ARRIVED:
            trouble[2] = r
            return outcome
    part, slot = carray(f32(i[1]), (rows * i[3],)), carray(f32(i[2]), (rows * i[3],))
    for k in range(part.size):
        slot[k] = part[k]
    store_release(i[5], base + i[4])
    return ARRIVED


@kernel
def _join(address, stride, out, first):  # type: ignore[no-untyped-def]
    """out: [rows, values]; becomes the part at `address`, rows `stride` values apart, or has it added."""
    for r in range(out.shape[0]):
        part = carray(f32(address + 4 * r * stride), (out.shape[1],))
        for k in range(out.shape[1]):
            out[r, k] = part[k] if first else out[r, k] + part[k]


@kernel
def _pull(i, base, rows, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """[1] out [2] site [3] table of (pushed word or 0 for this device, part, values a row) [4] producers
    [5] SUM or CONCAT [6] pulled word [7] values of a row of the output [8] values of a row of the parts, 0 where no
    more than are read."""
    parts = carray(i64(i[3]), (i[4], 3))
    out, at = carray(f32(i[1]), (rows, i[7])), 0
    for p in range(parts.shape[0]):
        if parts[p, 0]:
            outcome = wait(parts[p, 0], base + i[2], abort, deadline_ns)
            if outcome != ARRIVED:
                trouble[2] = p
                return outcome
        values = parts[p, 2]
        _join(parts[p, 1], i[8] or values, out[:, at : at + values], p == 0 or i[5] == CONCAT)
        at += values if i[5] == CONCAT else 0
    store_release(i[6], base + i[2])
    return ARRIVED


@kernel
def _shared(i, state, lane, lanes):  # type: ignore[no-untyped-def]
    """Steps whose work all lanes share out; False for any other. Attention and products take one row, but products
    with weights in parts any number.
    """
    op, position, rows = i[0], state[POSITION], state[ROWS]
    if op == LINEAR:
        _linear(i, rows, lane, lanes)
    elif op == ATTENTION:
        _attention(i, position, lane, lanes)
    elif op == SWIGLU:
        _swiglu(i, rows, lane, lanes)
    elif op == NORM:
        _norm(i, rows, lane, lanes)
    elif op == ROPE:
        _rope(i, position, rows, lane, lanes)
    elif op == RESIDUAL:
        _residual(i, rows, lane, lanes)
    elif op == EMBED:
        _embed(i, rows, lane, lanes)
    else:
        return False
    return True


@kernel
def _among_gpus(i, state, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """[7] most rows that go by cells [8] operands of the exchange of more."""
    rows = state[ROWS]
    if rows <= i[7]:
        if i[0] == PULL_CELLS:
            return pull_cells(i, state[BASE], rows, abort, deadline_ns, trouble)
        push_cells(i, state[BASE], rows)
        return ARRIVED
    more = carray(i64(i[8]), (WIDTH,))
    if i[0] == PULL_CELLS:
        return pull_flagged(more, state[BULK], rows, abort, deadline_ns, trouble)
    return push_flagged(more, state[BULK], state[BULK_BEFORE], rows, abort, deadline_ns, trouble)


@kernel
def _alone(i, state, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """Steps that one lane runs."""
    if i[0] == PUSH:
        return _push(i, state[BASE], state[ROWS], abort, deadline_ns, trouble)
    if i[0] == PULL:
        return _pull(i, state[BASE], state[ROWS], abort, deadline_ns, trouble)
    if i[0] == PUSH_CELLS or i[0] == PULL_CELLS:
        return _among_gpus(i, state, abort, deadline_ns, trouble)
    if i[0] == ARGMAX:
        _argmax(i)
    return ARRIVED


@kernel
def _meet(arrived, lane, ticket, abort, deadline_ns):  # type: ignore[no-untyped-def]
    """Barrier of a device's lanes. arrived: [lanes, 8] words, one line each."""
    first = arrived.ctypes.data
    store_release(first + 64 * lane, ticket)
    for other in range(arrived.shape[0]):
        outcome = wait(first + 64 * other, ticket, abort, deadline_ns)
        if outcome != ARRIVED:
            return outcome
    return ARRIVED


@kernel
def run(tape, begin, end, state, arrived, lane, abort, deadline_ns, ends_ns, trouble):  # type: ignore[no-untyped-def]
    """Runs instructions [begin, end) as lane `lane`; ARRIVED, TIMED_OUT or ABORTED.

    tape: [steps, WIDTH]; state: [5], or [3] without GPUs; arrived: [lanes, 8]; ends_ns: [steps], when each step ended;
    trouble: [3], written on failure: outcome, step, index of the peer waited for or -1 for another lane.
    """
    lanes = arrived.shape[0]
    ticket = arrived[lane, 0]
    for step in range(begin, end):
        i = tape[step]
        outcome = ARRIVED
        if not _shared(i, state, lane, lanes) and lane == 0:
            outcome = _alone(i, state, abort, deadline_ns, trouble)
        if lanes > 1 and outcome == ARRIVED:
            ticket += 1
            outcome = _meet(arrived, lane, ticket, abort, deadline_ns)
            trouble[2] = -1
        if lane == 0:
            ends_ns[step] = monotonic_ns()
        if outcome != ARRIVED:
            trouble[0], trouble[1] = outcome, step
            return outcome
    return ARRIVED
