"""What a pass over all devices of a plan is, whoever runs it: CPU devices, GPUs, or both.

Knows tokens and positions. Knows neither threads nor kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ..planner.steps import Step

NOT_NUMBERS = "the logits are not numbers: damaged weights?"


class Program(Protocol):
    """What one device runs. `timeline`: steps of the last timed pass, with their ends on the monotonic clock."""

    @property
    def steps(self) -> Sequence[Step]: ...

    @property
    def timeline(self) -> Sequence[tuple[Step, int]]: ...


class Runner(Protocol):
    """Runs passes of one phase on all devices that take part. `timed`: whether every step's time is wanted."""

    timed: bool

    @property
    def all_programs(self) -> Sequence[Program]:
        """In the order of devices."""

    def run(self, tokens: Sequence[int], position: int, logits: bool) -> None:
        """Passes over `tokens`, the first at `position`. DeviceFailed when a device fails; all have stopped then."""

    def best_token(self) -> int:
        """The likeliest token of the last pass, the lowest id on ties. ValueError where it is not a number."""

    def gather_logits(self) -> None:
        """Brings the last pass's logits to where the host reads them."""

    def decode(self, token: int, position: int, steps: int) -> Iterator[int]:
        """The likeliest tokens after `token` at `position`, at most `steps`."""

    def abort(self) -> None:
        """Ends every wait, now and later."""


def one_by_one(runner: Runner, token: int, position: int, steps: int) -> Iterator[int]:
    """`Runner.decode` where the host hands each token to the next pass."""
    for step in range(steps):
        runner.run([token], position + step, True)
        yield (token := runner.best_token())


def likeliest(best: Iterable[tuple[float, int]]) -> int:
    """The id of the largest of (logit, id), the lowest id on ties. ValueError where one is not a number."""
    found = list(best)
    if not all(math.isfinite(logit) for logit, _ in found):
        raise ValueError(NOT_NUMBERS)
    return max(found, key=lambda each: (each[0], -each[1]))[1]
