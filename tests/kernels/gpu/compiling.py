"""Compiles what the wrappers launch at Llama-3-8B's shapes, for the architectures given, and looks at the result."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from tpplan.kernels.gpu import argmax, attention, embed, gate_up, linear, norm, rope, staged_row

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


def inspect(kernel: JITFunction, arguments: dict[str, Any], architecture: int) -> None:
    overlaps = architecture >= 90
    arguments = arguments | {"OVERLAP": overlaps} | ({"launch_pdl": True} if overlaps else {})
    binary = compiled(kernel, arguments, architecture)
    ptx, name = binary.asm["ptx"], f"{kernel.__module__}.{kernel.__name__} for {architecture}"
    assert binary.metadata.shared <= SHARED[architecture] * 1024, f"{name}: {binary.metadata.shared} bytes shared"
    assert not re.search(r"\.local\b", ptx), f"{name}: local memory"
    assert ("griddepcontrol.wait" in ptx) == overlaps, f"{name}: overlap"
    if "weight" in arguments and "norm" not in kernel.__module__:
        wide = r"ld\.global\S*\.v4\.b32|cp\.async\.c[ag]\.shared\.global\S* \[[^]]*\], \[[^]]*\], 0x10"
        assert re.search(wide, ptx), f"{name}: no 16-byte loads of weights"
        before = ptx.split("griddepcontrol.wait")[0]
        if overlaps and kernel.__name__ in ("_one_row", "linear_row", "gate_up_row"):
            assert re.search(wide, before), f"{name}: no weights asked for before its input is ready"
    print("ok", name)


if __name__ == "__main__":
    for architecture in map(int, sys.argv[1:]):
        shared = SHARED[architecture] * 1024
        for module in (linear, gate_up, attention):
            module.shared_bytes = lambda tensor, shared=shared: shared
        for kernel, arguments in cases(torch.float16 if architecture == 75 else torch.bfloat16):
            inspect(kernel, arguments, architecture)
