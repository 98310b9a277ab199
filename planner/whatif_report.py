"""What-if outcomes and sweeps as people read them: tables, and the series of a picture.

Knows outcomes alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..hwprofiles.units import Table, duration
from .plan import Workload
from .sweeps import Point
from .whatif import NO_TIME, UNFIT, Outcome

CURVES = ("decode tok/s", "prefill s")
NAME_WIDTH, DEVICES_WIDTH = 22, 45  # so that tables fit a terminal of 80 columns


def outcome_tables(outcomes: Sequence[Outcome], workload: Workload) -> list[Table]:
    """Figures and devices: a row a variant, in the order given."""
    title = (
        f"For {workload.prompt_tokens} prompt and {workload.new_tokens} new tokens, batch {workload.batch}, "
        f"context {workload.context}"
    )
    columns = ("machine", "whole\nanswer", "speed-up", "decode\ntok/s", "prefill", "largest\ncontext")
    rows = [(_name(o.name), *_figures(o), _context(o)) for o in outcomes]
    used = [(_name(o.name), _devices(o)) for o in outcomes if o.devices]
    return [(title, columns, rows), *_used(("machine", "devices in use"), used)]


def sweep_tables(points: Sequence[Point], kind: str) -> list[Table]:
    """Figures and devices: a row a point."""
    rows = []
    for point in points:
        answer, _, decode, prefill = _figures(point.outcome)
        rows.append((_name(point.machine), str(point.value), answer, decode, prefill))
    used = [(_name(p.machine), str(p.value), _devices(p.outcome)) for p in points if p.outcome.devices]
    columns = ("machine", kind, "whole\nanswer", "decode\ntok/s", "prefill")
    return [(_sweep_title(kind), columns, rows), *_used(("machine", kind, "devices in use"), used)]


def problems(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each variant that is no machine or no request."""
    return list(dict.fromkeys(f"{o.name}: {o.problem}" for o in outcomes if o.problem not in ("", UNFIT)))


def curves(points: Sequence[Point]) -> tuple[list[str], dict[str, list[float | None]]]:
    """Every value once, in order, and two series a machine over them; None where nothing fits or nothing was asked."""
    values = list(dict.fromkeys(str(p.value) for p in points))
    machines = list(dict.fromkeys(p.machine for p in points))
    series: dict[str, list[float | None]] = {}
    for machine in machines:
        found = {str(p.value): p.outcome for p in points if p.machine == machine}
        prefix = f"{machine}: " if len(machines) > 1 else ""
        for name, field in zip(CURVES, ("decode_tokens_per_s", "prefill_s")):
            series[prefix + name] = [getattr(found[v], field) if v in found else None for v in values]
    return values, series


def _sweep_title(kind: str) -> str:
    return {"context": "Prompts that fill the context", "batch": "Sequences at once", "link": "All links alike"}[kind]


def _figures(outcome: Outcome) -> tuple[str, str, str, str]:
    if outcome.answer_s is None or outcome.prefill_s is None or outcome.decode_tokens_per_s is None:
        return {UNFIT: UNFIT, NO_TIME: "no time"}.get(outcome.problem, "no plan"), "-", "-", "-"
    speedup = f"{outcome.speedup:.2f}x" if outcome.speedup else "-"
    return duration(outcome.answer_s), speedup, f"{outcome.decode_tokens_per_s:.1f}", duration(outcome.prefill_s)


def _context(outcome: Outcome) -> str:
    return "-" if outcome.largest_context is None else str(outcome.largest_context or "none")


def _used(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Table]:
    return [("", columns, rows)] if rows else []


def _name(name: str) -> str:
    return textwrap.fill(name, NAME_WIDTH)


def _devices(outcome: Outcome) -> str:
    return textwrap.fill(", ".join(outcome.devices), DEVICES_WIDTH)
