"""Collectives through host slots under stress, against sums in device order; waits that time out or are stopped."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from plans import ranges
from profiles import make_model
from splits import shares
from tapes import poisoned, run_lanes

from tpplan.executor.pass_runner import DeviceProgram, PassRunner
from tpplan.executor.program import Binder, Bound
from tpplan.executor.state import DeviceState
from tpplan.hwprofiles.device_names import available_cores
from tpplan.kernels import linear, staging, tape
from tpplan.kernels.staging import ABORTED, ARRIVED, TIMED_OUT, Staging
from tpplan.kernels.worker import Worker
from tpplan.planner.layer_graph import StepBuilder, device_steps
from tpplan.planner.plan import Range
from tpplan.planner.steps import Kind, Step

WIDEST = 500
CORES = available_cores()


@dataclass(frozen=True)
class Collective:
    """`widths`: values a row that each producer pushes; `delays`: by device, the rows of a product made before.

    `sums`: columns of the sum that devices add up for the consumers, () where these do it themselves.
    """

    widths: dict[int, int]
    consumers: tuple[int, ...]
    combine: str
    delays: dict[int, int]
    sums: tuple[Range, ...] = ()

    def add_to(self, b: StepBuilder) -> int:
        """Adds its steps; gives how many exchanges they are."""
        before = b.collectives
        if self.sums:
            b.reduced_exchange(tuple(self.widths), self.consumers, self.sums)
        else:
            b.exchange("hidden", self.widths, self.consumers, self.combine)
        return b.collectives - before


def random_collectives(seed: int, devices: int, count: int, slow: int = -1) -> list[Collective]:
    """Any producers, consumers and reducers; now and then a device is late, device `slow` always."""
    rng = random.Random(seed)
    everyone, made = range(devices), []
    while len(made) < count:
        producers = sorted(rng.sample(everyone, rng.randint(1, devices)))
        consumers = tuple(sorted(rng.sample(everyone, rng.randint(1, devices))))
        if len(producers) == 1 and tuple(producers) == consumers:
            continue
        sums: tuple[Range, ...] = ()
        if rng.random() < 0.3 and len(producers) > 1:
            widths, combine = dict.fromkeys(producers, WIDEST), "sum"
            sums = ranges(shares(rng, devices, WIDEST, 1))
        elif rng.random() < 0.5:
            widths, combine = dict.fromkeys(producers, rng.randint(1, WIDEST)), "sum"
        else:
            widths, combine = {p: rng.randint(1, WIDEST // devices) for p in producers}, "concat"
        delays = {d: rng.choice([20, 200, 2000]) for d in everyone if d == slow or rng.random() < 0.05}
        made.append(Collective(widths, consumers, combine, delays, sums))
    return made


class Rig:
    """Devices that only exchange: each producer's part grows by `noise` before a collective, each pull is recorded."""

    def __init__(self, collectives: list[Collective], workers: list[Worker], rows: int) -> None:
        self.collectives, self.rows = collectives, rows
        model = make_model(hidden=WIDEST)
        b = StepBuilder(model, rows, 1)
        self.of_site = [i for i, c in enumerate(collectives) for _ in range(c.add_to(b))]
        shared = Staging([rows * WIDEST] * len(workers))
        angles = torch.zeros(rows, model.head_dim // 2)
        self.noise = [{p: torch.randn(rows * w) for p, w in c.widths.items()} for c in collectives]
        self.pulled = [{d: torch.zeros(rows * self._width(c)) for d in c.consumers} for c in collectives]
        self.late = torch.randn(2000, 64), torch.randn(64), [torch.empty(2000) for _ in workers]
        programs = []
        for d, worker in enumerate(workers):
            mine = list(device_steps(b.steps, d))
            state = DeviceState(worker, d, model, mine, {}, (angles, angles), torch.zeros(1), rows)
            programs.append(
                DeviceProgram(worker.name, state, list(self._with_data(Binder(model, state, shared), mine)))
            )
        self.runner = PassRunner(programs, shared, b.collectives)
        self.parts = [torch.zeros(rows * WIDEST) for _ in workers]  # what the devices' parts should be

    def _width(self, c: Collective) -> int:
        return sum(c.widths.values()) if c.combine == "concat" else next(iter(c.widths.values()))

    def _with_data(self, binder: Binder, steps: list[Step]) -> Iterator[Bound]:
        """Before a device's first step of a collective its part changes, after the last pull the result is kept."""
        buffers, device = binder.state.buffers, binder.state.device
        at, site = -1, -1
        for step in steps:
            if step.collective != site:
                site = step.collective
                if delay := self.collectives[self.of_site[site]].delays.get(device):
                    yield self._delay(step, device, delay)
            if self.of_site[site] != at:
                at = self.of_site[site]
                binder.result = "part"  # as after a block's output projection
                if device in self.noise[at]:
                    yield self._added(step, self.noise[at][device], buffers["part"])
            yield from binder.bind([step])
            last = site + 1 == len(self.of_site) or self.of_site[site + 1] != at
            if step.kind is Kind.PULL and last:
                result = "sums" if step.role == "pull_parts" else "hidden"
                yield self._added(step, buffers[result], self.pulled[at][device])

    def _delay(self, step: Step, device: int, rows: int) -> Bound:
        weight, x, out = self.late
        where = (x.data_ptr(), weight.data_ptr(), 0, out[device].data_ptr(), 64, rows, linear.FORMATS[weight.dtype])
        return Bound(step, (tape.LINEAR, *where))

    def _added(self, step: Step, x: torch.Tensor, to: torch.Tensor) -> Bound:
        """Adds `x` to `to`, as many rows as there are of the shorter one."""
        wide = min(len(x), len(to)) // self.rows
        return Bound(step, (tape.RESIDUAL, to.data_ptr(), x.data_ptr(), wide, wide))

    def check_pass(self) -> None:
        """One pass; everything that was pulled must be, bit for bit, what the producers' parts then added up to."""
        for c in self.pulled:
            for out in c.values():
                out.zero_()
        self.runner.run([0] * self.rows, 0, logits=True)
        for site, c in enumerate(self.collectives):
            pieces = []
            for p, wide in c.widths.items():
                part = self.parts[p][: self.rows * wide]
                part += self.noise[site][p]
                pieces.append(part.view(self.rows, wide).clone())
            want = torch.cat(pieces, dim=1) if c.combine == "concat" else sum(pieces[1:], pieces[0])
            for device, got in self.pulled[site].items():
                assert torch.equal(got, want.flatten()), f"collective {site} ({c}) differs on device {device}"


@contextmanager
def workers_of(devices: int, lanes: int) -> Iterator[list[Worker]]:
    """Devices that share the cores of this machine, however few."""
    cores = [tuple(CORES[(d + i) % len(CORES)] for i in range(lanes)) for d in range(devices)]
    workers = [Worker(f"device {d}", mine) for d, mine in enumerate(cores)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()


@pytest.mark.parametrize(("devices", "lanes", "count"), [(2, 1, 1500), (3, 1, 1000), (3, 2, 200)])
def test_tapes_exchange_bit_for_bit(devices: int, lanes: int, count: int) -> None:
    """Thousands of random collectives among late devices, pass after pass, lose no word and read no stale one."""
    with workers_of(devices, lanes) as workers:
        rig = Rig(random_collectives(devices, devices, count), workers, rows=1)
        for _ in range(3):
            rig.check_pass()


@pytest.mark.parametrize("devices", [2, 3])
def test_many_rows_exchange_bit_for_bit(devices: int) -> None:
    """Prefill does the same for several rows, sums row by row and slices side by side in each row."""
    with workers_of(devices, 1) as workers:
        rig = Rig(random_collectives(10 + devices, devices, 300), workers, rows=3)
        for _ in range(3):
            rig.check_pass()


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_slow_device_is_never_overrun(slow: int) -> None:
    """However late one device reads, those ahead of it wait before they write a slot again."""
    with workers_of(3, 1) as workers:
        rig = Rig(random_collectives(20 + slow, 3, 300, slow), workers, rows=1)
        rig.check_pass()


def test_a_slot_waits_for_its_readers() -> None:
    """The third push waits for the readers of the first, leaves its slot alone till then, and goes through after."""
    shared, parts = Staging([4] * 3), [torch.full((4,), float(n)) for n in range(3)]
    readers = torch.tensor([shared.pulled_address(d) for d in (1, 2)])
    mine = shared.pushed_address(0)
    tail = [(n, mine, n - staging.SLOT_RING if n >= staging.SLOT_RING else -1, readers.data_ptr(), 2) for n in range(3)]
    pushes = [(tape.PUSH, parts[n].data_ptr(), shared.slot(n, 0).data_ptr(), 4, *tail[n]) for n in range(3)]
    assert run_lanes(pushes[:2], (0, 1, 1))[0] == [ARRIVED]
    staging.signal(shared.pulled_address(1), 2)  # one reader is past both, the other has read neither
    outcomes, _, trouble = run_lanes(pushes[2:], (0, 1, 1), limit_s=0.05)
    assert outcomes == [TIMED_OUT]
    assert trouble[0].tolist() == [TIMED_OUT, 0, 1]
    assert torch.equal(shared.slot(0, 0), parts[0])
    assert int(shared.words[0, 0]) == 2  # the second push is the last announced
    staging.signal(shared.pulled_address(2), 1)
    assert run_lanes(pushes[2:], (0, 1, 1), limit_s=5)[0] == [ARRIVED]
    assert torch.equal(shared.slot(2, 0), parts[2])


def test_slots_and_words_lie_apart() -> None:
    """No two devices share a slot or a cache line of words, and consecutive collectives use different slots."""
    shared = Staging([5] * 3)
    slots = {shared.slot(site, d).data_ptr() for site in range(staging.SLOT_RING) for d in range(3)}
    assert len(slots) == staging.SLOT_RING * 3
    assert shared.slot(staging.SLOT_RING, 1).data_ptr() == shared.slot(0, 1).data_ptr()
    words = [f(d) for d in range(3) for f in (shared.pushed_address, shared.pulled_address)] + [shared.abort_address]
    assert len({word // staging.LINE_BYTES for word in words}) == 7


def waited(word: int, value: int, abort: int, limit_s: float) -> tuple[int, float]:
    """Outcome of a wait and how long it took."""
    started = time.monotonic()
    outcome = staging.wait(word, value, abort, time.monotonic_ns() + int(limit_s * 1e9))
    return outcome, time.monotonic() - started


def test_waits_end() -> None:
    """A word that is there ends a wait at once, later words too; one that is not ends it at the deadline."""
    shared = Staging([1, 1])
    word = shared.pushed_address(0)
    staging.signal(word, 7)
    assert [waited(word, value, shared.abort_address, 5.0)[0] for value in (-1, 0, 6, 7)] == [ARRIVED] * 4
    outcome, seconds = waited(word, 8, shared.abort_address, 0.1)
    assert outcome == TIMED_OUT
    assert 0.1 <= seconds < 2
    shared.reset()
    assert waited(word, 1, shared.abort_address, 0.0)[0] == TIMED_OUT


def test_abort_ends_every_wait() -> None:
    """Once aborted, a wait at hand and all later ones end long before their deadline, until the words are reset."""
    shared = Staging([1, 1])
    word = shared.pushed_address(0)
    timer = threading.Timer(0.1, shared.abort)
    timer.start()
    outcome, seconds = waited(word, 1, shared.abort_address, 60.0)
    timer.join()
    assert outcome == ABORTED
    assert 0.05 <= seconds < 5
    assert waited(word, 1, shared.abort_address, 60.0)[0] == ABORTED
    shared.reset()
    assert waited(word, 1, shared.abort_address, 0.01)[0] == TIMED_OUT


def test_abort_ends_a_tape() -> None:
    """A tape whose peer never comes stops at the abort word, on all its lanes, and says so."""
    shared, out = Staging([4, 4]), poisoned(4)
    parts = torch.tensor([[0, out.data_ptr(), 4], [shared.pushed_address(1), shared.slot(0, 1).data_ptr(), 4]])
    pull = (tape.PULL, out.data_ptr(), 0, parts.data_ptr(), 2, tape.SUM, shared.pulled_address(0), 4)
    timer = threading.Timer(0.1, shared.abort)
    timer.start()
    started = time.monotonic()
    outcomes, _, trouble = run_lanes([pull], (0, 1, 1), 2, 60.0, shared.abort_address)
    timer.join()
    assert time.monotonic() - started < 5
    assert outcomes == [ABORTED, ABORTED]
    assert trouble[:, :2].tolist() == [[ABORTED, 0]] * 2
    assert trouble[0, 2] == 1


def test_what_a_signal_publishes_is_there() -> None:
    """Whoever sees the word sees what was written before it: 20,000 rounds of message passing between two threads."""
    shared, rounds = Staging([1, 1]), 20_000
    words = shared.pushed_address(0), shared.pushed_address(1)
    deadline_ns = time.monotonic_ns() + 20 * 10**9
    outcomes: list[int] = []

    def play(mine: int, theirs: int) -> None:
        outcomes.append(staging.exchange_probe(mine, theirs, shared.abort_address, 1, rounds, deadline_ns))

    threads = [threading.Thread(target=play, args=pair) for pair in (words, words[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [ARRIVED, ARRIVED]
    assert shared.words[:2, 0].tolist() == [rounds, rounds]


def test_the_planner_counts_the_slots_there_are() -> None:
    """The planner, which never loads kernels, counts as many slots a producer as the ring has."""
    from tpplan.planner import memory

    assert memory.SLOTS == staging.SLOT_RING
