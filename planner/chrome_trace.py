"""Passes as Chrome trace JSON, which Perfetto opens: simulated ones, and the form in which `run` writes measured ones.

A process is a phase or a run, with three tracks a device: what it computes, its pushes, its pulls. Events bear the
names of steps. Knows nothing of how times came about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..hwprofiles.files import write_atomically
from .steps import Kind, Step, moved_bytes
from .timeline import Span, Timeline

TRACKS = ("", " push", " pull")
PROCESSES = {"decode": 1, "prefill": 2}  # 0 is what was measured

Event = dict[str, Any]


def process_events(process: int, title: str, devices: Sequence[str]) -> list[Event]:
    """Names of one process and of its tracks, in the order of devices."""
    events: list[Event] = [{"name": "process_name", "ph": "M", "pid": process, "args": {"name": title}}]
    for track, name in enumerate(device + suffix for device in devices for suffix in TRACKS):
        where = {"ph": "M", "pid": process, "tid": track}
        events.append({"name": "thread_name", **where, "args": {"name": name}})
        events.append({"name": "thread_sort_index", **where, "args": {"sort_index": track}})
    return events


def step_event(process: int, step: Step, begin_ns: int, end_ns: int, passes: int = 1) -> Event:
    """One step on its track; `passes`: how often the step's rows were done in it."""
    args: Event = {"block": step.block, "layer": step.layer, "role": step.role, "rows": step.rows * passes}
    if step.kind in (Kind.PUSH, Kind.PULL):
        args["bytes"] = moved_bytes(step) * passes
    args |= {"in": step.in_features, "out": step.out_features}
    where = {"pid": process, "tid": _track(step), "ts": begin_ns / 1000, "dur": (end_ns - begin_ns) / 1000}
    return {"name": step.name, "cat": step.kind.value, "ph": "X", **where, "args": args}


def document(events: Iterable[Event]) -> Event:
    """The trace as one JSON object; times in microseconds."""
    return {"traceEvents": list(events), "displayTimeUnit": "ns"}


def chrome_trace(timelines: Iterable[Timeline]) -> Event:
    """Simulated passes, each beginning at 0 with its fixed cost; an arrow leads to a pull that waited from the push
    that it waited for last.
    """
    events = []
    for timeline in timelines:
        events += _timeline_events(timeline)
    return document(events)


def save_trace(trace: Event, path: str | Path) -> None:
    """Writes a trace; OSError if that cannot be done."""
    write_atomically(path, msgspec.json.encode(trace))


def _timeline_events(timeline: Timeline) -> list[Event]:
    process = PROCESSES[timeline.phase]
    title = f"simulated {timeline.phase}, rows: {timeline.rows}"
    events = process_events(process, title, timeline.devices)
    for span in timeline.spans:
        begin_ns, end_ns = (round((timeline.overhead_s + s) * 1e9) for s in (span.begin_s, span.end_s))
        event = step_event(process, span.step, begin_ns, end_ns)
        event["args"]["critical"] = span.critical
        events.append(event)
    for number, (push, pull) in enumerate(_awaited(timeline.spans)):
        events += _arrow(process, process << 32 | number, push, pull, timeline.overhead_s)
    return events


def _awaited(spans: Sequence[Span]) -> Iterable[tuple[Span, Span]]:
    """Each pull that waited, after the push that it waited for last."""
    pushes: dict[tuple[int, int], Span] = {}
    for span in spans:
        step = span.step
        if step.kind is Kind.PUSH:
            pushes[step.collective, step.device] = span
        elif step.kind is Kind.PULL and span.free_s < span.begin_s:
            others = [pushes[step.collective, peer] for peer in step.peers if peer != step.device]
            yield max(others, key=lambda push: push.end_s), span


def _arrow(process: int, number: int, push: Span, pull: Span, overhead_s: float) -> list[Event]:
    """From the middle of a push to the beginning of a pull."""
    shared = {"name": "exchange", "cat": "exchange", "id": number, "pid": process}
    begin_us, end_us = ((overhead_s + s) * 1e6 for s in ((push.begin_s + push.end_s) / 2, pull.begin_s))
    return [
        {**shared, "ph": "s", "tid": _track(push.step), "ts": begin_us},
        {**shared, "ph": "f", "bp": "e", "tid": _track(pull.step), "ts": end_us},
    ]


def _track(step: Step) -> int:
    lane = {Kind.PUSH: 1, Kind.PULL: 2}.get(step.kind, 0)
    return step.device * len(TRACKS) + lane
