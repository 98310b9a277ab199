"""Every compute probe runs, and together with the exchange they cover the vocabulary of steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import get_args

import pytest
import torch
from small_probes import shrink

from tpplan.hwprofiles import timing
from tpplan.hwprofiles.bench import Probe, typical_s
from tpplan.hwprofiles.device_names import available_cores
from tpplan.hwprofiles.probes import probes
from tpplan.hwprofiles.profile import Format, Op
from tpplan.hwprofiles.timing import Bench
from tpplan.kernels.worker import Worker
from tpplan.planner.plan import PREFILL_CHUNK
from tpplan.planner.steps import Kind

CORES = available_cores()
QUICK = [True, False]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A device of one core, and one small shape of each step to probe."""
    shrink(monkeypatch)
    worker = Worker("device", CORES[:1])
    yield Bench(worker)
    worker.close()


@pytest.mark.parametrize("quick", QUICK)
def test_every_probe_runs(bench: Bench, quick: bool) -> None:
    """Every probe gives as many samples as calls were asked for, all of them positive."""
    for probe in probes(quick):
        for calls in (1, 4):
            samples = probe.start(bench, calls).result()
            assert len(samples) == calls, probe
            assert all(0 < seconds < 5 for seconds in samples), probe


def test_several_cores(bench: Bench) -> None:
    """Probes run on a device of several cores, too."""
    worker = Worker("device", CORES)
    wide = Bench(worker)
    try:
        for probe in probes(quick=True):
            assert all(seconds > 0 for seconds in probe.start(wide, 2).result()), probe
    finally:
        worker.close()


@pytest.mark.parametrize("quick", QUICK)
def test_every_kind_is_measured(quick: bool) -> None:
    """Probes and exchange together measure every kind of step there is, and a profile can hold each."""
    measured = {probe.op for probe in probes(quick)} | {"push", "pull"}
    assert measured == {str(kind) for kind in Kind} == set(get_args(Op))


@pytest.mark.parametrize("quick", QUICK)
def test_both_phases_are_measured(quick: bool) -> None:
    """Each kind is measured for one row; for a whole prefill chunk too, but for the one that only sees the last row."""
    rows: dict[str, set[int]] = {}
    for probe in probes(quick):
        rows.setdefault(probe.op, set()).add(probe.rows)
    assert all(1 in counts for counts in rows.values())
    assert {op for op, counts in rows.items() if PREFILL_CHUNK not in counts} == {"argmax"}


@pytest.mark.parametrize("quick", QUICK)
def test_every_format_is_measured(quick: bool) -> None:
    """One-row products are measured in every weight format but int8, batches in those that are run."""

    def formats(wanted: int) -> set[str]:
        return {p.format for p in probes(quick) if p.op == "linear" and p.rows == wanted}

    assert formats(1) == set(get_args(Format)) - {"int8"}
    assert formats(PREFILL_CHUNK) == {"float32", "bfloat16"}


@pytest.mark.parametrize("quick", QUICK)
def test_no_probe_twice(quick: bool) -> None:
    """No two probes measure the same point."""

    def point(p: Probe) -> tuple[object, ...]:
        return p.op, p.rows, p.in_features, p.out_features, p.format, p.context

    points = [point(p) for p in probes(quick)]
    assert len(set(points)) == len(points)


def test_cold_operands_do_not_come_back(bench: Bench) -> None:
    """The pool is walked round: operands do not overlap until all of it was used, and never reach past its end."""
    first = [bench.cold(3, 1000) for _ in range(len(bench.pool) // 3008)]
    spans = [(t.data_ptr(), t.data_ptr() + 4 * t.numel()) for t in first]
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert spans[-1][1] <= bench.pool.data_ptr() + bench.pool.nbytes
    assert bench.cold(3, 1000).data_ptr() == spans[0][0]
    with pytest.raises(ValueError, match="larger than the pool"):
        bench.cold(len(bench.pool) + 1)


def test_typical_time() -> None:
    """The typical time is the median of all samples but the first, or the only one there is."""
    assert typical_s([9.0, 1.0, 2.0, 7.0]) == 2.0
    assert typical_s([9.0]) == 9.0


def test_calls_are_timed_one_by_one(bench: Bench) -> None:
    """Each call is made once, on the device's thread, and has a time of its own."""
    made: list[tuple[int, ...]] = []
    samples = timing.start_calls(bench, lambda: made.append((torch.get_num_threads(),)), 5).result()
    assert len(samples) == len(made) == 5
    assert set(made) == {(1,)}
