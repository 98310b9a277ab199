"""Checks, then times the collectives of `kernels/gpu` on one GPU cut into disjoint partitions: one table.

Needs torch, triton, numpy and cuda-bindings only. Every rank is its own partition, its own stream, its own graph.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import traceback

import torch
import triton
from cuda.bindings import driver

from tpplan.kernels.gpu.exchange import BLOCK_CELLS, Exchange
from tpplan.kernels.gpu.handover import advance
from tpplan.kernels.gpu.host_memory import HostMemory, Layout, Rank
from tpplan.kernels.gpu.slots import host_pull, host_push, new_site

GPU = "cuda:0"


def ok(answer):
    assert int(answer[0]) == 0, answer[0]
    return answer[1:] if len(answer) > 2 else answer[1]


def partitions(sizes):
    """A stream on each of disjoint partitions of so many SMs."""
    torch.cuda.init()
    torch.zeros(1, device=GPU)
    device = ok(driver.cuDeviceGet(0))
    whole = ok(driver.cuDeviceGetDevResource(device, driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM))
    groups, _, _ = ok(driver.cuDevSmResourceSplitByCount(16, whole, 0, 8))
    streams, used = [], 0
    for size in sizes:
        mine = groups[used : used + size // 8]
        used += size // 8
        desc = ok(driver.cuDevResourceGenerateDesc(mine, len(mine)))
        flag = driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
        context = ok(driver.cuGreenCtxCreate(desc, device, flag))
        stream = ok(driver.cuGreenCtxStreamCreate(context, driver.CUstream_flags.CU_STREAM_NON_BLOCKING, 0))
        streams.append(torch.cuda.ExternalStream(int(stream)))
    return streams


def capture(stream, body):
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        body()
    return graph


def together(streams, bodies):
    for stream, body in zip(streams, bodies):
        with torch.cuda.stream(stream):
            body()
    idle(streams)


def idle(streams):
    """Waits for each: synchronising with the GPU does not wait for streams of partitions."""
    for stream in streams:
        stream.synchronize()


class Box:
    """`ranks` partitions of one GPU, their control tensors, one piece of host memory."""

    def __init__(self, streams, layout, limit_ms=500):
        self.streams, self.memory = streams, HostMemory(layout, [0])
        self.ranks = [Rank(self.memory, d, 0, limit_ms) for d in range(len(streams))]
        self.control = [torch.tensor([0, 1, 0, 0], dtype=torch.int32, device=GPU) for _ in streams]

    def calm(self):
        idle(self.streams)
        assert not self.memory.aborted, self.memory.troubles()


def reference(site, parts, device, residual, carry):
    """What a consumer should hold, in torch on the GPU."""
    sent = [(p + (carry if carry is not None and k == 0 else 0)).to(site.wire).float() for k, p in enumerate(parts)]
    if site.combine == "concat":
        total = torch.cat(sent, 1)
    else:
        total = sent[0]
        for one in sent[1:]:
            total = total + one
    begin, end = site.span(device)
    total = total[:, begin:end]
    return total if residual is None else total + residual


class Case:
    """A random collective among `count` ranks, its tensors, launches and check."""

    def __init__(self, rng, layout, number, count, whole=None):
        every = list(range(count))
        self.combine = rng.choice(["sum", "concat"])
        wire = rng.choice([torch.bfloat16, torch.float16, torch.float32])
        producers = every if whole else rng.sample(every, rng.randint(1, count))
        consumers = every if whole else rng.sample(every, rng.randint(1, count))
        self.rows = rng.choice([1, 1, 1, 3, 16])
        top = 16384 if self.rows == 1 else 2048
        pick = lambda: rng.choice([2, 7, 64, 130, 576, 1000, 2048, 4096, rng.randint(1, top)])  # noqa: E731
        width = pick()
        widths = {d: width if self.combine == "sum" else min(pick(), 4096) for d in producers}
        spans = None
        if self.combine == "sum" and not whole and rng.random() < 0.5 and width > 8:
            cuts = [0, *sorted(2 * rng.randint(1, width // 2 - 1) for _ in consumers[1:]), width]
            spans = {d: (cuts[i], cuts[i + 1]) for i, d in enumerate(sorted(consumers))}
            consumers = [d for d in consumers if spans[d][1] > spans[d][0]]
        self.site = new_site(layout, number, widths, consumers, self.combine, wire, self.rows, spans)
        self.carries, self.adds = rng.random() < 0.3 and self.combine == "sum", rng.random() < 0.5

    def bind(self, box):
        s = self.site
        self.sets = [[torch.randn(self.rows, w, device=GPU) for w in s.widths] for _ in range(2)]
        self.parts = [p.clone() for p in self.sets[0]]
        total = sum(s.widths) if s.combine == "concat" else s.widths[0]
        self.carry = torch.randn(self.rows, total, device=GPU) if self.carries else None
        self.out, self.residual, self.extra, self.bound = {}, {}, {}, {}
        for d in set(s.producers) | set(s.consumers):
            self.bound[d] = Exchange(s, box.ranks[d])
            if d in s.consumers:
                wide = s.span(d)[1] - s.span(d)[0]
                self.out[d] = torch.full((self.rows, wide), torch.nan, device=GPU)
                self.residual[d] = torch.randn(self.rows, wide, device=GPU) if self.adds else None
                weight = torch.rand(wide, device=GPU)
                scaled = torch.zeros(self.rows, wide, device=GPU, dtype=torch.bfloat16)
                self.extra[d] = (weight, scaled, torch.zeros(self.rows, self.bound[d].programs, device=GPU))
        self.bad = torch.zeros((), dtype=torch.int64, device=GPU)
        self.expected = {d: reference(s, self.parts, d, self.residual[d], self.carry) for d in s.consumers}

    def launch(self, d, box):
        s = self.site
        if d not in self.bound:
            return
        place = s.producers.index(d) if d in s.producers else -1
        weight, scaled, squares = self.extra.get(d, (None, None, None))
        self.bound[d](
            box.control[d], part=self.parts[place] if place >= 0 else None, out=self.out.get(d),
            residual=self.residual.get(d), carry=self.carry if place == 0 else None, weight=weight, scaled=scaled,
            squares=squares, rows=self.rows,
        )  # fmt: skip

    def check(self):
        for d, out in self.out.items():
            assert torch.equal(out, self.expected[d]), (self.site, d, (out - self.expected[d]).abs().max())
            weight, scaled, squares = self.extra[d]
            assert torch.equal(scaled, (out * weight).bfloat16()), (self.site, d, "scaled")
            assert torch.allclose(squares.sum(1), out.square().sum(1), rtol=1e-4), (self.site, d, "squares")
            out.fill_(torch.nan)


def check_exchanges(streams, cases=60, seed=0):
    rng, layout = random.Random(seed), Layout(len(streams))
    made = [Case(rng, layout, n, len(streams)) for n in range(cases)]
    box = Box(streams, layout)
    for case in made:
        case.bind(box)
    torch.cuda.synchronize()
    bodies = [[lambda d=d, case=case: case.launch(d, box) for d in range(len(streams))] for case in made]
    box.memory.abort()
    for body in bodies:  # compiles, since loading a kernel under one that waits ends in a deadlock
        together(streams, body)
    box.memory.reset()
    for case, body in zip(made, bodies):
        together(streams, body)
        box.calm()
        case.check()
    box.memory.close()
    return cases


def host_rank(streams):
    """A CPU rank beside a GPU rank: both directions, both combinations."""
    for combine in ("sum", "concat"):
        layout = Layout(2)
        site = new_site(layout, 7, {0: 576, 1: 576}, (0, 1), combine, torch.bfloat16)
        box = Box(streams[:1], layout)
        mine, theirs = torch.randn(1, 576, device=GPU), torch.randn(1, 576)
        total = 576 if combine == "sum" else 1152
        out = torch.zeros(1, total, device=GPU)
        host_push(box.memory, site, 1, theirs, 1)
        with torch.cuda.stream(streams[0]):
            Exchange(site, box.ranks[0])(box.control[0], part=mine, out=out)
        box.calm()
        assert torch.equal(out.cpu(), host_pull(box.memory, site, 1, 1)), combine
        box.memory.close()


def time_graphs(streams, graphs, count, repeats=15):
    """Median us of one exchange: all graphs launched together, wall time by events on the first stream."""
    for _ in range(3):
        together(streams, [g.replay for g in graphs])
    found = []
    for _ in range(repeats):
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in graphs]
        torch.cuda.synchronize()
        for stream, graph, (begun, ended) in zip(streams, graphs, events):
            with torch.cuda.stream(stream):
                begun.record()
                graph.replay()
                ended.record()
        idle(streams)
        found.append(min(b.elapsed_time(e) for b, e in events) * 1e3 / count)
    return statistics.median(found)


def time_sum(streams, kib, fused, block=BLOCK_CELLS, count=200, wire=torch.bfloat16, device_memory=False):
    n, width = len(streams), kib * 1024 // wire.itemsize
    layout = Layout(n)
    sites = [new_site(layout, k, dict.fromkeys(range(n), width), range(n), "sum", wire) for k in range(8)]
    box = Box(streams, layout)
    if device_memory:
        store = torch.zeros(layout.size_bytes + 256, dtype=torch.uint8, device=GPU)
        box.memory.aliases[0] = store.data_ptr() + (-store.data_ptr()) % 128
    graphs = []
    for d, stream in enumerate(streams):
        bound = [Exchange(s, box.ranks[d], block) for s in sites]
        part = torch.randn(1, width, device=GPU)
        out, weight = torch.zeros(1, width, device=GPU), torch.rand(width, device=GPU)
        extra = {}
        if fused:
            extra = {"residual": out, "weight": weight, "scaled": torch.zeros(1, width, device=GPU, dtype=wire)}
            extra["squares"] = torch.zeros(1, bound[0].programs, device=GPU)

        def body(bound=bound, d=d, part=part, out=out, extra=extra):
            for k in range(count):
                bound[k % 8](box.control[d], part=part, out=out, **extra)
                if k % 8 == 7:
                    advance(box.control[d])

        silent = Rank(box.memory, d, 0, 1)
        with torch.cuda.stream(stream):  # compiles: gives up at once
            Exchange(sites[0], silent, block)(box.control[d], part=part, out=out, **extra)
            advance(box.control[d])
        idle(streams)
        graphs.append(capture(stream, body))
        graphs[-1].keep = (part, out, weight, extra, bound)
    box.memory.reset()
    if device_memory:
        store.zero_()
    for c in box.control:
        c.copy_(torch.tensor([0, 1, 0, 0], dtype=torch.int32))
    us = time_graphs(streams, graphs, count)
    if not device_memory:
        box.calm()
    box.memory.close()
    return us


def advance_cost(streams, count=200):
    control = torch.tensor([0, 1, 0, 0], dtype=torch.int32, device=GPU)
    advance(control)
    graph = capture(streams[0], lambda: [advance(control) for _ in range(count)])
    return time_graphs(streams[:1], [graph], count)


def main():
    begun = time.time()
    print(torch.cuda.get_device_name(0), torch.__version__, triton.__version__, flush=True)
    streams = partitions([32, 32, 32])
    jobs = [
        ("exchanges 2", lambda: check_exchanges(streams[:2], 12)),
        ("exchanges 3", lambda: check_exchanges(streams, 12, seed=1)),
        ("host rank", lambda: host_rank(streams)),
        ("advance us", lambda: advance_cost(streams)),
    ]
    for n in (2, 3):
        for kib in (8, 16, 64):
            for fused in (True,):
                jobs.append(
                    (f"sum {n} ranks {kib} KiB fused={fused}", lambda n=n, k=kib, f=fused: time_sum(streams[:n], k, f))
                )
        jobs.append(
            (f"sum {n} ranks 8 KiB device memory", lambda n=n: time_sum(streams[:n], 8, True, device_memory=True))
        )
    from tpplan.benchmarks import gpu_bulk

    jobs += gpu_bulk.jobs(streams)
    rows = []
    for name, job in jobs:
        try:
            rows.append((name, job()))
        except Exception:
            rows.append((name, "FAILED"))
            traceback.print_exc(limit=6)
        print(rows[-1], f"{time.time() - begun:.0f} s", flush=True)
    sys.exit(any(r[1] == "FAILED" for r in rows))


if __name__ == "__main__":
    main()
