"""Checks the GPU kernels, then times them at Llama-3-8B's shapes in CUDA graphs with cold weights: one table.

Run on a machine with a GPU, torch and triton, where `tpplan` names this checkout: `python benchmarks/gpu_kernels.py`.
`--sweep` also times other tile sizes, `--times` leaves out the checks, `--sms=8` times products and attention of one
row on a part of so many SMs. Shares are of the bandwidth of a large copy,
measured in the same run; a kernel that only reads may pass it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from tpplan.executor.gpu.devices import open_devices
from tpplan.kernels.gpu import argmax, attention, gate_up, launch, linear, norm, rope

LAYERS, HIDDEN, MLP, VOCABULARY, HEADS, KV_HEADS, HEAD_DIM = 32, 4096, 14336, 128256, 32, 8, 128
DTYPE, EPS = torch.bfloat16, 1e-5
# name, N, K; gate_up's N counts both halves
PRODUCTS = [
    ("qkv", 6144, 4096), ("o", 4096, 4096), ("gate_up", 28672, 4096), ("down", 4096, 14336), ("head", 128256, 4096),
    ("qkv/3", 2048, 4096), ("o/3", 4096, 1408), ("gate_up/3", 9728, 4096), ("down/3", 4096, 4864),
    ("qkv*2/3", 4096, 4096), ("o*2/3", 4096, 2688), ("gate_up*2/3", 18944, 4096), ("down*2/3", 4096, 9472),
]  # fmt: skip
ONE_ROW = [
    (2, 1024, 4), (4, 1024, 4), (8, 1024, 4), (2, 2048, 8), (4, 2048, 8), (2, 2048, 4), (4, 2048, 4),
    (4, 512, 2), (8, 512, 2), (4, 512, 1), (4, 256, 1), (8, 256, 1), (16, 256, 1), (1, 4096, 4), (2, 4096, 8),
]  # fmt: skip
FEW_ROWS = [
    (32, 128, 4, 4), (32, 256, 3, 4), (32, 256, 4, 4), (16, 256, 4, 4), (16, 512, 3, 4), (64, 128, 4, 4),
    (64, 64, 6, 4), (16, 256, 4, 2), (32, 128, 5, 2),
]  # fmt: skip
PREFILL = [(64, 64, 2, 4), (64, 64, 3, 4), (128, 64, 2, 8), (128, 64, 3, 8), (128, 128, 2, 8), (64, 128, 2, 4)]


PART: list[torch.cuda.Stream] = []  # the stream of the part that is asked for


def normal(*shape: int, dtype: torch.dtype = DTYPE) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda").normal_()


def weights(*shape: int) -> torch.Tensor:
    return normal(*shape).mul_(shape[-1] ** -0.5)


def graph_us(calls: list[Callable[[], None]], replays: int = 15) -> float:
    """Median time of one call, in a graph of all of them."""
    stream = PART[0] if PART else torch.cuda.Stream()
    with torch.cuda.stream(stream):
        calls[0]()
        torch.cuda.synchronize()
        stream.synchronize()  # the line above does not wait for a part
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        times = []
        for _ in range(replays + 2):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
    return sorted(times[2:])[replays // 2] * 1e3 / len(calls)


def copy_bytes_per_s() -> float:
    """The fastest of copies of 1 GiB and 256 MiB, by the copy engine's call and by an elementwise kernel."""
    found = []
    for count in [1 << 29, 1 << 27]:
        source = normal(count)
        target = torch.empty_like(source)
        for copy in [lambda s=source, t=target: t.copy_(s), lambda s=source, t=target: torch.mul(s, 1.0, out=t)]:
            found.append(2 * source.nbytes / (graph_us([copy] * 4) * 1e-6))
    print("copies, TB/s:", *(f"{x / 1e12:.2f}" for x in found))
    return max(found)


def cold(nbytes: int) -> int:
    """How many operand sets keep the cache cold."""
    return min(64, max(2, math.ceil(4e8 / nbytes)))


def report(name: str, us: float, nbytes: float, copy: float, other: str = "") -> None:
    share = nbytes / (us * 1e-6) / copy
    print(f"{name:34s} {us:9.2f} us {share:6.1%} of copy   {other}", flush=True)


def sweep(configurations: list[tuple[int, ...]], names: list[tuple[object, str]], time_us: Callable[[], float]) -> str:
    """The best three of the configurations, put in place of the named functions."""
    kept, found = [getattr(*name) for name in names], []
    for configuration in configurations:
        for owner, name in names:
            setattr(owner, name, lambda *_, chosen=configuration: chosen if len(chosen) > 1 else chosen[0])
        try:
            found.append((time_us(), configuration))
        except Exception as error:
            print("   ", configuration, (str(error).splitlines() or [type(error).__name__])[0][:80])
    for (owner, name), function in zip(names, kept):
        setattr(owner, name, function)
    return "; ".join(f"{us:.2f} {configuration}" for us, configuration in sorted(found)[:4])


def products(copy: float, sweeps: bool, many: bool = True) -> None:
    for name, N, K in PRODUCTS:
        copies = [weights(N, K) for _ in range(cold(2 * N * K))]
        for rows in ([1, 2, 8, 16] if name in ("qkv", "gate_up", "down") else [1, 8])[: None if many else 1]:
            x, squares = normal(rows, K), normal(rows, 4, dtype=torch.float32).square_()
            fused = name.startswith("gate_up")
            out, library = normal(rows, N // 2 if fused else N), normal(rows, N)
            run = gate_up.gate_up if fused else linear.linear

            def mine(run=run, x=x, out=out, squares=squares, copies=copies) -> float:
                return graph_us([lambda w=w: run(x, w, None, out, squares, HIDDEN, EPS) for w in copies])

            theirs = graph_us([lambda w=w, x=x, library=library: torch.mm(x, w.t(), out=library) for w in copies])
            report(f"{name} {N}x{K}, {rows} rows", mine(), 2 * N * K, copy, f"cuBLAS {theirs:.2f}")
            if sweeps and rows in (1, 8) and "*" not in name:
                rule = "one_row_tiles" if rows == 1 else "few_rows_tiles"
                best = sweep(ONE_ROW if rows == 1 else FEW_ROWS, [(linear, rule), (gate_up, rule)], mine)
                print("    best:", best, flush=True)


def decode_attention(copy: float, sweeps: bool) -> None:
    for context in [512, 2048, 8192, 32768]:
        nbytes = 2 * KV_HEADS * context * HEAD_DIM * 2
        copies = [
            (normal(KV_HEADS, context, HEAD_DIM), normal(KV_HEADS, context, HEAD_DIM)) for _ in range(cold(nbytes))
        ]
        q, out = normal(1, HEADS * HEAD_DIM), normal(1, HEADS * HEAD_DIM)
        control = torch.tensor([context - 1, 0, 0, 0], dtype=torch.int32, device="cuda")

        def mine(copies=copies, q=q, out=out, control=control) -> float:
            scratch = attention.scratch(HEADS, HEAD_DIM, 1, KV_HEADS, "cuda")
            return graph_us(
                [lambda k=k, v=v: attention.decode(q, k, v, control, 0, out, 4, 0, scratch) for k, v in copies]
            )

        report(f"decode attention, context {context}", mine(), nbytes, copy)
        if sweeps:
            tiles = [(splits, positions) for splits in (4, 8, 16, 32) for positions in (32, 64, 128)]
            print("    best:", sweep(tiles, [(attention, "decode_tiles")], mine), flush=True)


def prefill_attention(sweeps: bool) -> None:
    rows = 256
    for context in [256, 512, 2048, 8192]:
        q, out = normal(rows, HEADS * HEAD_DIM), normal(rows, HEADS * HEAD_DIM)
        keys, values = normal(KV_HEADS, context, HEAD_DIM), normal(KV_HEADS, context, HEAD_DIM)

        control = torch.tensor([context - rows, 1, rows, 0], dtype=torch.int32, device="cuda")

        def mine(q=q, keys=keys, values=values, out=out, control=control) -> float:
            return graph_us([lambda: attention.prefill(q, keys, values, control, 0, out, 4)] * 8)

        asked = q.view(1, rows, HEADS, HEAD_DIM).transpose(1, 2)
        k, v = (x.repeat_interleave(4, 0).unsqueeze(0) for x in (keys, values))
        bias = causal_lower_right(rows, context)
        theirs = graph_us([lambda a=asked, k=k, v=v, b=bias: F.scaled_dot_product_attention(a, k, v, attn_mask=b)] * 8)
        us = mine()
        tflops = 4 * HEADS * HEAD_DIM * rows * (context - rows / 2) / us / 1e6
        print(
            f"prefill attention, {rows} x {context:5d} {us:9.2f} us {tflops:5.0f} TFLOP/s   SDPA, wide KV {theirs:.2f}"
        )
        if sweeps:
            print("    best:", sweep(PREFILL, [(attention, "prefill_tiles")], mine), flush=True)


class Decoder:
    """A whole Llama-3-8B-shaped decode step on one device; the residual is added by `norm.scaled`."""

    def __init__(self, context: int):
        sizes = {"qkv": (6144, HIDDEN), "o": (HIDDEN, HIDDEN), "gate_up": (2 * MLP, HIDDEN), "down": (HIDDEN, MLP)}
        self.layers = [{name: weights(*shape) for name, shape in sizes.items()} for _ in range(LAYERS)]
        self.caches = [
            (normal(KV_HEADS, context + 1, HEAD_DIM), normal(KV_HEADS, context + 1, HEAD_DIM)) for _ in range(LAYERS)
        ]
        self.head, self.factor = weights(VOCABULARY, HIDDEN), normal(HIDDEN, dtype=torch.float32)
        self.cos, self.sin = (normal(context + 1, HEAD_DIM // 2, dtype=torch.float32) for _ in range(2))
        self.control = torch.tensor([context - 1, 0, 0, 0], dtype=torch.int32, device="cuda")
        self.hidden, self.part = (normal(1, HIDDEN, dtype=torch.float32) for _ in range(2))
        self.scaled, self.squares = normal(1, HIDDEN), normal(1, 8, dtype=torch.float32).square_()
        self.qkv, self.mixed, self.activated = normal(1, 6144), normal(1, HIDDEN), normal(1, MLP)
        self.logits, self.best = normal(1, VOCABULARY, dtype=torch.float32), argmax.scratch("cuda")
        self.best_id, self.best_value = torch.zeros(1, dtype=torch.int64, device="cuda"), normal(1, dtype=torch.float32)
        self.scratch = attention.scratch(HEADS, HEAD_DIM, 1, KV_HEADS, "cuda")
        held = [w for layer in self.layers for w in layer.values()] + [self.head]
        self.nbytes = sum(w.nbytes for w in held) + LAYERS * 2 * KV_HEADS * context * HEAD_DIM * 2

    def layer(self, at: int) -> None:
        weight, cache, factor = self.layers[at], self.caches[at], (self.squares, HIDDEN, EPS)
        linear.linear(self.scaled, weight["qkv"], None, self.qkv, *factor)
        rope.rope(self.qkv, self.cos, self.sin, None, EPS, *cache, self.control)
        attention.decode(self.qkv[:, :HIDDEN], *cache, self.control, 0, self.mixed, 4, 0, self.scratch)
        linear.linear(self.mixed, weight["o"], None, self.part)
        norm.scaled(self.hidden, self.factor, self.scaled, self.squares, self.part)
        gate_up.gate_up(self.scaled, weight["gate_up"], None, self.activated, *factor)
        linear.linear(self.activated, weight["down"], None, self.part)
        norm.scaled(self.hidden, self.factor, self.scaled, self.squares, self.part)

    def token(self) -> None:
        for at in range(LAYERS):
            self.layer(at)
        linear.linear(self.scaled, self.head, None, self.logits, self.squares, HIDDEN, EPS)
        argmax.argmax(self.logits[0], 0, self.best_id, self.best_value, self.best)


def chain(copy: float) -> None:
    decoder = Decoder(512)
    for name, overlaps in [("with overlap", True), ("without overlap", False)]:
        kept, launch._overlaps = launch._overlaps, lambda index, overlaps=overlaps: overlaps
        try:
            us = graph_us([decoder.token])
            per_layer = graph_us([lambda at=at: decoder.layer(at) for at in range(LAYERS)])
        finally:
            launch._overlaps = kept
        report(
            f"token at context 512, {name}",
            us,
            decoder.nbytes,
            copy,
            f"{1e6 / us:.1f} tokens/s, {per_layer:.2f} us a layer",
        )
    state = decoder.hidden.normal_(), decoder.scaled.normal_(), decoder.squares.fill_(1.0)
    first, results = [x.clone() for x in state], []
    for _ in range(3):
        for x, value in zip(state, first):
            x.copy_(value)
        decoder.token()
        results.append((decoder.hidden.clone(), decoder.logits.clone()))
    assert results[0][1].isfinite().all(), "the token's logits are not finite"
    same = all(torch.equal(a, b) for result in results[1:] for a, b in zip(results[0], result))
    print("three runs of one token:", "bitwise equal" if same else "DIFFERENT")


def main() -> None:
    if "--times" not in sys.argv:
        checks()
    sweeps = "--sweep" in sys.argv
    copy = copy_bytes_per_s()
    print(f"{torch.cuda.get_device_name()}: copy {copy / 1e12:.2f} TB/s")
    if part := [argument.partition("=")[2] for argument in sys.argv if argument.startswith("--sms=")]:
        with open_devices([f"cuda:0/{part[0]}"]) as devices:
            PART.append(devices[0].compute)
            decode_attention(copy, sweeps)
            products(copy, False, many=False)
        return
    chain(copy)
    decode_attention(copy, sweeps)
    products(copy, sweeps)
    prefill_attention(sweeps)


def checks() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "kernels" / "gpu"))
    from cases import CHECKS

    for name, check in CHECKS.items():
        begin = time.perf_counter()
        check()
        print("checked", name, f"{time.perf_counter() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
