"""Runs passes of GPU programs: prefill launch by launch, decode as one replayed graph a device, all devices at once.

Knows rows, graphs, streams and what to say when a device fails. Knows nothing of which kernels a program launches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Condition

import torch

from ...kernels.gpu.handover import LAST_ID
from ...planner.steps import Kind, Step
from ..failures import DeviceFailed, wait_for, was_stopped
from ..pass_runner import DeviceProgram, PassRunner
from ..passes import NOT_NUMBERS, likeliest, one_by_one
from .devices import GpuWorker
from .exchanges import PhaseExchanges
from .pieces import pieces
from .program import Launch
from .state import FEW_ROWS, GpuState
from .tokens import Tokens

AHEAD = 2  # decode steps enqueued before the host has seen the token of the first
TOKEN_LIMIT_S = 20.0


@dataclass
class GpuProgram:
    """One device's launches of one phase. `graphs`: passes that were captured, by rows and whether they have logits.

    `before_head`: launches of a pass that wants no logits; the exchange that feeds the head is among them, so that
    nobody waits for a pull that never comes.
    """

    name: str
    state: GpuState
    worker: GpuWorker
    launches: list[Launch]
    hand_over: Callable[[], None]
    exchanges: PhaseExchanges
    graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = field(default_factory=dict)
    timeline: list[tuple[Step, int]] = field(default_factory=list)  # of the last timed pass: step, its end in ns
    before_head: int = field(init=False)

    def __post_init__(self) -> None:
        heads = (i for i, launch in enumerate(self.launches) if launch.steps[0].block == "head")
        self.before_head = next(heads, len(self.launches))

    @property
    def steps(self) -> list[Step]:
        return [step for launch in self.launches for step in launch.steps]

    def launch(self, rows: int, logits: bool) -> None:
        """Enqueues a pass; returns before it has run."""
        for launch in self.launches if logits else self.launches[: self.before_head]:
            launch.run(rows)
        if logits:
            self.hand_over()

    def launch_timed(self, rows: int, logits: bool) -> None:
        """Runs a pass launch by launch; `timeline` then says when each ended."""
        started_ns, begin = time.monotonic_ns(), torch.cuda.Event(enable_timing=True)
        begin.record()
        ends = []
        for launch in self.launches if logits else self.launches[: self.before_head]:
            launch.run(rows)
            ends.append((launch, torch.cuda.Event(enable_timing=True)))
            ends[-1][1].record()
        if logits:
            self.hand_over()
        self.worker.stream.synchronize()
        self.timeline = [(named_after(launch), started_ns + int(begin.elapsed_time(end) * 1e6)) for launch, end in ends]

    def capture(self, rows: int, logits: bool) -> None:
        """Records a pass; everything it launches must have been loaded before."""
        self.state.upload([0] * rows, rows, 0, 1)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.worker.stream, capture_error_mode="thread_local"):
            self.launch(rows, logits)
        self.graphs[rows, logits] = graph

    def start(self, rows: int, logits: bool) -> None:
        """Enqueues a pass, by its graph if there is one."""
        if graph := self.graphs.get((rows, logits)):
            graph.replay()
        else:
            self.launch(rows, logits)


class Goal:
    """How many replays every device is to enqueue: told by one thread, followed by one a device."""

    def __init__(self) -> None:
        self._steps, self._ended, self._changed = 0, False, Condition()

    def raise_to(self, steps: int) -> None:
        with self._changed:
            self._steps = max(self._steps, steps)
            self._changed.notify_all()

    def end(self) -> None:
        """No more than what has been asked for."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def beyond(self, done: int) -> bool:
        """Waits until more than `done` are asked for; False when no more will be.

        Without a limit, since a reader may pause for as long as it likes; whoever made the goal ends it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._steps > done)
            return self._steps > done


class GpuRunner:
    """The programs of one phase on all devices that take part, ready to run passes one after the other.

    `rows`: that the devices' buffers have room for. `cpus`: the CPU devices of the plan, None without. They take no
    padded rows, and the host tells them every token.
    """

    def __init__(
        self,
        programs: Sequence[GpuProgram],
        host: Tokens,
        capacity: int,
        logits: torch.Tensor,
        rows: int,
        cpus: PassRunner | None = None,
    ) -> None:
        self.rows = rows
        self.programs, self.host, self.capacity, self._logits, self.cpus = programs, host, capacity, logits, cpus
        self.collectives = 1 + max((step.collective for p in programs for step in p.steps), default=-1)
        self.timed = False

    def run(self, tokens: Sequence[int], position: int, logits: bool) -> None:
        """Passes over `tokens`, the first at `position`. DeviceFailed when a device fails; all have stopped then."""
        at = 0
        for taken, bucket in pieces(len(tokens), position, self.capacity, self.rows, padded=self.cpus is None):
            last = at + taken == len(tokens)
            self._pass(tokens[at : at + taken], bucket, position + at, logits and last)
            at += taken

    def _pass(self, tokens: Sequence[int], bucket: int, position: int, logits: bool) -> None:
        numbers = self.host.begin_pass(self.collectives, large=bucket > FEW_ROWS)
        padded = [*tokens, *(0,) * (bucket - len(tokens))]

        def enqueue(program: GpuProgram) -> None:
            program.state.upload(padded, len(tokens), position, self.host.epoch, numbers)
            if self.timed:
                program.launch_timed(bucket, logits)
            else:
                program.start(bucket, logits)

        with self._running(enqueue):
            if self.cpus is not None:
                self.cpus.run(tokens, position, logits)

    def decode(self, token: int, position: int, steps: int) -> Iterator[int]:
        """The likeliest tokens after `token` at `position`, at most `steps`; devices pass them on among themselves.

        Closing the iterator early ends the devices' work; steps already enqueued are run and forgotten.
        ValueError where a logit is not a number.
        """
        if self.cpus is not None:
            yield from one_by_one(self, token, position, steps)
            return
        first, goal = self.host.epoch + 1, Goal()

        def replays(program: GpuProgram) -> None:
            program.state.upload([token], 1, position, first)
            done = 0
            while goal.beyond(done):
                program.graphs[1, True].replay()
                done += 1

        with self._running(replays):
            try:
                for step in range(steps):
                    self.host.epoch = first + min(step + AHEAD, steps) - 1
                    goal.raise_to(min(step + AHEAD, steps))
                    yield self._token(first + step)
            finally:
                goal.end()

    def best_token(self) -> int:
        """The likeliest token of the last pass, the lowest id on ties. ValueError where it is not a number."""
        best = [self.cpus.best()] if self.cpus is not None and self.cpus.heads else []
        for program in self.programs:
            if program.before_head < len(program.launches):
                best.append(program.worker.submit(program.state.best).result())
        return likeliest(best)

    def _token(self, epoch: int) -> int:
        deadline_s = time.monotonic() + TOKEN_LIMIT_S
        while (token := self.host.token(epoch)) is None:
            if self.host.memory.aborted or time.monotonic() > deadline_s:
                raise self._failure()
            time.sleep(2e-5)
        if token == LAST_ID.value:
            raise ValueError(NOT_NUMBERS)
        return token

    def gather_logits(self) -> None:
        """Copies the last pass's logits of all devices to the host."""
        for program in self.programs:
            for step in program.steps:
                if step.role == "lm_head":
                    device = program.state.buffers["logits"][: step.out_features]
                    self._logits[slice(*step.span)].copy_(program.worker.submit(device.cpu).result())

    @property
    def all_programs(self) -> list[GpuProgram | DeviceProgram]:
        """Of CPU devices too, in the order of devices."""
        cpus = self.cpus.programs if self.cpus is not None else ()
        return sorted([*self.programs, *cpus], key=lambda program: program.state.device)

    def abort(self) -> None:
        """Ends every wait, now and later."""
        self.host.memory.abort()

    @contextmanager
    def _running(self, job) -> Iterator[None]:  # type: ignore[no-untyped-def]
        """`job(program)` and the end of its work on all threads at once; any failure ends the others."""
        jobs = [program.worker.submit(partial(self._finished, program, job)) for program in self.programs]
        try:
            yield
            wait_for(jobs, self.abort)
        except GeneratorExit:  # the reader has enough: what was asked for is run to its end
            wait_for(jobs, self.abort)
            raise
        except BaseException as error:
            self.abort()
            wait_for(jobs, self.abort)
            self._raise_first(error, jobs)
        self._raise_failures(jobs)

    def _raise_first(self, error: BaseException, jobs: Sequence[Future[None]]) -> None:
        """`error`, which a CPU device or the host ran into, or the GPU's failure that it comes from."""
        if was_stopped(error):
            self._raise_failures(jobs)
        raise error

    def _finished(self, program: GpuProgram, job) -> None:  # type: ignore[no-untyped-def]
        job(program)
        program.worker.stream.synchronize()

    def _raise_failures(self, jobs: Sequence[Future[None]]) -> None:
        failed = [(p, error) for p, done in zip(self.programs, jobs) if (error := done.exception())]
        if failed:
            program, error = failed[0]
            raise DeviceFailed(f"device {program.name} failed: {error}") from error
        if self.host.memory.aborted:
            raise self._failure()

    def _failure(self) -> DeviceFailed:
        """What the device that gave up first says: where it was, and whom it waited for."""
        names = {program.state.device: program.name for program in self.all_programs}
        for trouble in self.host.memory.troubles():
            site = self.host.sites.get(trouble.site)
            peer = site.producers[trouble.producer] if site and trouble.producer < len(site.producers) else -1
            place = self._place(trouble.site)
            waited = f"waited too long for device {names.get(peer, 'that feeds it')}"
            return DeviceFailed(f"device {names.get(trouble.device, trouble.device)} failed in {place}: {waited}")
        return DeviceFailed("the devices were stopped")

    def _place(self, number: int) -> str:
        """Of a call-site."""
        for program in self.programs:
            for step in program.steps:
                if step.collective >= 0 and program.exchanges.sites[step.collective].number == number:
                    return f"{_place(step)}, step {step.role}"
        return "the next token"


def named_after(launch: Launch) -> Step:
    """The step that stands for what a launch does: the pull of an exchange, since it lasts; else the first."""
    return next((step for step in launch.steps if step.kind is Kind.PULL), launch.steps[0])


def _place(step: Step) -> str:
    return f"layer {step.layer}, {step.block}" if step.layer >= 0 else step.block
