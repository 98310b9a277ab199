"""Compiles what the wrappers launch at Llama-3-8B's shapes, for the architectures given, and looks at the result."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from tpplan.kernels.gpu import (
    argmax,
    attention,
    embed,
    embed_quant,
    gate_up,
    gate_up_quant,
    grouped,
    linear,
    linear_quant,
    norm,
    products_quant,
    reorder,
    rope,
    staged_row,
)

TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"} | {
    torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"
}  # fmt: skip
SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB a program may take
OPTIONS = ("num_warps", "launch_pdl")
Launch = tuple[JITFunction, dict[str, Any]]


def launches(run: Callable[[], None]) -> list[Launch]:
    """What `run` would launch: kernels and their arguments by name."""
    found: list[Launch] = []

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
        found.append((self, dict(zip(self.arg_names, args)) | named))

    kept, JITFunction.run = JITFunction.run, record
    try:
        run()
    finally:
        JITFunction.run = kept
    return found


def compiled(kernel: JITFunction, arguments: dict[str, Any], architecture: int) -> Any:
    """Typed and specialised as Triton does at a launch."""
    signature, constants, attributes = {}, {}, {}
    for at, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[(at,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name], aligned = "*" + TYPES[value.dtype], True
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
            aligned = isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize
        if aligned:
            attributes[(at,)] = [["tt.divisibility", 16]]
    options = {name: arguments[name] for name in OPTIONS if name in arguments}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def cases(dtype: torch.dtype) -> list[Launch]:
    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def single(*shape: int) -> torch.Tensor:
        return empty(*shape, dtype=torch.float32)

    control, tokens = empty(4, dtype=torch.int32), empty(256, dtype=torch.int64)
    hidden, squares, caches = single(1, 4096), single(1, 8), (empty(8, 4096, 128), empty(8, 4096, 128))
    weight, gates, qkv, mixed = empty(6144, 4096), empty(28672, 4096), empty(1, 6144), empty(1, 4096)
    scratch = attention.scratch(32, 128, 1, 8, "meta")

    def part(sms: int) -> list[Launch]:
        kept, staged_row.sms_for = staged_row.sms_for, lambda _: sms
        found = launches(
            lambda: (
                linear.linear(mixed, weight, None, qkv, squares, 4096, 1e-5),
                gate_up.gate_up(mixed, gates, None, empty(1, 14336), squares, 4096, 1e-5),
            )
        )
        staged_row.sms_for = kept
        return found

    return (
        part(8)
        + part(48)
        + quantised_cases(dtype)
        + launches(
            lambda: (
                norm.scaled(hidden, single(4096), mixed, squares, hidden),
                norm.norm(single(256, 4096), single(4096), 1e-5, empty(256, 4096)),
                embed.embed(tokens, empty(128256, 4096), 0, single(256, 4096)),
                argmax.argmax(single(128256), 0, empty(1, dtype=torch.int64), single(1), argmax.scratch("meta")),
                rope.rope(qkv, single(4096, 64), single(4096, 64), (single(128), single(128)), 1e-5, *caches, control),
                attention.decode(mixed, *caches, control, 0, empty(1, 4096), 4, 0, scratch),
                attention.prefill(empty(256, 4096), *caches, control, 0, empty(256, 4096), 4),
                linear.linear(mixed, weight, single(6144), qkv, squares, 4096, 1e-5),
                linear.linear(empty(8, 4096), weight, None, single(8, 6144), single(8, 8), 4096, 1e-5),
                gate_up.gate_up(mixed, gates, single(28672), empty(1, 14336), squares, 4096, 1e-5),
                gate_up.gate_up(empty(8, 4096), gates, None, empty(8, 14336), single(8, 8), 4096, 1e-5),
            )
        )
    )


def grouped_weight(
    N: int, K: int, group: int, second: str = "zeros", table: torch.dtype = torch.float16, **options: Any
) -> grouped.GroupedWeight:
    """As packed from operands of these sizes."""
    groups = group or torch.randint(0, 32, (K,))
    scales = torch.ones(N, -(-K // group) if group else 32, dtype=table)
    beside = {"zeros": torch.ones_like(scales, dtype=torch.uint8), "minimums": scales}
    codes = torch.zeros(N, K, dtype=torch.uint8)
    packed, _ = grouped.pack(codes, groups, scales, **({second: beside[second]} if second in beside else {}), **options)
    tensors = {name: value.to("meta") for name, value in vars(packed).items() if isinstance(value, torch.Tensor)}
    return replace(packed, **tensors)


def quantised_cases(dtype: torch.dtype) -> list[Launch]:
    """Rows of one half of Llama-3-8B's sizes are few enough to pack; what is compiled does not depend on them."""

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    plain, ragged = grouped_weight(256, 4096, 128), grouped_weight(256, 1408, 0)
    minimums = grouped_weight(256, 4096, 32, "minimums", torch.bfloat16)
    codes = grouped_weight(
        256, 4096, 32, "minimums", torch.int8, factors=(torch.ones(256, 16).half(),) * 2, factor_groups=8
    )
    eight, halves = grouped_weight(256, 4096, 128, "", torch.float32, bits=8), grouped_weight(512, 4096, 128, halves=2)
    squares = empty(8, 8, dtype=torch.float32)

    def product(rows: int, weight: grouped.GroupedWeight) -> None:
        run = gate_up_quant.gate_up if weight.halves == 2 else linear_quant.linear
        run(empty(rows, weight.places), weight, None, empty(rows, 256), squares[:rows], 4096, 1e-5)

    def on_part(rows: int, weight: grouped.GroupedWeight) -> None:
        kept, linear_quant.sms_for = linear_quant.sms_for, lambda _: 8
        product(rows, weight)
        linear_quant.sms_for = kept

    return launches(
        lambda: (
            product(1, plain),
            on_part(1, plain),
            product(8, plain),
            product(1, ragged),
            product(1, minimums),
            product(1, codes),
            products_quant.floats(codes, 0, 256, empty(256, 4096)),
            embed_quant.embed(empty(4, dtype=torch.int64), codes, 0, empty(4, 4096, dtype=torch.float32)),
            product(1, eight),
            product(1, halves),
            products_quant.floats(plain, 0, 256, empty(256, 4096)),
            reorder.reordered(empty(1, 4096), empty(1408, dtype=torch.int32), empty(1, 1408)),
        )
    )


def inspect(kernel: JITFunction, arguments: dict[str, Any], architecture: int) -> None:
    overlaps = architecture >= 90
    arguments = arguments | {"OVERLAP": overlaps} | ({"launch_pdl": True} if overlaps else {})
    binary = compiled(kernel, arguments, architecture)
    ptx, name = binary.asm["ptx"], f"{kernel.__module__}.{kernel.__name__} for {architecture}"
    assert binary.metadata.shared <= SHARED[architecture] * 1024, f"{name}: {binary.metadata.shared} bytes shared"
    assert not re.search(r"\.local\b", ptx), f"{name}: local memory"
    assert ("griddepcontrol.wait" in ptx) == overlaps, f"{name}: overlap"
    if ("weight" in arguments and "norm" not in kernel.__module__) or (
        "codes" in arguments and kernel.__name__ != "_embed"  # which reads a row
    ):
        wide = r"ld\.global\S*\.v4\.b32|cp\.async\.c[ag]\.shared\.global\S* \[[^]]*\], \[[^]]*\], 0x10"
        assert re.search(wide, ptx), f"{name}: no 16-byte loads of weights"
        before = ptx.split("griddepcontrol.wait")[0]
        if overlaps and kernel.__name__ in ("_one_row", "linear_row", "gate_up_row"):
            assert re.search(wide, before), f"{name}: no weights asked for before its input is ready"
    if kernel.__name__ == "product":
        assert architecture < 80 or re.search(r"mma\.sync|wgmma", ptx), f"{name}: no matrix units"
        assert architecture < 80 or "ldmatrix" in ptx, f"{name}: codes are not read as operands"
        before = ptx.split("griddepcontrol.wait")[0]
        assert ("prefetch.L2" in before) == overlaps, f"{name}: no codes asked for before its input is ready"
    print("ok", name)


if __name__ == "__main__":
    for architecture in map(int, sys.argv[1:]):
        shared = SHARED[architecture] * 1024
        for module in (linear, gate_up, attention, linear_quant):
            module.shared_bytes = lambda tensor, shared=shared: shared
        linear_quant.architecture = lambda tensor, architecture=architecture: architecture
        for kernel, arguments in cases(torch.float16 if architecture == 75 else torch.bfloat16):
            inspect(kernel, arguments, architecture)
