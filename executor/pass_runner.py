"""Runs one pass of every device's program at once, and stops all of them when one fails.

Knows threads, deadlines and what to say when a device dies. Knows nothing of tokens or sampling.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

import numpy as np

from ..kernels import staging, tape
from ..planner.steps import Step
from .failures import DeviceFailed, WaitFailed, origin, wait_for
from .passes import likeliest, one_by_one
from .program import Bound
from .state import DeviceState


class Shared(Protocol):
    """What the devices of a plan share on the host: the word that ends every wait, and numbers of a pass of so many
    collectives: the tape's words from BASE on.
    """

    @property
    def abort_address(self) -> int: ...

    @property
    def aborted(self) -> bool: ...

    def abort(self) -> None: ...

    def numbers(self, collectives: int) -> tuple[int, ...]: ...


@dataclass
class DeviceProgram:
    """One device's bound steps of one phase, with their tape.

    `ends_ns[i]`: when step i of the last pass ended (monotonic clock).
    """

    name: str
    state: DeviceState
    bound: list[Bound]

    def __post_init__(self) -> None:
        self.tape = tape.table([b.instruction for b in self.bound])
        self.ends_ns = np.zeros(len(self.bound), dtype=np.int64)
        self.called = [i for i, b in enumerate(self.bound) if b.call is not None]
        self.before_head = next((i for i, b in enumerate(self.bound) if b.step.block == "head"), len(self.bound))

    @property
    def steps(self) -> list[Step]:
        return [bound.step for bound in self.bound]

    @property
    def timeline(self) -> list[tuple[Step, int]]:
        return list(zip(self.steps, self.ends_ns.tolist(), strict=True))


class PassRunner:
    """The programs of all devices that take part in a phase, ready to run passes one after the other.

    Runners of several phases may share `shared` and the devices' states; only one of them runs at a time.
    """

    timed = True  # always

    def __init__(
        self,
        programs: Sequence[DeviceProgram],
        shared: Shared,
        collectives: int,
        others: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        """`others`: names of devices, by number, that take part without being run here."""
        self.programs, self.staging, self.collectives = programs, shared, collectives
        self.names = {p.state.device: p.name for p in programs} | dict(others)
        self.heads = [p.state for p in programs if p.before_head < len(p.bound)]
        self._warm_up()

    def _warm_up(self) -> None:
        """Loads compiled code before anything waits for it: an empty stretch of every tape."""
        for program in self.programs:
            self._run_tape(program, 0, 0, lane=0)

    def run(self, tokens: Sequence[int], position: int, logits: bool) -> None:
        """One pass over `tokens`, the first at `position`. DeviceFailed when a device fails; all have stopped then."""
        numbers = self.staging.numbers(self.collectives)
        for program in self.programs:
            state = program.state
            state.token_words[: len(tokens)] = tokens
            state.words[: 2 + len(numbers)] = position, len(tokens), *numbers
        jobs = [job for program in self.programs for job in self._start(program, len(tokens), position, logits)]
        try:
            wait_for(jobs, self.abort)
        except BaseException:
            self.abort()
            wait_for(jobs, self.abort)
            raise
        failures = [error for job in jobs if (error := job.exception())]
        if failures:
            raise origin(failures)

    @property
    def all_programs(self) -> Sequence[DeviceProgram]:
        return self.programs

    def best(self) -> tuple[float, int]:
        """The largest logit of the last pass and its id, a NaN before all others; only where `heads` are."""
        each = [(float(state.best_logit), int(state.best_id)) for state in self.heads]
        return max(each, key=lambda found: (math.isnan(found[0]), found[0], -found[1]))

    def best_token(self) -> int:
        return likeliest([self.best()])

    def gather_logits(self) -> None:
        """Nothing: devices write their logits where the host reads them."""

    def decode(self, token: int, position: int, steps: int) -> Iterator[int]:
        return one_by_one(self, token, position, steps)

    def abort(self) -> None:
        self.staging.abort()

    def _start(self, program: DeviceProgram, rows: int, position: int, logits: bool) -> list[Future[None]]:
        end = len(program.bound) if logits else program.before_head
        worker = program.state.worker
        if rows > 1:
            return [worker.submit(lambda: self._run_rows(program, end, rows, position))]
        return self._on_lanes(program, 0, end, range(worker.lanes))

    def _on_lanes(self, program: DeviceProgram, begin: int, end: int, lanes: range) -> list[Future[None]]:
        return [program.state.worker.submit(partial(self._run_tape, program, begin, end, lane), lane) for lane in lanes]

    def _run_rows(self, program: DeviceProgram, end: int, rows: int, position: int) -> None:
        """On lane 0: stretches of the tape, and between them the calls that take several rows."""
        at = 0
        for called in program.called:
            if called >= end:
                break
            if rows <= program.bound[called].tape_rows:
                continue
            self._run_stretch(program, at, called)
            bound = program.bound[called]
            assert bound.call is not None
            try:
                if self.staging.aborted:
                    raise WaitFailed(staging.ABORTED, program.state.device, program.state.device)
                bound.call(rows, position)
            except Exception as error:
                raise self._failed(program, bound, error) from error
            program.ends_ns[called] = time.monotonic_ns()
            at = called + 1
        self._run_stretch(program, at, end)

    def _run_stretch(self, program: DeviceProgram, begin: int, end: int) -> None:
        others = self._on_lanes(program, begin, end, range(1, program.state.worker.lanes))
        self._run_tape(program, begin, end, lane=0)
        for other in others:
            other.result()

    def _run_tape(self, program: DeviceProgram, begin: int, end: int, lane: int) -> None:
        state = program.state
        trouble, ends_ns = state.trouble[lane], program.ends_ns
        abort, deadline_ns, started_ns = self.staging.abort_address, state.deadline_ns(lane), time.monotonic_ns()
        try:
            outcome = tape.run(
                program.tape, begin, end, state.words, state.arrived, lane, abort, deadline_ns, ends_ns, trouble
            )
        except Exception as error:
            unfinished = begin + int(np.argmax(ends_ns[begin:end] < started_ns))
            raise self._failed(program, program.bound[unfinished], error) from error
        if outcome != staging.ARRIVED:
            bound = program.bound[trouble[1]]
            peer = bound.awaited[trouble[2]] if bound.awaited and trouble[2] >= 0 else state.device
            cause = WaitFailed(outcome, state.device, peer)
            raise self._failed(program, bound, cause) from cause

    def _failed(self, program: DeviceProgram, bound: Bound, error: Exception) -> DeviceFailed:
        """Stops the other devices; what to say of this one."""
        self.staging.abort()
        why = str(error) or type(error).__name__
        if isinstance(error, WaitFailed):
            waited = "was stopped while it waited" if error.outcome == staging.ABORTED else "waited too long"
            why = f"{waited} for device {self.names[error.peer]}"
        step = bound.step
        place = f"layer {step.layer}, {step.block}" if step.layer >= 0 else step.block
        return DeviceFailed(f"device {program.name} failed in {place}, step {step.role}: {why}")
