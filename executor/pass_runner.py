"""Runs one pass of every device's program at once, and stops all of them when one fails.

Knows threads, deadlines and what to say when a device dies. Knows nothing of tokens or sampling.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass

import numpy as np

from ..kernels import staging, tape
from ..planner.steps import Step
from .program import Bound
from .state import WAIT_LIMIT_S, DeviceState, WaitFailed


class DeviceFailed(RuntimeError):
    """A device that died or waited in vain; the message names device, layer and step."""


@dataclass
class DeviceProgram:
    """One device's bound steps with their tape. `ends_ns[i]`: when step i of the last pass ended (monotonic clock)."""

    name: str
    state: DeviceState
    bound: list[Bound]

    def __post_init__(self) -> None:
        self.tape = tape.table([b.instruction for b in self.bound])
        self.ends_ns = np.zeros(len(self.bound), dtype=np.int64)
        self.before_head = next((i for i, b in enumerate(self.bound) if b.step.block == "head"), len(self.bound))

    def place(self, step: Step) -> str:
        return f"{step.block} {step.role}" if step.layer < 0 else f"layer {step.layer}, step {step.block} {step.role}"

    def failure(self, step: Step, why: str) -> DeviceFailed:
        return DeviceFailed(f"device {self.name} failed at {self.place(step)}: {why}")


class PassRunner:
    """All devices of a plan, ready to run passes one after the other."""

    def __init__(self, programs: Sequence[DeviceProgram], shared: staging.Staging, collectives: int) -> None:
        self.programs, self.staging, self.collectives = programs, shared, collectives
        self.base = 1
        self._warm_up()

    def _warm_up(self) -> None:
        """Loads compiled code before anything waits for it: an empty stretch of every tape."""
        for program in self.programs:
            self._run_tape(program, 0, lane=0)

    def run(self, tokens: Sequence[int], position: int, logits: bool) -> None:
        """One pass over `tokens`, the first at `position`. DeviceFailed when any device fails; all have stopped then."""
        for program in self.programs:
            state = program.state
            state.token_words[: len(tokens)] = tokens
            state.words[:] = position, tokens[0], self.base
        self.base += self.collectives
        jobs = [job for program in self.programs for job in self._start(program, len(tokens), position, logits)]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
        finally:
            if not all(job.done() and job.exception() is None for job in jobs):
                self.staging.abort()
                wait(jobs)
        failures = [error for job in jobs if (error := job.exception())]
        if failures:
            raise next((f for f in failures if not isinstance(f.__cause__, WaitFailed)), failures[0])

    def best_token(self) -> int:
        """The likeliest token of the last pass, the lowest id on ties. ValueError where a device's best is not a number."""
        heads = [p.state for p in self.programs if p.before_head < len(p.bound)]
        best = max(heads, key=lambda state: (float(state.best_logit), -int(state.best_id)))
        if not all(math.isfinite(state.best_logit) for state in heads):
            raise ValueError("the logits are not numbers: damaged weights?")
        return int(best.best_id)

    def _start(self, program: DeviceProgram, rows: int, position: int, logits: bool) -> list[Future[None]]:
        end = len(program.bound) if logits else program.before_head
        worker = program.state.worker
        if rows > 1:
            return [worker.submit(lambda: self._call_steps(program, end, rows, position))]
        lanes = range(worker.lanes)
        return [worker.submit(lambda lane=lane: self._run_tape(program, end, lane), lane) for lane in lanes]  # type: ignore[misc]

    def _call_steps(self, program: DeviceProgram, end: int, rows: int, position: int) -> None:
        for i, bound in enumerate(program.bound[:end]):
            try:
                bound.call(rows, position)
            except Exception as error:
                self.staging.abort()
                raise program.failure(bound.step, str(error) or type(error).__name__) from error
            program.ends_ns[i] = time.monotonic_ns()

    def _run_tape(self, program: DeviceProgram, end: int, lane: int) -> None:
        state = program.state
        deadline_ns = time.monotonic_ns() + int(WAIT_LIMIT_S * 1e9)
        trouble, abort = state.trouble[lane], self.staging.abort_address
        outcome = tape.run(
            program.tape, 0, end, state.words, state.arrived, lane, abort, deadline_ns, program.ends_ns, trouble
        )
        if outcome != staging.ARRIVED:
            self.staging.abort()
            error = WaitFailed(outcome, int(trouble[2]))
            raise program.failure(program.bound[trouble[1]].step, str(error)) from error
