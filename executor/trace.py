"""What every step of every pass took, as Chrome trace JSON (opens in Perfetto). Knows names and times only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..planner.chrome_trace import document, process_events, step_event

if TYPE_CHECKING:
    from .passes import Program

MEASURED = 0


class Trace:
    """Collects passes from the first on; a device's steps follow each other, a pull's length includes its wait."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._events = process_events(MEASURED, "measured", devices)
        self._origin_ns = 0

    def add(self, started_ns: int, rows: int, programs: Sequence[Program]) -> None:
        """Takes the step ends of the pass over `rows` tokens that began at `started_ns`."""
        origin_ns = self._origin_ns = self._origin_ns or started_ns
        for program in programs:
            begin = started_ns
            for step, end in program.timeline:
                if end < begin:  # not part of this pass: the head of an earlier chunk
                    continue
                self._events.append(step_event(MEASURED, step, begin - origin_ns, end - origin_ns, rows))
                begin = end

    def json(self) -> dict[str, Any]:
        """The trace as one JSON object; times in microseconds."""
        return document(self._events)
