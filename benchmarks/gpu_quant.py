"""Checks products with grouped-affine weights against float64, then times them at Llama-3-8B's shapes: one table.

Run on a machine with a GPU, torch and triton, where `tpplan` names this checkout: `python benchmarks/gpu_quant.py`.
`--sweep` also times other tiles (compiled first by as many processes as there are cores), `--sms=8` products on a part
of so many SMs. As gpu_kernels.py: cold weights, CUDA graphs, medians; shares are of the bandwidth of a large copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import gpu_kernels
import torch
import torch.nn.functional as F
from gpu_kernels import EPS, HIDDEN, LAYERS, Decoder, cold, copy_bytes_per_s, graph_us, normal, report

from tpplan.executor.gpu.devices import open_devices
from tpplan.kernels.gpu import argmax, attention, linear, linear_quant, norm, products_quant, reorder, rope
from tpplan.kernels.gpu.gate_up_quant import gate_up
from tpplan.kernels.gpu.grouped import GroupedWeight, pack

# name, N, K; gate_up's N counts both halves
PRODUCTS = [("qkv", 6144, 4096), ("o", 4096, 4096), ("gate_up", 28672, 4096), ("down", 4096, 14336)]
SHARDS = [("qkv/3", 2048, 4096), ("o/3", 4096, 1408), ("gate_up/3", 9728, 4096), ("down/3", 4096, 4864)]
# rows: BLOCK_N, PARTS, COLUMNS, stages, warps
TILES = {
    1: [
        (16, 8, 8, 3, 4), (16, 8, 8, 4, 4), (16, 8, 8, 3, 8), (32, 8, 8, 3, 4), (16, 8, 8, 3, 2), (16, 4, 8, 4, 2),
        (16, 4, 8, 3, 2), (32, 4, 8, 3, 4), (32, 4, 8, 4, 2), (16, 4, 8, 4, 4), (16, 4, 8, 5, 1), (16, 8, 8, 5, 4),
    ],
    2: [(16, 8, 16, 3, 4), (16, 8, 16, 3, 2), (16, 4, 8, 3, 2), (32, 4, 8, 3, 4)],
    8: [
        (32, 2, 16, 4, 2), (16, 2, 16, 4, 2), (16, 4, 32, 3, 2), (32, 1, 8, 5, 2), (64, 1, 8, 4, 2), (16, 4, 32, 4, 4),
        (16, 2, 16, 4, 1), (32, 2, 16, 3, 2), (32, 4, 32, 3, 4),
    ],
    16: [(32, 2, 32, 4, 2), (16, 2, 32, 4, 2), (16, 4, 64, 3, 2), (32, 1, 16, 5, 2), (64, 1, 16, 4, 2)],
}  # fmt: skip
AHEAD = [0, 4096, 32768, 65536]
FORMS: dict[str, dict[str, Any]] = {
    "g128 zeros": {"group": 128, "second": "zeros"},
    "g128": {"group": 128},
    "g32 minimums": {"group": 32, "second": "minimums"},
    "g64 zeros": {"group": 64, "second": "zeros"},
    "int8 g128": {"group": 128, "bits": 8},
    "int8 g32": {"group": 32, "bits": 8},
}


def random_weight(
    N: int, K: int, group: int | torch.Tensor = 128, second: str = "", bits: int = 4, **options: Any
) -> tuple[GroupedWeight, torch.Tensor | None, Callable[[torch.Tensor], torch.Tensor]]:
    """The weight, the order of its inputs, and x @ w^T in float64 from codes and scales before they are packed."""
    of = torch.arange(K, device="cuda") // group if isinstance(group, int) else group
    groups = int(of.max()) + 1
    codes = torch.randint(0, 2**bits, (N, K), dtype=torch.uint8, device="cuda")
    scales = (torch.rand(N, groups, device="cuda") * 2.0**-bits / K**0.5).half()
    minimums = normal(N, groups, dtype=torch.float16) / K**0.5 if second == "minimums" else None
    zeros = torch.randint(0, 16, (N, groups), dtype=torch.uint8, device="cuda") if second == "zeros" else None
    zero = 0 if second else 2 ** (bits - 1)

    def reference(x: torch.Tensor) -> torch.Tensor:
        pieces = []
        for at in range(0, N, 2048):
            part = slice(at, at + 2048)
            taken = zero if zeros is None else zeros[part].double()[:, of]
            w = (codes[part].double() - taken) * scales[part].double()[:, of]
            pieces.append(x.double() @ (w if minimums is None else w + minimums[part].double()[:, of]).T)
        return torch.cat(pieces, 1)

    weight, order = pack(codes, group, scales, minimums, zeros, bits=bits, zero=zero, **options)
    return weight, order, reference


def others(weight: GroupedWeight) -> list[GroupedWeight]:
    """Enough of the weight's kind to keep caches cold; codes differ."""
    return [weight] + [
        replace(weight, codes=weight.codes.roll(at, 0), table=weight.table.clone())
        for at in range(1, cold(weight.nbytes))
    ]


def runner(weight: GroupedWeight) -> Callable[..., None]:
    return gate_up if weight.halves == 2 else linear_quant.linear


def error_of(weight: GroupedWeight, order: torch.Tensor | None, reference: Callable[..., Any], rows: int) -> float:
    """Relative in the norm of all outputs, kept in float32; NaN where one was not written."""
    x = placed = normal(rows, weight.places if order is None else int(order.max()) + 1)
    if order is not None:
        placed = torch.full((rows, weight.places), torch.nan, dtype=x.dtype, device="cuda")
        reorder.reordered(x, order, placed)
    expected = reference(x)
    if weight.halves == 2:
        gate, up = expected.chunk(2, -1)
        expected = F.silu(gate) * up
    out = torch.full((rows, weight.rows), torch.nan, device="cuda")
    runner(weight)(placed, weight, None, out)
    return ((out - expected).norm() / expected.norm()).item()


def checked(name: str, weight: GroupedWeight, order: torch.Tensor | None, reference: Any, rows: int) -> None:
    error = error_of(weight, order, reference, rows)
    assert error <= (3e-4 if linear_quant.folds(weight.codes) else 3e-5), f"{name}, {rows} rows: error {error:.2e}"


def product_us(copies: list[GroupedWeight], rows: int) -> float:
    weight, run = copies[0], runner(copies[0])
    x, squares = normal(rows, weight.places), normal(rows, 4, dtype=torch.float32).square_()
    out = normal(rows, weight.rows)
    return graph_us([lambda w=w: run(x, w, None, out, squares, HIDDEN, EPS) for w in copies])  # type: ignore[misc]


def products(copy: float, sizes: list[tuple[str, int, int]], rows_asked: list[int], sweeps: bool = False) -> None:
    for name, N, K in sizes:
        weight, order, reference = random_weight(N, K, second="zeros", halves=1 + name.startswith("gate_up"))
        copies, first = others(weight), 0.0
        for rows in rows_asked:
            checked(name, weight, order, reference, rows)
            us = product_us(copies, rows)
            first = first or us
            gain = f"{rows * first / us:.1f} times one row's throughput" if rows > 1 else ""
            report(f"{name} {N}x{K}, {rows} rows", us, weight.nbytes, copy, gain)
            if sweeps and rows in TILES:
                best = sweep(weight, order, reference, copies, rows)
                print("    best:", "; ".join(f"{us:.2f} {tiles} {how}" for us, tiles, how in best[:6]), flush=True)
        if sweeps:
            print("    asked for ahead:", *(f"{ahead >> 10} KiB {ahead_us(copies, ahead):.2f} us;" for ahead in AHEAD))


def sweep(
    weight: GroupedWeight, order: Any, reference: Any, copies: list[GroupedWeight], rows: int
) -> list[tuple[float, tuple[int, ...], str]]:
    """us, tiles, and where zeros are taken from, the best first; wrong results are told and left out."""
    kept, found = (linear_quant.tiles, linear_quant.folds), []
    for tiles, sums in product(TILES[rows], (False, True)):
        linear_quant.tiles, linear_quant.folds = lambda *_, tiles=tiles: tiles, lambda _, sums=sums: sums
        try:
            checked(str(tiles), weight, order, reference, rows)
            found.append((product_us(copies, rows), tiles, "sums" if sums else "codes"))
        except Exception as error:
            print("   ", tiles, (str(error).splitlines() or [type(error).__name__])[0][:90], flush=True)
    linear_quant.tiles, linear_quant.folds = kept
    return sorted(found)


def ahead_us(copies: list[GroupedWeight], ahead: int) -> float:
    kept, linear_quant.AHEAD_BYTES = linear_quant.AHEAD_BYTES, ahead
    us = product_us(copies, 1)
    linear_quant.AHEAD_BYTES = kept
    return us


def forms(copy: float) -> None:
    """Other formats of the down projection."""
    for name, form in FORMS.items():
        weight, order, reference = random_weight(4096, 14336, **form)
        for rows in [1, 8]:
            checked(name, weight, order, reference, rows)
            report(f"down, {name}, {rows} rows", product_us(others(weight), rows), weight.nbytes, copy)
    for run in [(128,), (64,), (32,)]:
        weight, order, reference = random_weight(4096, 14336, runs=run)
        checked(f"runs of {run[0]}", weight, order, reference, 1)
        report(f"down, g128, runs of {run[0]}", product_us(others(weight), 1), weight.nbytes, copy)


def act_order(copy: float) -> None:
    """A third of the output projection, split by head rows: inputs of 32 groups in an order drawn at random."""
    drawn = (torch.arange(4096, device="cuda") // 128)[torch.randperm(4096, device="cuda")][:1408]
    for name, group, runs in [("plain", 128, (64,)), *((f"runs of {n}", drawn, (n,)) for n in (64, 32, 16))]:
        weight, order, reference = random_weight(4096, 1408, group, "zeros", runs=runs)
        checked(name, weight, order, reference, 1)
        us = product_us(others(weight), 1)
        report(f"o/3, {name}", us, weight.nbytes, copy, f"{weight.nbytes / 1e6:.2f} MB")
    x, order, out = normal(1, 4096), torch.randperm(4096, device="cuda").int(), normal(1, 4096)
    us = graph_us([lambda: reorder.reordered(x, order, out)] * 50)
    print(f"4096 inputs brought into order by a kernel of its own: {us:.2f} us")


def many(copy: float) -> None:
    for rows in [17, 64, 256, 512]:
        for name, N, K in [PRODUCTS[0], PRODUCTS[3]]:
            weight, _, reference = random_weight(N, K, second="zeros")
            x, out, scratch = normal(rows, K), normal(rows, N).fill_(torch.nan), normal(N * K)
            products_quant.many_rows(x, weight, None, out, scratch)
            expected = reference(x)
            error = ((out - expected).norm() / expected.norm()).item()
            assert error <= 1e-2, f"{name}, {rows} rows: relative error {error:.2e}"
            copies = others(weight)[:4]
            us = graph_us(
                [lambda w=w, x=x, o=out, s=scratch: products_quant.many_rows(x, w, None, o, s) for w in copies]
            )
            dense = normal(N, K)
            theirs = graph_us([lambda x=x, w=dense, o=out: torch.mm(x, w.t(), out=o)] * 4)
            print(f"{name}, {rows} rows: {us:.1f} us; cuBLAS alone, weights warm, {theirs:.1f} us", flush=True)


class QuantDecoder(Decoder):
    """Its layers in int4, groups of 128 with zeros; the head stays bfloat16. `reordered`: by a kernel before them."""

    def __init__(self, context: int, reordered: bool) -> None:
        super().__init__(context)
        dense, self.reordered = sum(w.nbytes for w in self.layers[0].values()), reordered
        kinds = {
            name: random_weight(N, K, second="zeros", halves=1 + (name == "gate_up"))[0] for name, N, K in PRODUCTS
        }
        self.layers = [
            {name: replace(w, codes=w.codes.roll(at, 0), table=w.table.clone()) for name, w in kinds.items()}
            for at in range(LAYERS)
        ]
        self.nbytes += LAYERS * (sum(w.nbytes for w in kinds.values()) - dense)
        self.order, self.placed = torch.randperm(HIDDEN, device="cuda").int(), normal(1, HIDDEN)

    def placed_input(self, x: torch.Tensor) -> torch.Tensor:
        if self.reordered:
            reorder.reordered(x, self.order, self.placed)
        return self.placed if self.reordered else x

    def layer(self, at: int) -> None:
        weight, cache, factor = self.layers[at], self.caches[at], (self.squares, HIDDEN, EPS)
        linear_quant.linear(self.placed_input(self.scaled), weight["qkv"], None, self.qkv, *factor)
        rope.rope(self.qkv, self.cos, self.sin, None, EPS, *cache, self.control)
        attention.decode(self.qkv[:, :HIDDEN], *cache, self.control, 0, self.mixed, 4, 0, self.scratch)
        linear_quant.linear(self.placed_input(self.mixed), weight["o"], None, self.part)
        norm.scaled(self.hidden, self.factor, self.scaled, self.squares, self.part)
        gate_up(self.placed_input(self.scaled), weight["gate_up"], None, self.activated, *factor)
        linear_quant.linear(self.activated, weight["down"], None, self.part)
        norm.scaled(self.hidden, self.factor, self.scaled, self.squares, self.part)

    def token(self) -> None:
        for at in range(LAYERS):
            self.layer(at)
        linear.linear(self.scaled, self.head, None, self.logits, self.squares, HIDDEN, EPS)
        argmax.argmax(self.logits[0], 0, self.best_id, self.best_value, self.best)


def chain(copy: float) -> None:
    decoder = QuantDecoder(512, reordered=False)
    for reordered in [False, True]:
        decoder.reordered = reordered
        us = graph_us([decoder.token])
        name = "token, inputs reordered by kernels" if reordered else "token at context 512"
        report(name, us, decoder.nbytes, copy, f"{1e6 / us:.1f} tokens/s")
    state = decoder.hidden.normal_(), decoder.scaled.normal_(), decoder.squares.fill_(1.0)
    first, results = [x.clone() for x in state], []
    decoder.reordered = False
    for _ in range(3):
        for x, value in zip(state, first):
            x.copy_(value)
        decoder.token()
        results.append((decoder.hidden.clone(), decoder.logits.clone()))
    assert results[0][1].isfinite().all(), "the token's logits are not finite"
    same = all(torch.equal(a, b) for result in results[1:] for a, b in zip(results[0], result))
    print("three runs of one token:", "bitwise equal" if same else "DIFFERENT")


def compile_share(worker: int, workers: int) -> None:
    """Launches once what the sweep will time, so that Triton's cache has it."""
    wanted = [
        (1 + halves, rows, tiles, sums)
        for halves in (0, 1)
        for rows in TILES
        for tiles in TILES[rows]
        for sums in (False, True)
    ]
    for halves, rows, tiles, sums in wanted[worker::workers]:
        weight, order, reference = random_weight(256 * halves, 4096, second="zeros", halves=halves)
        linear_quant.tiles, linear_quant.folds = lambda *_, tiles=tiles: tiles, lambda _, sums=sums: sums
        try:
            x, squares = normal(rows, 4096), normal(rows, 4, dtype=torch.float32)
            runner(weight)(x, weight, None, normal(rows, 256), squares, HIDDEN, EPS)
            error_of(weight, order, reference, rows)
        except Exception as error:
            print(tiles, type(error).__name__, flush=True)


def compile_ahead() -> None:
    workers = os.cpu_count() or 1
    shares = [f"--compile={at}/{workers}" for at in range(workers)]
    started = [subprocess.Popen([sys.executable, __file__, share]) for share in shares]
    for process in started:
        process.wait()


def main() -> None:
    asked = dict(argument.removeprefix("--").partition("=")[::2] for argument in sys.argv[1:])
    if "compile" in asked:
        compile_share(*map(int, asked["compile"].split("/")))
        return
    if "sweep" in asked:
        compile_ahead()
    copy = copy_bytes_per_s()
    print(f"{torch.cuda.get_device_name()}: copy {copy / 1e12:.2f} TB/s")
    if "sms" in asked:
        with open_devices([f"cuda:0/{asked['sms']}"]) as devices:
            gpu_kernels.PART.append(devices[0].compute)
            products(copy, SHARDS, [1], "sweep" in asked)
        return
    products(copy, PRODUCTS, [1, 2, 8, 16], "sweep" in asked)
    chain(copy)
    products(copy, SHARDS, [1, 8])
    act_order(copy)
    forms(copy)
    many(copy)


if __name__ == "__main__":
    main()
