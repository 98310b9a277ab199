"""When every step of one pass begins and ends: what `simulate` makes and traces, reports and tables show.

Knows times. Knows nothing of how they were found.
"""

from __future__ import annotations

from dataclasses import dataclass

from .plan import Phase
from .steps import Kind, Step


@dataclass(frozen=True)
class Span:
    """One step from begin to end, in seconds since the pass began. `free_s`: when its device had finished the step
    before; what lies between that and `begin_s` was spent waiting for others. `critical`: on the critical path.
    `contention_s`: how much of its length is due to others on its link's port or in host memory.
    """

    step: Step
    free_s: float
    begin_s: float
    end_s: float
    critical: bool
    contention_s: float = 0.0


@dataclass(frozen=True)
class Usage:
    """Seconds of one device in one pass; they add up to the length of the pass."""

    compute_s: float
    push_s: float
    pull_s: float
    wait_s: float

    @property
    def busy_s(self) -> float:
        return self.compute_s + self.push_s + self.pull_s


@dataclass(frozen=True)
class Timeline:
    """One pass: `devices` are the names by index, `spans` every step in the order of the layer graph.

    `overhead_s`: the fixed cost of a pass, before the first step, which begins at 0. `uncontended_s`: the length if
    each push and pull had ports and host memory for itself.
    """

    phase: Phase
    devices: tuple[str, ...]
    spans: tuple[Span, ...]
    overhead_s: float
    uncontended_s: float

    @property
    def length_s(self) -> float:
        return self.overhead_s + max((span.end_s for span in self.spans), default=0.0)

    @property
    def rows(self) -> int:
        """Tokens that go through the layers at once."""
        return max(span.step.rows for span in self.spans)

    def usage(self, device: int) -> Usage:
        """Where the time of `device` goes."""
        mine = [span for span in self.spans if span.step.device == device]
        push_s = sum(s.end_s - s.begin_s for s in mine if s.step.kind is Kind.PUSH)
        pull_s = sum(s.end_s - s.begin_s for s in mine if s.step.kind is Kind.PULL)
        compute_s = sum(s.end_s - s.begin_s for s in mine) - push_s - pull_s
        return Usage(compute_s, push_s, pull_s, self.length_s - compute_s - push_s - pull_s)

    @property
    def critical_path(self) -> tuple[Span, ...]:
        """Each begins when the one before ends, the first at 0, and the last ends last."""
        return tuple(
            sorted((span for span in self.spans if span.critical), key=lambda span: (span.begin_s, span.end_s))
        )

    def critical_parts(self) -> dict[str, float]:
        """Seconds on the critical path by what they are spent on, most first; they add up to the length of the pass."""
        parts = {"overhead": self.overhead_s, "contention": 0.0}
        for span in self.critical_path:
            step, where = span.step, self.devices[span.step.device]
            moves = step.kind in (Kind.PUSH, Kind.PULL)
            what = f"{step.kind} on {where}" if moves else f"{step.block} compute on {where}"
            parts[what] = parts.get(what, 0.0) + span.end_s - span.begin_s - span.contention_s
            parts["contention"] += span.contention_s
        return {what: seconds for what, seconds in sorted(parts.items(), key=lambda part: -part[1]) if seconds}
