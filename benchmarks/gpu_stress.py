"""A million small collectives on parts of one GPU: python benchmarks/gpu_stress.py --collectives 1000000

Call-sites of random sizes, formats and members, in graphs that are replayed; ranks are late at random. Values change
with every pass and site, so a word that was lost, or is of another pass, is seen: every value that arrives is compared
on the GPU with what its producers must have sent. A pass ends with a hand-over of all ranks, as a token does.
"""
# ruff: noqa: B023  (each closure is called before its loop goes on)

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import globaltimer

from tpplan.benchmarks.gpu_collectives import GPU, Box, capture, partitions, together
from tpplan.kernels.gpu.exchange import Exchange
from tpplan.kernels.gpu.handover import Handover, advance, new_handover, new_results
from tpplan.kernels.gpu.host_memory import Layout
from tpplan.kernels.gpu.slots import new_site

SITES, KINDS, BLOCK = 200, 10, 1024
SMS = (8, 16, 24)  # of the ranks
DELAY_NS, RESIDUAL = 20000, 5.0


@triton.jit
def drawn(epoch, site, producer, index):
    """A whole number within 64 of zero that depends on all of them: sums of some are exact in every format."""
    h = (epoch * 0x1E3779B1) ^ (site * 0x05EBCA77 + producer * 0x42B2AE3D) ^ (index * 0x27D4EB2F)
    h = (h ^ ((h >> 15) & 0x1FFFF)) * 0x2C1B3C6D
    h = (h ^ ((h >> 12) & 0xFFFFF)) * 0x297A2D39
    return (((h >> 15) & 127) - 64).to(tl.float32)


@triton.jit(do_not_specialize=["epoch_shift", "site", "producer", "count", "delay_ns"])
def produce(part, control, epoch_shift, site, producer, count, delay_ns, BLOCK: tl.constexpr):
    """part[i] = drawn(epoch, site, producer, i), seldom after a delay of up to `delay_ns`."""
    epoch = tl.load(control + 1) + epoch_shift
    chance = drawn(epoch, site, producer + 100, epoch * 0 + 1)
    if chance > 40.0:
        late = ((chance - 40.0) / 24.0 * delay_ns).to(tl.int64)
        begun = globaltimer()
        now = begun
        while now - begun < late:
            now = globaltimer()
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        tl.store(part + at, drawn(epoch, site, producer, at), mask=at < count)


@triton.jit(do_not_specialize=["site", "members", "rows", "width", "begin", "end", "stride", "start", "residual"])
def compare(
    out, control, wrong, site, members, rows, width, begin, end, stride, start, residual, RANKS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Counts values of columns [begin, end) of parts `width` wide that are not the sum over `members` (bits)."""
    epoch = tl.load(control + 1)
    wide = end - begin
    for first in range(0, rows * wide, BLOCK):
        at = first + tl.arange(0, BLOCK)
        row, column = at // wide, at % wide
        total = tl.zeros([BLOCK], tl.float32)
        for p in tl.static_range(RANKS):
            total += tl.where(
                ((members >> p) & 1) != 0, drawn(epoch, site, epoch * 0 + p, row * width + begin + column), 0.0
            )
        got = tl.load(out + row * stride + start + column, mask=at < rows * wide, other=0.0)
        bad = (at < rows * wide) & ((got == total + residual) == 0)
        count = tl.sum(bad.to(tl.int32), 0)
        if count > 0:
            tl.atomic_add(wrong, count)
            tl.atomic_min(wrong + 1, site)
        tl.store(out + row * stride + start + column, tl.full([BLOCK], float("nan"), tl.float32), mask=at < rows * wide)


@triton.jit(do_not_specialize=["site"])
def compare_token(token, control, wrong, site, RANKS: tl.constexpr):
    """The hand-over's winner: the lowest id (1000 + rank) of the largest of the ranks' values."""
    epoch = tl.load(control + 1)
    zero = epoch * 0
    best, at = drawn(epoch, site, zero, zero), zero
    for p in tl.static_range(1, RANKS):
        value = drawn(epoch, site, zero + p, zero)
        at = tl.where(value > best, p, at)
        best = tl.maximum(best, value)
    if tl.load(token) != 1000 + at:
        tl.atomic_add(wrong, 1)
        tl.atomic_min(wrong + 1, site)
    tl.store(token, -1)


class Call:
    """A random call-site of one of a few kinds, since each kind is compiled for each of its ranks."""

    def __init__(self, rng, layout, number, kind, residual):
        combine, wire, producers, consumers, wide = kind
        rows = rng.choice([1, 1, 1, 1, 2, 5, 16])
        sizes = [1, 2, 7, 64, 576, 1000, 2048, 4096, rng.randint(1, 8192)]
        width = rng.choice(sizes) if rows < 5 else rng.randint(1, 900)
        widths = dict.fromkeys(producers, width) if combine == "sum" else dict(zip(producers, wide))
        spans = None
        if combine == "sum" and rng.random() < 0.4 and width > 8:
            cuts = [0, *sorted(rng.sample(range(1, width), len(consumers) - 1)), width]
            spans = {d: (cuts[i], cuts[i + 1]) for i, d in enumerate(consumers)}
        self.site = new_site(layout, number, widths, consumers, combine, wire, rows, spans)
        self.rows, self.residual = rows, residual

    def bind(self, box):
        s = self.site
        self.parts = {d: torch.zeros(self.rows, w, device=GPU) for d, w in zip(s.producers, s.widths)}
        self.outs = {d: torch.zeros(self.rows, s.span(d)[1] - s.span(d)[0], device=GPU) for d in s.consumers}
        self.more = {d: torch.full_like(out, RESIDUAL) if self.residual else None for d, out in self.outs.items()}
        self.bound = {d: Exchange(s, box.ranks[d]) for d in {*s.producers, *s.consumers}}

    def launch(self, d, control, wrong, ranks, epoch_shift):
        s = self.site
        if d in self.parts:
            produce[(1,)](
                self.parts[d], control, epoch_shift, s.number, d, self.parts[d].numel(), DELAY_NS, BLOCK=BLOCK
            )
        if d in self.bound:
            self.bound[d](control, self.parts.get(d), self.outs.get(d), self.more.get(d), rows=self.rows)
        if d in self.outs:
            out, add = self.outs[d], RESIDUAL if self.residual else 0.0
            sliced = s.combine == "concat"
            for p, width, start in zip(s.producers, s.widths, s.begins()) if sliced else ((0, 0, 0),):
                begin, end = (0, width) if sliced else s.span(d)
                members = 1 << p if sliced else sum(1 << q for q in s.producers)
                compare[(1,)](
                    out, control, wrong, s.number, members, self.rows, s.widths[0] if not sliced else width, begin,
                    end, out.stride(0), start, add, RANKS=ranks, BLOCK=BLOCK,
                )  # fmt: skip


class Passes:
    """`SITES` call-sites among `ranks` ranks, captured as one graph a rank."""

    def __init__(self, streams, seed, stale=False):
        rng, n = random.Random(seed), len(streams)
        self.streams, self.n = streams, n
        kinds = [_kind(rng, n, whole=k < 2) for k in range(KINDS)]
        layout = Layout(n)
        self.calls = [Call(rng, layout, k, *rng.choice(kinds)) for k in range(SITES)]
        feeds = (k for k, call in enumerate(self.calls) if call.site.producers[0] == 0 and call.site.widths[0] > 16)
        self.stale = next(feeds) if stale else -1  # where rank 0 sends what the pass before had
        self.handover = new_handover(layout, SITES, tuple(range(n)), tuple(range(n)))
        results = [new_results(layout) for _ in streams]
        self.box = Box(streams, layout, limit_ms=4000)
        for call in self.calls:
            call.bind(self.box)
        self.hands = [Handover(self.handover, self.box.ranks[d], results[d]) for d in range(n)]
        self.wrong = [torch.tensor([0, 1 << 30], dtype=torch.int32, device=GPU) for _ in streams]
        self.token = [torch.zeros(1, dtype=torch.int64, device=GPU) for _ in streams]
        self.best = [(torch.zeros(1, device=GPU), torch.tensor([1000 + d], device=GPU)) for d in range(n)]
        torch.cuda.synchronize()

    def body(self, d, only=None):
        """All of a pass of rank d; `only`: some of its call-sites, to compile."""
        control, wrong = self.box.control[d], self.wrong[d]
        for k, call in enumerate(self.calls):
            if only is None or k in only:
                call.launch(d, control, wrong, self.n, -1 if d == 0 and k == self.stale else 0)
        produce[(1,)](self.best[d][0], control, 0, SITES, d, 1, DELAY_NS, BLOCK=BLOCK)
        self.hands[d](control, *self.best[d], self.token[d])
        compare_token[(1,)](self.token[d], control, wrong, SITES, RANKS=self.n)
        advance(control)

    def warm_up(self, only=None):
        self.box.memory.abort()
        for d, stream in enumerate(self.streams):
            together([stream], [lambda: self.body(d, only)])

    def run(self, passes):
        """Replays; the number of values that were wrong, and the first call-site (2^30 for none)."""
        self.warm_up()
        graphs = [capture(stream, lambda: self.body(d)) for d, stream in enumerate(self.streams)]
        self.box.memory.reset()
        for d in range(self.n):
            self.box.control[d].copy_(torch.tensor([0, 1, 0, 0], dtype=torch.int32))
            self.wrong[d].copy_(torch.tensor([0, 1 << 30], dtype=torch.int32))
        for done in range(passes):
            together_later(self.streams, graphs)
            if done % 100 == 99:
                self.box.calm()
        self.box.calm()
        self.box.memory.close()
        return sum(int(w[0]) for w in self.wrong), min(int(w[1]) for w in self.wrong)


def together_later(streams, graphs):
    for stream, graph in zip(streams, graphs):
        with torch.cuda.stream(stream):
            graph.replay()


def _kind(rng, n, whole):
    """Combine, wire, members, widths; and whether a residual is added."""
    every = list(range(n))
    producers, consumers = (sorted(every if whole else rng.sample(every, rng.randint(1, n))) for _ in range(2))
    combine, wire = rng.choice(["sum", "sum", "concat"]), rng.choice([torch.bfloat16, torch.float16, torch.float32])
    wide = [rng.choice([1, 5, 64, 576, 1001, 3000]) for _ in producers]
    return (combine, wire, producers, consumers, wide), rng.random() < 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collectives", type=int, default=1_000_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", type=int, nargs=2, help="only this part of so many of the kernels")
    arguments = parser.parse_args()
    plans = [(n, arguments.seed + round_) for round_ in range(3) for n in (2, 3)]
    if arguments.compile:
        part, parts = arguments.compile
        for n, seed in plans:
            passes = Passes([torch.cuda.Stream() for _ in range(n)], seed)
            passes.warm_up(range(part, SITES, parts))
            passes.box.memory.close()
        return
    streams = partitions(SMS)
    workers = [subprocess.Popen([*_again(arguments), "--compile", str(i), "12"]) for i in range(12)]
    assert not any(worker.wait() for worker in workers), "compiling failed"
    replays = -(-arguments.collectives // SITES // len(plans))
    for n, seed in plans:
        begun = time.perf_counter()
        wrong, site = Passes(streams[:n], seed).run(replays)
        seconds = time.perf_counter() - begun
        print(
            f"{n} ranks, seed {seed}: {replays * SITES} collectives, {wrong} values wrong, {seconds:.1f} s", flush=True
        )
        assert not wrong, f"the first is of call-site {site}"
    wrong, site = Passes(streams[:2], arguments.seed, stale=True).run(3)
    assert wrong, "a part of another pass went unnoticed"
    print(f"a part of the pass before, sent on purpose: noticed, call-site {site}")


def _again(arguments):
    return [sys.executable, __file__, "--seed", str(arguments.seed)]


if __name__ == "__main__":
    main()
