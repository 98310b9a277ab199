"""A device's whole decode step as one call: a table of instructions that runs without Python's global lock.

This is to CPU devices what a CUDA graph is to GPUs: bound once, replayed per token, collectives inside. An instruction
is a row of int64: opcode, then addresses and sizes. Position, token and collective base are read from `state`, so the
table never changes. All lanes (threads) of a device run the same table and share out the work of the large steps.
"""

from __future__ import annotations

import struct

import numpy as np
from numba import carray

from .attention import attend
from .embed import embed_bf16, embed_f32
from .jit import f32, i64, kernel, monotonic_ns, store_release, u16
from .linear import linear_bf16, linear_f32
from .norm import rms_norm
from .rope import rope
from .staging import ARRIVED, wait
from .swiglu import swiglu

WIDTH = 16
EMBED, NORM, LINEAR, ROPE, ATTENTION, SWIGLU, RESIDUAL, ARGMAX, PUSH, PULL = range(10)
POSITION, TOKEN, BASE = range(3)  # words of `state`
SUM, CONCAT = range(2)


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
def _linear(i, lane, lanes):  # type: ignore[no-untyped-def]
    x = carray(f32(i[1]), (i[5],))
    bias = carray(f32(i[3]), (i[6] if i[3] else 0,))
    out = carray(f32(i[4]), (i[6],))
    begin, end = share(i[6], 16, lane, lanes)
    if i[7] == 0:
        linear_f32(x, carray(f32(i[2]), (i[6], i[5])), bias, out, begin, end)
    else:
        linear_bf16(x, carray(u16(i[2]), (i[6], i[5])), bias, out, begin, end)


@kernel
def _embed(i, token):  # type: ignore[no-untyped-def]
    out = carray(f32(i[2]), (i[5],))
    if i[6] == 0:
        embed_f32(token, carray(f32(i[1]), (i[4], i[5])), i[3], out)
    else:
        embed_bf16(token, carray(u16(i[1]), (i[4], i[5])), i[3], out)


@kernel
def _norm(i):  # type: ignore[no-untyped-def]
    x, weight, out = carray(f32(i[1]), (i[4],)), carray(f32(i[2]), (i[4],)), carray(f32(i[3]), (i[4],))
    rms_norm(x, weight, np.int64(i[5]).view(np.float64), out)


@kernel
def _rope(i, position):  # type: ignore[no-untyped-def]
    heads, kv_heads, head_dim, capacity = i[6], i[7], i[8], i[9]
    qkv = carray(f32(i[1]), (heads + 2 * kv_heads, head_dim))
    cos = carray(f32(i[2]), (capacity, head_dim // 2))[position]
    sin = carray(f32(i[3]), (capacity, head_dim // 2))[position]
    keys = carray(f32(i[4]), (kv_heads, capacity, head_dim))[:, position]
    values = carray(f32(i[5]), (kv_heads, capacity, head_dim))[:, position]
    normed = head_dim if i[10] else 0
    q_norm, k_norm = carray(f32(i[10]), (normed,)), carray(f32(i[11]), (normed,))
    rope(qkv, cos, sin, q_norm, k_norm, np.int64(i[12]).view(np.float64), keys, values)


@kernel
def _attention(i, position, lane, lanes):  # type: ignore[no-untyped-def]
    heads, kv_heads, head_dim, capacity = i[6], i[7], i[8], i[9]
    q = carray(f32(i[1]), (heads, head_dim))
    out = carray(f32(i[4]), (heads, head_dim))
    keys = carray(f32(i[2]), (kv_heads, capacity, head_dim))
    values = carray(f32(i[3]), (kv_heads, capacity, head_dim))
    scores = carray(f32(i[5]), (lanes, capacity))
    begin, end = share(heads, 1, lane, lanes)
    for h in range(begin, end):
        g = h // (heads // kv_heads)
        attend(q[h], keys[g], values[g], out[h], scores[lane], position, i[10])


@kernel
def _swiglu(i, lane, lanes):  # type: ignore[no-untyped-def]
    begin, end = share(i[3], 64, lane, lanes)
    swiglu(carray(f32(i[1]), (2 * i[3],)), carray(f32(i[2]), (i[3],)), begin, end)


@kernel
def _residual(i):  # type: ignore[no-untyped-def]
    part, x = carray(f32(i[1]), (i[3],)), carray(f32(i[2]), (i[3],))
    for k in range(part.size):
        part[k] += x[k]


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
def _push(i, base, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """[1] part [2] slot [3] values [4] site [5] pushed word [6] site that last used the slot, -1 if none
    [7] table of its readers' pulled words [8] how many."""
    readers = carray(i64(i[7]), (i[8],))
    for r in range(readers.size if i[6] >= 0 else 0):
        outcome = wait(readers[r], base + i[6], abort, deadline_ns)
        if outcome != ARRIVED:
            trouble[2] = r
            return outcome
    part, slot = carray(f32(i[1]), (i[3],)), carray(f32(i[2]), (i[3],))
    for k in range(part.size):
        slot[k] = part[k]
    store_release(i[5], base + i[4])
    return ARRIVED


@kernel
def _pull(i, base, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """[1] out [2] site [3] table of (pushed word or 0 for this device, part, values) [4] producers [5] SUM or CONCAT
    [6] pulled word."""
    parts = carray(i64(i[3]), (i[4], 3))
    at = 0
    for p in range(parts.shape[0]):
        if parts[p, 0]:
            outcome = wait(parts[p, 0], base + i[2], abort, deadline_ns)
            if outcome != ARRIVED:
                trouble[2] = p
                return outcome
        part = carray(f32(parts[p, 1]), (parts[p, 2],))
        out = carray(f32(i[1] + 4 * at), (parts[p, 2],))
        if i[5] == CONCAT:
            at += part.size
        if p == 0 or i[5] == CONCAT:
            for k in range(part.size):
                out[k] = part[k]
        else:
            for k in range(part.size):
                out[k] += part[k]
    store_release(i[6], base + i[2])
    return ARRIVED


@kernel
def _alone(i, state, abort, deadline_ns, trouble):  # type: ignore[no-untyped-def]
    """Steps too small to share out, run by lane 0."""
    op = i[0]
    if op == NORM:
        _norm(i)
    elif op == ROPE:
        _rope(i, state[POSITION])
    elif op == RESIDUAL:
        _residual(i)
    elif op == PUSH:
        return _push(i, state[BASE], abort, deadline_ns, trouble)
    elif op == PULL:
        return _pull(i, state[BASE], abort, deadline_ns, trouble)
    elif op == EMBED:
        _embed(i, state[TOKEN])
    elif op == ARGMAX:
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

    tape: [steps, WIDTH]; state: [3]; arrived: [lanes, 8]; ends_ns: [steps], when each step ended; trouble: [3], written
    on failure: outcome, step, index of the peer waited for.
    """
    lanes = arrived.shape[0]
    ticket = arrived[lane, 0]
    for step in range(begin, end):
        i = tape[step]
        outcome = ARRIVED
        if i[0] == LINEAR:
            _linear(i, lane, lanes)
        elif i[0] == ATTENTION:
            _attention(i, state[POSITION], lane, lanes)
        elif i[0] == SWIGLU:
            _swiglu(i, lane, lanes)
        elif lane == 0:
            outcome = _alone(i, state, abort, deadline_ns, trouble)
        if lanes > 1 and outcome == ARRIVED:
            ticket += 1
            outcome = _meet(arrived, lane, ticket, abort, deadline_ns)
        if lane == 0:
            ends_ns[step] = monotonic_ns()
        if outcome != ARRIVED:
            trouble[0], trouble[1] = outcome, step
            return outcome
    return ARRIVED
