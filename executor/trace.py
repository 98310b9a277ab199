"""What every step of every pass took, as Chrome trace JSON (opens in Perfetto). Knows names and times only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pass_runner import DeviceProgram


class Trace:
    """Collects passes; a device is a row, its steps follow each other, a pull's length includes its wait."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def add(self, started_ns: int, rows: int, programs: Sequence[DeviceProgram]) -> None:
        """Takes the step ends of the pass over `rows` tokens that began at `started_ns`."""
        for program in programs:
            begin = started_ns
            for bound, end in zip(program.bound, program.ends_ns.tolist(), strict=True):
                if end < begin:  # not part of this pass: the head of an earlier chunk
                    continue
                step = bound.step
                self._events.append(
                    {
                        "name": step.name,
                        "cat": step.kind.value,
                        "ph": "X",
                        "pid": 0,
                        "tid": program.name,
                        "ts": begin / 1000,
                        "dur": (end - begin) / 1000,
                        "args": {"rows": rows, "in": step.in_features, "out": step.out_features},
                    }
                )
                begin = end

    def json(self) -> dict[str, Any]:
        """The trace as one JSON object; times in microseconds."""
        return {"traceEvents": self._events, "displayTimeUnit": "ms"}
