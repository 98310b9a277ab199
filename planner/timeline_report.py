"""A simulated pass as people read it: what each device does with its time, and what decides how long it takes.

Knows timelines alone: no plan, model or profile.
"""

from __future__ import annotations

from typing import Any

from ..hwprofiles.units import Table, duration
from .timeline import Timeline

SHOWN_SHARE = 0.02
EQUAL = 1e-6
LEAST_TOLD = 0.001  # nearer than this, a simulated time counts as the predicted one


def usage_table(timeline: Timeline) -> Table:
    """Where the time of each device goes; those that do nothing are left out."""
    rows = []
    for device, name in enumerate(timeline.devices):
        use = timeline.usage(device)
        if use.busy_s:
            shown = map(duration, (use.compute_s, use.push_s, use.pull_s, use.wait_s))
            rows.append((name, *shown, f"{use.busy_s / timeline.length_s:.0%}"))
    return _title(timeline), ("device", "compute", "push", "pull", "wait", "busy"), rows


def length_lines(timeline: Timeline, predicted_s: float) -> list[str]:
    """The length of the pass beside the solver's, why they differ, and what its critical path consists of."""
    length_s, more_s = timeline.length_s, timeline.length_s - timeline.uncontended_s
    lines = [f"{duration(length_s)}, {compared(length_s, predicted_s)}", _critical_line(timeline)]
    if more_s > EQUAL * timeline.uncontended_s:
        lines.insert(1, f"sharing ports and host memory costs {duration(more_s)} ({more_s / length_s:.1%}) of it")
    return lines


def compared(simulated_s: float, predicted_s: float) -> str:
    """How a simulated time stands to the solver's, in words; where it tells, with the only two reasons there are."""
    share = simulated_s / predicted_s - 1
    if abs(share) < LEAST_TOLD:
        return "as the solver predicts"
    if share < 0:
        why = "it lets all of an exchange share ports and host memory to the end"
        return f"{-share:.2%} less than the solver predicts ({duration(predicted_s)}): {why}"
    why = "pushes of early devices meet pulls of late ones"
    return f"{share:.2%} more than the solver predicts ({duration(predicted_s)}): {why}"


def timeline_fields(timeline: Timeline, predicted_s: float) -> dict[str, Any]:
    """Everything said about a pass, for JSON; seconds and shares of 1."""
    usage = [(name, timeline.usage(device)) for device, name in enumerate(timeline.devices)]
    return {
        "rows": timeline.rows,
        "length_s": timeline.length_s,
        "predicted_s": predicted_s,
        "uncontended_s": timeline.uncontended_s,
        "overhead_s": timeline.overhead_s,
        "steps": len(timeline.spans),
        "devices": [
            {
                "name": name,
                "compute_s": use.compute_s,
                "push_s": use.push_s,
                "pull_s": use.pull_s,
                "wait_s": use.wait_s,
                "busy_share": use.busy_s / timeline.length_s,
            }
            for name, use in usage
        ],
        "critical_path": [
            {"part": what, "seconds": seconds, "share": seconds / timeline.length_s}
            for what, seconds in timeline.critical_parts().items()
        ],
    }


def _critical_line(timeline: Timeline) -> str:
    """Largest first; what is small is one sum."""
    parts = timeline.critical_parts()
    shares = {what: seconds / timeline.length_s for what, seconds in parts.items()}
    shown = [f"{what} {share:.0%}" for what, share in shares.items() if share >= SHOWN_SHARE]
    rest = sum(share for share in shares.values() if share < SHOWN_SHARE)
    return "critical path: " + ", ".join([*shown, f"the rest {rest:.1%}"] if rest >= SHOWN_SHARE / 10 else shown)


def _title(timeline: Timeline) -> str:
    if timeline.phase == "decode":
        return f"One decode step, {_count(timeline.rows, 'sequence')}"
    return f"One prefill chunk, {_count(timeline.rows, 'token')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
