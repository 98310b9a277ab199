"""Bulk collectives and token hand-over of `kernels/gpu`: checks, a stalled rank, times. Jobs for `gpu_collectives`."""
# ruff: noqa: B023  (each closure is called before its loop goes on)

from __future__ import annotations

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from tpplan.benchmarks import gpu_collectives as base
from tpplan.kernels.gpu.bulk import Bulk, new_bulk_slots
from tpplan.kernels.gpu.exchange import Exchange
from tpplan.kernels.gpu.handover import LAST_ID, Handover, advance, new_handover, new_results, result
from tpplan.kernels.gpu.host_memory import Layout
from tpplan.kernels.gpu.slots import new_site

GPU = base.GPU


def check_bulk(streams, cases=24, seed=0):
    """Random bulk collectives one after the other, numbers and rings going on; bitwise. A first round compiles, with
    all waits given up.
    """
    rng, n = random.Random(seed), len(streams)
    layout = Layout(n)
    slots = new_bulk_slots(layout, 256, 4096)
    box = base.Box(streams, layout, limit_ms=3000)
    every, kinds = list(range(n)), []
    for _ in range(6):
        combine, wire = rng.choice(["sum", "concat"]), rng.choice([torch.bfloat16, torch.float32, torch.float16])
        producers, consumers = (sorted(rng.sample(every, rng.randint(1, n))) for _ in range(2))
        width = rng.choice([64, 576, 1000, 4096])
        widths = {d: width if combine == "sum" else rng.choice([3, 64, 576, 1000]) for d in producers}
        kinds.append((combine, wire, producers, tuple(consumers), width, widths))
    made = [_BulkCase(rng, number, rng.choice(kinds)) for number in range(1, cases + 1)]
    box.memory.abort()
    bulks = [Bulk(slots, rank) for rank in box.ranks]
    for case in made:
        base.together(streams, [lambda d=d: case.launch(bulks[d], d) for d in every])
    box.memory.reset()
    [one.reset() for one in bulks]
    for case in made:
        for out in case.outs.values():
            out.fill_(torch.nan)
        torch.cuda.synchronize()
        base.together(streams, [lambda d=d: case.launch(bulks[d], d) for d in every])
        box.calm()
        case.check()
    box.memory.close()
    return cases


class _BulkCase:
    """A bulk collective, its tensors, launches and check."""

    def __init__(self, rng, number, kind):
        self.number, self.kind = number, kind
        combine, _, _, consumers, width, widths = kind
        self.rows = rows = rng.choice([2, 17, 100, 256])
        self.parts = {d: torch.randn(rows, w, device=GPU) for d, w in widths.items()}
        total = width if combine == "sum" else sum(widths.values())
        self.span = (0, total) if combine == "concat" or rng.random() < 0.5 else (total // 3, total - 5)
        wide = self.span[1] - self.span[0]
        self.residual = torch.randn(rows, wide, device=GPU) if rng.random() < 0.5 else None
        self.carry = torch.randn(rows, width, device=GPU) if combine == "sum" and rng.random() < 0.3 else None
        self.outs = {d: torch.zeros(rows, wide, device=GPU) for d in consumers}

    def launch(self, one, d):
        combine, wire, producers, consumers, _, widths = self.kind
        if d in self.parts or d in self.outs:
            one(
                self.number, widths, consumers, combine, wire, self.rows, self.parts.get(d), self.outs.get(d),
                self.residual if d in self.outs else None, self.carry if d == producers[0] else None, self.span,
            )  # fmt: skip

    def check(self):
        combine, wire, producers, consumers, _, widths = self.kind
        site = new_site(Layout(1 + max(producers + list(consumers))), 1, widths, consumers, combine, wire, 1)
        parts = [self.parts[p] for p in producers]
        for d, out in self.outs.items():
            want = base.reference(site, parts, d, None, self.carry)[:, slice(*self.span)]
            want = want if self.residual is None else want + self.residual
            assert torch.equal(out, want), (self.number, self.kind, d)


def check_handover(streams):
    """Best value, lowest id on ties, LAST_ID for NaN; the ring in host memory."""
    n, layout = len(streams), Layout(len(streams))
    site, rings = new_handover(layout, 9, tuple(range(n)), tuple(range(n))), [new_results(layout) for _ in range(n)]
    box = base.Box(streams, layout, 3000)
    hands = [Handover(site, rank, ring) for rank, ring in zip(box.ranks, rings)]
    tokens = [torch.zeros(1, dtype=torch.int64, device=GPU) for _ in range(n)]
    nan = float("nan")
    cases = [([1.0, 2.0, 0.5], 20), ([2.0, 2.0, 2.0], 10), ([1.0, nan, 3.0], LAST_ID.value), ([-1.0, -3.0, -2.0], 10)]
    nothing = (torch.zeros(1, device=GPU), torch.zeros(1, dtype=torch.int64, device=GPU))
    torch.cuda.synchronize()
    for d in range(n):  # compiles
        with torch.cuda.stream(streams[d]):
            Handover(site, base.Rank(box.memory, d, 0, 1), rings[d])(box.control[d], *nothing, tokens[d])
    base.idle(streams)
    box.memory.reset()
    for epoch, (values, want) in enumerate(cases, 1):
        best = [(torch.tensor([v], device=GPU), torch.tensor([10 * d + 10], device=GPU)) for d, v in enumerate(values)]
        torch.cuda.synchronize()
        base.together(streams, [lambda d=d: hands[d](box.control[d], *best[d], tokens[d]) for d in range(n)])
        base.together(streams, [lambda d=d: advance(box.control[d]) for d in range(n)])
        box.calm()
        got = [int(t) for t in tokens] + [result(box.memory, ring, epoch) for ring in rings]
        assert got == [want] * 2 * n, (values, got)
    box.memory.close()
    return len(cases)


def check_stall(streams):
    """Rank 0 never pushes: all others stop, say why, and the same process exchanges again."""
    n, layout = len(streams), Layout(len(streams))
    sites = [new_site(layout, 40 + k, dict.fromkeys(range(n), 576), range(n), "sum", torch.bfloat16) for k in range(3)]
    box = base.Box(streams, layout, limit_ms=1000)
    part, outs = torch.randn(1, 576, device=GPU), [torch.zeros(1, 576, device=GPU) for _ in range(n)]
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def body(d):
        for site in sites:
            Exchange(site, box.ranks[d])(box.control[d], part=part, out=outs[d])

    torch.cuda.synchronize()
    begun.record(streams[1])
    base.together(streams[1:], [lambda d=d: body(d) for d in range(1, n)])
    ended.record(streams[1])
    base.idle(streams)
    first = box.memory.troubles()[0]
    assert (first.site, first.producer, first.epoch) == (40, 0, 1), box.memory.troubles()
    assert first.device > 0
    box.memory.reset()
    base.together(streams, [lambda d=d: body(d) for d in range(n)])
    box.calm()
    assert all(torch.equal(o, outs[0]) for o in outs)
    box.memory.close()
    return f"{begun.elapsed_time(ended):.0f} ms, {first}"


def time_bulk(streams, mib, count=20):
    """Median GB/s each way and rank of sums of `mib` MiB in bf16 among all ranks, each rank launched by its thread."""
    n, rows, layout = len(streams), 256, Layout(len(streams))
    width = int(mib * 2**20) // 2 // rows
    slots = new_bulk_slots(layout, rows, width)
    box = base.Box(streams, layout, 2000)
    bulks = [Bulk(slots, rank) for rank in box.ranks]
    widths, number, times = dict.fromkeys(range(n), width), 0, []
    parts = [torch.randn(rows, width, device=GPU) for _ in range(n)]
    outs = [torch.zeros(rows, width, device=GPU) for _ in range(n)]

    def run(d):
        with torch.cuda.stream(streams[d]):
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            for k in range(count):
                bulks[d](number + 1 + k, widths, tuple(range(n)), "sum", torch.bfloat16, rows, parts[d], outs[d])
            ended.record()
            launched = time.perf_counter()
            ended.synchronize()
            return begun.elapsed_time(ended) / count, launched

    box.memory.abort()
    [run(d) for d in range(n)]
    box.memory.reset()
    [b.reset() for b in bulks]
    launches = []
    with ThreadPoolExecutor(n) as threads:
        for _ in range(6):
            at = time.perf_counter()
            found = list(threads.map(run, range(n)))
            times.append(max(ms for ms, _ in found))
            launches.append((max(t for _, t in found) - at) / count * 1e6)
            number += count
            box.calm()
    ms = statistics.median(times[2:])
    box.memory.close()
    launch_us = statistics.median(launches)
    return f"{ms * 1e3:.0f} us, {mib * 2**20 / ms / 1e6:.1f} GB/s each way and rank; launch {launch_us:.0f} us"


def time_copies(streams, mib, count=20):
    """Plain copies of `mib` MiB both ways at once, one rank's worth and two ranks' worth."""
    size, found = int(mib * 2**20), []
    for ranks in (1, 2):
        host = [torch.zeros(size, dtype=torch.uint8, pin_memory=True) for _ in range(2 * ranks)]
        card = [torch.ones(size, dtype=torch.uint8, device=GPU) for _ in range(2 * ranks)]
        lanes = [torch.cuda.Stream() for _ in range(2 * ranks)]
        best = []
        for _ in range(5):
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begun.record()
            for lane in lanes:
                lane.wait_event(begun)
            for _ in range(count):
                for i, lane in enumerate(lanes):
                    with torch.cuda.stream(lane):
                        host[i].copy_(card[i], non_blocking=True) if i % 2 else card[i].copy_(
                            host[i], non_blocking=True
                        )
            for lane in lanes:
                torch.cuda.current_stream().wait_stream(lane)
            ended.record()
            torch.cuda.synchronize()
            best.append(begun.elapsed_time(ended) / count)
        ms = statistics.median(best)
        found.append(f"{ranks} ranks {ms * 1e3:.0f} us {mib * 2**20 / ms / 1e6:.1f} GB/s each way and rank")
    return "; ".join(found)


def jobs(streams):
    made = [
        ("bulk checks 2", lambda: check_bulk(streams[:2])),
        ("bulk checks 3", lambda: check_bulk(streams, seed=1)),
        ("handover 3", lambda: check_handover(streams)),
        ("stall 3", lambda: check_stall(streams)),
    ]
    for mib in (1, 16):
        made.append((f"copies {mib} MiB", lambda mib=mib: time_copies(streams, mib)))
    for n, mib in ((2, 1), (2, 2), (2, 4), (2, 16), (3, 4), (3, 16)):
        made.append((f"bulk {n} ranks {mib} MiB", lambda n=n, mib=mib: time_bulk(streams[:n], mib)))
    return made
