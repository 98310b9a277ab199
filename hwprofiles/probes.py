"""What is measured of one device's compute: the steps of `run`, at shapes that models have.

A probe knows its point in the profile and how to make fresh, cold instances of its step. Order and repetition are
`measure`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from math import prod

import torch

from ..kernels import attention, linear, linear_int4, tape
from .bench import Probe
from .profile import Format, Op
from .timing import Bench, start_calls, start_tape

HEAD_DIM = 64
CAPACITY = 2048
SHAPES = [  # in, out: projections of small and middling models, whole and split
    (576, 192), (576, 640), (576, 2048), (576, 8192), (576, 24576), (192, 576), (512, 576), (1536, 576),
    (2048, 512), (2048, 2048), (2048, 8192), (8192, 2048), (4096, 1024), (4096, 4096),
]  # fmt: skip
QUICK_SHAPES = [(576, 192), (576, 640), (576, 2048), (576, 24576), (384, 576), (1536, 576), (2048, 2048)]
BATCH_SHAPES = [(576, 320), (576, 2048), (384, 576), (1536, 576), (2048, 2048)]
QUICK_BATCH_SHAPES = [(576, 640), (576, 2048), (1024, 576)]
WIDTHS = {
    "norm": [576, 4096], "residual": [576, 4096], "swiglu": [512, 2048, 8192], "rope": [320, 960, 6144],
    "embed": [576, 4096], "argmax": [8192, 49152],
}  # fmt: skip
HEADS = [(1, 3), (2, 6), (8, 32)]  # KV heads, query heads


def probes(quick: bool) -> Iterator[Probe]:
    """All compute probes of one device."""
    for wide_in, wide_out in QUICK_SHAPES if quick else SHAPES:
        for form, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            yield _one_row_linear(wide_in, wide_out, form, dtype)  # type: ignore[arg-type]
        yield _int4(wide_in, wide_out)
    for rows in (32, 256) if quick else (8, 32, 128, 256):
        for wide_in, wide_out in QUICK_BATCH_SHAPES if quick else BATCH_SHAPES:
            for form, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
                yield _batch_linear(rows, wide_in, wide_out, form, dtype)  # type: ignore[arg-type]
    for rows in (1, 256):
        for op, widths in WIDTHS.items():
            for wide in widths if rows == 1 or op != "argmax" else []:
                yield _streaming(op, rows, wide)  # type: ignore[arg-type]
        for kv_heads, heads in HEADS[:2] if quick else HEADS:
            for context in (max(rows, 64), 512) if quick else (max(rows, 64), 512, CAPACITY):
                yield _attention(rows, kv_heads, heads, context, "float32", torch.float32)
                yield _attention(rows, kv_heads, heads, context, "bfloat16", torch.bfloat16)


def _weight(bench: Bench, wide_in: int, wide_out: int, dtype: torch.dtype) -> torch.Tensor:
    count = wide_in * wide_out * dtype.itemsize // 4
    return bench.cold(count).view(dtype).view(wide_out, wide_in)


def _address(*tensors: torch.Tensor) -> tuple[int, ...]:
    return tuple(t.data_ptr() for t in tensors)


def _tape(bench: Bench, instructions: list[tuple[int, ...]], rows: int = 1, position: int = 0) -> Future[list[float]]:
    return start_tape(bench, instructions, _NO_ABORT.data_ptr(), rows, position)


_NO_ABORT = torch.zeros(1, dtype=torch.int64)
_TOKENS = torch.zeros(256, dtype=torch.int64)


def _one_row_linear(wide_in: int, wide_out: int, form: Format, dtype: torch.dtype) -> Probe:
    def start(bench: Bench, calls: int) -> Future[list[float]]:
        x, out = bench.cold(wide_in), bench.cold(wide_out)
        sizes = (wide_in, wide_out, linear.FORMATS[dtype])
        distinct = min(calls, bench.pool.nbytes // (wide_in * wide_out * dtype.itemsize) + 1)
        weights = [_weight(bench, wide_in, wide_out, dtype) for _ in range(distinct)]
        instructions = [(tape.LINEAR, *_address(x, w), 0, *_address(out), *sizes) for w in weights]
        return _tape(bench, (instructions * (calls // distinct + 1))[:calls])

    return Probe("linear", 1, wide_in, wide_out, start, form)


def _batch_linear(rows: int, wide_in: int, wide_out: int, form: Format, dtype: torch.dtype) -> Probe:
    def start(bench: Bench, calls: int) -> Future[list[float]]:
        x, out = bench.cold(rows, wide_in), bench.cold(rows, wide_out)
        call = lambda: linear.reference(x, _weight(bench, wide_in, wide_out, dtype), None, out)  # noqa: E731
        return start_calls(bench, call, calls)

    return Probe("linear", rows, wide_in, wide_out, start, form)


def _int4(wide_in: int, wide_out: int) -> Probe:
    """Packed 4-bit weights in groups of 32."""

    def start(bench: Bench, calls: int) -> Future[list[float]]:
        x, scales = torch.full((1, wide_in), 0.01).bfloat16(), torch.ones(wide_in // 32, wide_out, 2).bfloat16()
        count = wide_in * wide_out // 8
        weights = iter([bench.cold(count).view(torch.uint8).view(wide_out, wide_in // 2) for _ in range(calls)])
        return start_calls(bench, lambda: linear_int4.packed(x, next(weights), 32, scales), calls)

    return Probe("linear", 1, wide_in, wide_out, start, "int4")


def _streaming(op: Op, rows: int, wide: int) -> Probe:
    """Steps that pass once over `wide` values a row."""
    width_in, width_out = {"rope": (wide, wide), "swiglu": (2 * wide, wide), "argmax": (wide, 1)}.get(op, (wide, wide))

    def start(bench: Bench, calls: int) -> Future[list[float]]:
        a, b, out = bench.cold(rows, 2 * wide), bench.cold(wide), bench.cold(rows, wide)
        return _tape(bench, [_instruction(op, bench, a, b, out)] * calls, rows)

    return Probe(op, rows, width_in, width_out, start)


def _instruction(op: Op, bench: Bench, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> tuple[int, ...]:
    """a: [rows, 2 * width], b: [width], out: [rows, width]."""
    wide = len(b)
    match op:
        case "norm":
            return (tape.NORM, *_address(a, b, out), wide, tape.bits(1e-5), 0)
        case "residual":
            return (tape.RESIDUAL, *_address(out, a), wide, wide)
        case "swiglu":
            return (tape.SWIGLU, *_address(a, out), wide)
        case "embed":
            return (tape.EMBED, *_address(bench.cold(8, wide), out), 0, 8, wide, 0, *_address(_TOKENS))
        case "argmax":
            best = bench.cold(16)
            return (tape.ARGMAX, *_address(a), wide, 0, *_address(best, best[8:]))
    kv_heads = _rope_kv_heads(wide)
    cache, angles = bench.cold(2, kv_heads, CAPACITY, HEAD_DIM), bench.cold(2, CAPACITY, HEAD_DIM // 2)
    where = _address(a, angles[0], angles[1], cache[0], cache[1])
    return (tape.ROPE, *where, wide // HEAD_DIM - 2 * kv_heads, kv_heads, HEAD_DIM, CAPACITY, 0, 0, 0)


def _rope_kv_heads(wide: int) -> int:
    """KV heads of a qkv of `wide` values whose query heads are three to a group."""
    return max(1, wide // HEAD_DIM // 5)


def _attention(rows: int, kv_heads: int, heads: int, context: int, form: Format, dtype: torch.dtype) -> Probe:
    wide = heads * HEAD_DIM

    def start(bench: Bench, calls: int) -> Future[list[float]]:
        q, out, scores = bench.cold(rows, wide), bench.cold(rows, wide), bench.cold(bench.worker.lanes, CAPACITY)
        shape = 2, kv_heads, CAPACITY, HEAD_DIM
        words = prod(shape) * dtype.itemsize // 4
        caches = [bench.cold(words).view(dtype).view(shape) for _ in range(min(calls, 4))]
        if rows == 1:
            sizes = (heads, kv_heads, HEAD_DIM, CAPACITY, 0, heads // kv_heads, 0, linear.FORMATS[dtype])
            where = [_address(q, *caches[i % len(caches)], out, scores) for i in range(calls)]
            return _tape(bench, [(tape.ATTENTION, *w, *sizes) for w in where], position=context - 1)
        keys, values = caches[0]
        group = heads // kv_heads
        return start_calls(bench, lambda: attention.reference(q, keys, values, context - rows, 0, out, group), calls)

    return Probe("attention", rows, kv_heads * HEAD_DIM, wide, start, form, context)
