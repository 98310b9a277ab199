"""What is measured of a GPU device's compute: the kernels that `run` launches, at shapes that models have.

Steps that are fused into others are measured as what they add: a norm leaves its scale to the product after it, SwiGLU
is part of the product before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future

import torch

from ..executor.gpu.matrices import written_floats
from ..kernels.gpu import (
    argmax,
    attention,
    embed,
    gate_up,
    linear,
    linear_quant,
    norm,
    products,
    products_quant,
    rope,
    swiglu,
)
from ..kernels.gpu.grouped import BLOCK, FLOAT16, RUNS, ZEROS, GroupedWeight
from .bench import Probe
from .gpu_timing import GpuBench, Launch, start_difference, start_graph
from .profile import Format, Op
from .roofline import WEIGHT_BYTES

FEW_ROWS, CHUNK = 16, 512  # what the kernels of decode take at once; a prompt's chunk where there are GPUs
CAPACITY = 8192
DTYPES: dict[Format, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SHAPES = [  # in, out: projections of models from 135M to 70B, whole and split
    (576, 320), (576, 960), (576, 3072), (576, 24576), (192, 576), (1536, 576), (2048, 2560), (2048, 16384),
    (8192, 2048), (512, 4096), (1024, 4096), (4096, 1024), (4096, 4096), (4096, 6144), (4096, 9216), (4096, 28672),
    (4096, 64128), (4096, 128256), (4864, 4096), (9472, 4096), (14336, 4096), (8192, 1280), (8192, 10240),
    (8192, 28672), (8192, 57344), (2048, 8192), (8192, 8192), (28672, 8192),
]  # fmt: skip
QUICK_SHAPES = [
    (576, 960), (576, 24576), (1536, 576), (4096, 1024), (4096, 6144), (4096, 28672), (4096, 128256), (1024, 4096),
    (14336, 4096), (8192, 57344), (28672, 8192),
]  # fmt: skip
FLOAT32_SHAPES = [(576, 960), (1536, 576), (576, 24576), (4096, 4096), (4096, 14336), (14336, 4096)]
BATCH_SHAPES = [
    (576, 960), (1536, 576), (4096, 1024), (4096, 6144), (4096, 28672), (14336, 4096), (8192, 28672), (28672, 8192),
]  # fmt: skip
FLOAT32_BATCH_SHAPES = [(576, 960), (1536, 576), (4096, 6144)]
INT4_SHAPES = [
    (576, 960), (1536, 576), (4096, 1024), (4096, 4096), (4096, 6144), (4096, 28672), (1024, 4096), (4864, 4096),
    (14336, 4096), (8192, 10240), (8192, 57344), (28672, 8192),
]  # fmt: skip
INT8_SHAPES = [(576, 960), (1536, 576), (4096, 4096), (4096, 28672), (14336, 4096), (28672, 8192)]
GROUPED_BATCH_SHAPES = [(576, 960), (4096, 4096), (4096, 28672), (14336, 4096)]
GROUP = 128
WIDTHS: dict[Op, list[int]] = {
    "norm": [576, 4096, 8192], "residual": [576, 4096, 8192], "swiglu": [512, 4096, 14336],
    "rope": [640, 6144, 10240], "embed": [576, 4096], "argmax": [8192, 49152, 128256],
}  # fmt: skip
HEADS = [(1, 3, 64), (3, 9, 64), (1, 4, 128), (3, 12, 128), (8, 32, 128), (8, 64, 128)]  # KV heads, heads, head_dim
QUICK_HEADS = [(3, 9, 64), (8, 32, 128)]  # and those of float32
CONTEXTS, QUICK_CONTEXTS = (64, 512, 2048, 8192), (64, 512, 4096)
EPS, NORM_PARTS = 1e-5, 4


def gpu_probes(quick: bool, most_bytes: int) -> Iterator[Probe]:
    """All compute probes of one GPU device, without products whose weight exceeds `most_bytes`."""
    yield from (probe for probe in _products(quick) if _weight_bytes(probe) <= most_bytes)
    for rows in (1, CHUNK):
        for op, widths in WIDTHS.items():
            yield from (_small(op, rows, wide) for wide in widths if rows == 1 or op != "argmax")
    for heads in QUICK_HEADS if quick else HEADS:
        for context in QUICK_CONTEXTS if quick else CONTEXTS:
            yield from (_attention(rows, *heads, context, "bfloat16") for rows in (1, CHUNK) if rows <= context)
            if not quick and heads in QUICK_HEADS and context <= CHUNK:
                yield from (_attention(rows, *heads, context, "float32") for rows in (1, CHUNK) if rows <= context)


def _weight_bytes(probe: Probe) -> int:
    return int(probe.in_features * probe.out_features * WEIGHT_BYTES[probe.format])


def _products(quick: bool) -> Iterator[Probe]:
    """In float32 too, unless `quick`: those who want its figures can wait."""
    yield from (_linear(1, *shape, "bfloat16") for shape in (QUICK_SHAPES if quick else SHAPES))
    for rows in (8,) if quick else (2, 8, 16):
        yield from (_linear(rows, *shape, "bfloat16") for shape in BATCH_SHAPES)
    for rows in (32, CHUNK) if quick else (32, 128, CHUNK):
        yield from (_linear(rows, *shape, "bfloat16") for shape in BATCH_SHAPES)
    yield from (_grouped(1, *shape, "int4") for shape in INT4_SHAPES)
    yield from (_grouped(1, *shape, "int8") for shape in INT8_SHAPES)
    for rows in (8, CHUNK):
        yield from (_grouped(rows, *shape, "int4") for shape in GROUPED_BATCH_SHAPES)
    if not quick:
        yield from (_grouped(rows, *shape, "int8") for rows in (8, CHUNK) for shape in GROUPED_BATCH_SHAPES)
        yield from (_linear(1, *shape, "float32") for shape in FLOAT32_SHAPES)
        yield from (_linear(8, *shape, "float32") for shape in FLOAT32_BATCH_SHAPES)
        yield from (_linear(rows, *shape, "float32") for rows in (32, CHUNK) for shape in FLOAT32_BATCH_SHAPES)


def _probe(
    op: Op,
    rows: int,
    wide_in: int,
    wide_out: int,
    launches: Callable[[GpuBench], list[Launch]],
    step_bytes: int = 0,
    form: Format = "float32",
    context: int = 0,
) -> Probe:
    """In a graph, as all passes are."""
    key = (op, rows, wide_in, wide_out, form, context)

    def start(bench: GpuBench, calls: int) -> Future[list[float]]:
        return start_graph(bench, key, lambda: launches(bench), step_bytes, calls)

    return Probe(op, rows, wide_in, wide_out, start, form, context)


def _linear(rows: int, wide_in: int, wide_out: int, form: Format) -> Probe:
    """By the kernels that read a weight once; many rows by cuBLAS."""
    dtype = DTYPES[form]
    step_bytes = wide_in * wide_out * dtype.itemsize
    run = linear.linear if rows <= FEW_ROWS else products.many_rows

    def launches(bench: GpuBench) -> list[Launch]:
        x, out = bench.buffer(rows, wide_in, dtype), bench.buffer(rows, wide_out, dtype)
        weights = [bench.cold(wide_out, wide_in, dtype=dtype) for _ in range(bench.distinct(step_bytes))]
        return [lambda w=w: run(x(), w, None, out()) for w in weights]  # type: ignore[misc]

    return _probe("linear", rows, wide_in, wide_out, launches, step_bytes, form)


def _grouped(rows: int, wide_in: int, wide_out: int, form: Format) -> Probe:
    """Quantised weights, a 16-bit scale and zero for each group; many rows by cuBLAS, once they are written out."""
    bits = 4 if form == "int4" else 8
    step_bytes = wide_in * wide_out * bits // 8

    def launches(bench: GpuBench) -> list[Launch]:
        x, out = bench.buffer(rows, wide_in, torch.bfloat16), bench.buffer(rows, wide_out, torch.bfloat16)
        weights = [_cold_grouped(bench, wide_in, wide_out, bits) for _ in range(bench.distinct(step_bytes))]
        if rows <= FEW_ROWS:
            return [lambda w=w: linear_quant.linear(x(), w, None, out()) for w in weights]  # type: ignore[misc]
        written = bench.own(written_floats(weights[0], torch.bfloat16), dtype=torch.bfloat16)
        return [lambda w=w: products_quant.many_rows(x(), w, None, out(), written) for w in weights]  # type: ignore[misc]

    return _probe("linear", rows, wide_in, wide_out, launches, step_bytes, form)


def _cold_grouped(bench: GpuBench, wide_in: int, wide_out: int, bits: int) -> GroupedWeight:
    """Of whatever bits the pool has."""
    run, blocks, groups = RUNS[0], -(-wide_out // BLOCK), -(-wide_in // GROUP)
    planes = 16 // bits
    codes = bench.cold(blocks, -(-wide_in // (run * planes)), BLOCK, run, dtype=torch.int16)
    table = bench.cold(blocks, groups, 1, BLOCK, dtype=torch.int32)
    runs = GROUP // run  # of a group
    shift, per_tile = max(0, (runs // planes).bit_length() - 1), max(1, planes // runs)
    return GroupedWeight(codes, table, None, bits, wide_out, wide_in, 1, 0, ZEROS, FLOAT16, shift, per_tile)


def _small(op: Op, rows: int, wide: int) -> Probe:
    """Steps that pass once over `wide` values a row, bfloat16."""
    width_in, width_out = {"swiglu": (2 * wide, wide), "argmax": (wide, 1)}.get(op, (wide, wide))
    if rows <= FEW_ROWS and op in _FUSED:
        return Probe(op, rows, width_in, width_out, lambda bench, calls: _FUSED[op](bench, rows, wide))
    return _probe(op, rows, width_in, width_out, lambda bench: [_LAUNCHES[op](bench, rows, wide)] * FEW_ROWS)


def _fused_norm(bench: GpuBench, rows: int, wide: int) -> Future[list[float]]:
    """What it adds to the product after it, which has twice as many outputs as inputs."""
    outputs = 2 * wide
    step_bytes = 2 * outputs * wide

    def launches(scales: bool) -> list[Launch]:
        x, out = bench.own(rows, wide, dtype=torch.bfloat16), bench.own(rows, outputs, dtype=torch.bfloat16)
        more = (bench.own(rows, 16) + 1.0, wide, EPS) if scales else ()
        weights = [bench.cold(outputs, wide) for _ in range(bench.distinct(step_bytes))]
        return [lambda w=w: linear.linear(x, w, None, out, *more) for w in weights]  # type: ignore[misc]

    both = (lambda: launches(True)), (lambda: launches(False))
    return start_difference(bench, ("norm", rows, wide), *both, step_bytes)


def _fused_swiglu(bench: GpuBench, rows: int, wide: int) -> Future[list[float]]:
    """What it adds to the product before it."""
    inputs = 1024
    step_bytes = 4 * wide * inputs

    def launches(fused: bool) -> list[Launch]:
        x = bench.own(rows, inputs, dtype=torch.bfloat16)
        out = bench.own(rows, wide if fused else 2 * wide, dtype=torch.bfloat16)
        run = gate_up.gate_up if fused else linear.linear
        weights = [bench.cold(2 * wide, inputs) for _ in range(bench.distinct(step_bytes))]
        return [lambda w=w: run(x, w, None, out) for w in weights]  # type: ignore[misc]

    both = (lambda: launches(True)), (lambda: launches(False))
    return start_difference(bench, ("swiglu", rows, wide), *both, step_bytes)


_FUSED = {"norm": _fused_norm, "swiglu": _fused_swiglu}


def _norm(bench: GpuBench, rows: int, wide: int) -> Launch:
    hidden, weight, out = bench.buffer(rows, wide), bench.own(wide), bench.buffer(rows, wide, torch.bfloat16)
    return lambda: norm.norm(hidden(), weight, EPS, out())


def _residual(bench: GpuBench, rows: int, wide: int) -> Launch:
    """With the norm after it where a device shares with nobody; exchanges are measured elsewhere."""
    hidden, part, weight = bench.buffer(rows, wide), bench.buffer(rows, wide), bench.own(wide)
    if rows > FEW_ROWS:
        return lambda: hidden().add_(part())
    scaled, squares = bench.buffer(rows, wide, torch.bfloat16), bench.own(rows, NORM_PARTS)
    return lambda: norm.scaled(hidden(), weight, scaled(), squares, part())


def _swiglu(bench: GpuBench, rows: int, wide: int) -> Launch:
    both, out = bench.buffer(rows, 2 * wide, torch.bfloat16), bench.buffer(rows, wide, torch.bfloat16)
    return lambda: swiglu.swiglu(both(), out())


def _rope(bench: GpuBench, rows: int, wide: int) -> Launch:
    head_dim = 64 if wide < 2048 else 128
    kv_heads = max(1, wide // head_dim // 6)
    qkv = bench.buffer(rows, wide, torch.bfloat16)
    cos, sin = bench.own(CAPACITY, head_dim // 2), bench.own(CAPACITY, head_dim // 2)
    keys, values = bench.own(2, kv_heads, CAPACITY, head_dim, dtype=torch.bfloat16)
    control = bench.own(8, dtype=torch.int32)
    return lambda: rope.rope(qkv(), cos, sin, None, EPS, keys, values, control)


def _embed(bench: GpuBench, rows: int, wide: int) -> Launch:
    table, out, tokens = bench.cold(4096, wide), bench.buffer(rows, wide), torch.arange(rows, device=bench.device.place)
    return lambda: embed.embed(tokens, table, 0, out())


def _argmax(bench: GpuBench, rows: int, wide: int) -> Launch:
    logits, best, value = bench.own(wide), bench.own(1, dtype=torch.int64), bench.own(1)
    scratch = argmax.scratch(bench.device.place)
    return lambda: argmax.argmax(logits, 0, best, value, scratch)


_LAUNCHES: dict[Op, Callable[[GpuBench, int, int], Launch]] = {
    "norm": _norm, "residual": _residual, "swiglu": _swiglu, "rope": _rope, "embed": _embed, "argmax": _argmax,
}  # fmt: skip


def _attention(rows: int, kv_heads: int, heads: int, head_dim: int, context: int, form: Format) -> Probe:
    """Of `rows` rows, the last of which sees `context` positions."""
    dtype, wide, group = DTYPES[form], heads * head_dim, heads // kv_heads
    step_bytes = 2 * kv_heads * context * head_dim * dtype.itemsize

    def launches(bench: GpuBench) -> list[Launch]:
        shape, capacity = (2, kv_heads, CAPACITY, head_dim), 2 * kv_heads * CAPACITY * head_dim * dtype.itemsize
        count = max(1, min(FEW_ROWS, bench.pool.nbytes // (2 * capacity)))
        caches = [bench.cold(*shape, dtype=dtype) for _ in range(count)]
        q, out = bench.buffer(rows, wide, dtype), bench.buffer(rows, wide, dtype)
        control = torch.tensor([context - rows, 1, rows, 0], dtype=torch.int32, device=bench.device.place)
        if rows > FEW_ROWS:
            return [
                lambda c=c: attention.prefill(q(), c[0], c[1], control, 0, out(), group, 0)  # type: ignore[misc]
                for c in caches
            ]
        scratch = attention.scratch(heads, head_dim, rows, kv_heads, bench.device.place)
        return [
            lambda c=c: attention.decode(q(), c[0], c[1], control, 0, out(), group, 0, scratch)  # type: ignore[misc]
            for c in caches
        ]

    return _probe("attention", rows, kv_heads * head_dim, wide, launches, step_bytes, form, context)
