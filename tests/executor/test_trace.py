"""The measured trace speaks like the simulated one."""

from __future__ import annotations

from types import SimpleNamespace

from tpplan.executor.trace import Trace
from tpplan.planner.chrome_trace import process_events
from tpplan.planner.steps import Kind, Step


def test_passes_follow_each_other_from_zero() -> None:
    """Times count from the first pass, rows and bytes with the pass; steps of an earlier pass are left out."""
    push = Step("s.push", Kind.PUSH, 1, 0, "mlp", "push_hidden", 1, 10, 10, collective=0, peers=(0,))
    norm = Step("s.norm", Kind.NORM, 1, 0, "mlp", "norm", 1, 10, 10)
    trace = Trace(["a", "b"])
    trace.add(5_000, 3, [SimpleNamespace(timeline=[(norm, 6_000), (push, 8_000)])])
    trace.add(8_000, 1, [SimpleNamespace(timeline=[(norm, 9_000), (push, 8_000 - 1)])])
    named = process_events(0, "measured", ["a", "b"])
    events = trace.json()["traceEvents"]
    assert events[: len(named)] == named
    told = [(e["name"], e["ts"], e["dur"], e["args"]["rows"], e["args"].get("bytes")) for e in events[len(named) :]]
    assert told == [("s.norm", 0, 1, 3, None), ("s.push", 1, 2, 3, 120), ("s.norm", 3, 1, 1, None)]
    assert [e["tid"] for e in events[len(named) :]] == [3, 4, 3]
