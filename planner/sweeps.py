"""Curves: one machine at rising contexts, batches or link rates, solved at each.

Knows which values a sweep takes and when it is over. Knows nothing of pictures, or of which links there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from ..hwprofiles.profile import HardwareProfile
from .model_spec import ModelSpec
from .variants import Change, Variant
from .whatif import Outcome, Progress, deadline_in, outcome

Sweep = Literal["context", "batch", "link"]
LEAST_CONTEXT, MOST_BATCH = 1024, 256


@dataclass(frozen=True)
class Point:
    """`value`: tokens of context, sequences, or a link's name."""

    machine: str
    value: int | str
    outcome: Outcome


def sweep(
    model: ModelSpec,
    machines: Sequence[Variant],
    kind: Sweep,
    links: Sequence[Change],
    total_s: float,
    progress: Progress,
) -> list[Point]:
    """The points of all machines, one after the other. Contexts and batches end with the first that does not fit.

    `links`: for a link sweep, by name, the machine with all its links changed.
    """
    deadline, points = deadline_in(total_s), list[Point]()
    for done, machine in enumerate(machines):
        steps = _steps(model, machine, kind, links)
        for i, (value, variant) in enumerate(steps):
            progress(f"{machine.name}, {kind} {value}", (done + i / len(steps)) / len(machines))
            points.append(Point(machine.name, value, outcome(model, variant, deadline, contexts=False)))
            if kind != "link" and not points[-1].outcome.fits:
                break
    return points


def contexts(model: ModelSpec, new_tokens: int) -> list[int]:
    """Doubling from 1,024, or from what the new tokens and one of prompt take, up to the model's own context."""
    least = min(max(LEAST_CONTEXT, 2 * new_tokens), model.context)
    doubled = [least << i for i in range((model.context // least).bit_length())]
    return [n for n in doubled if n < model.context] + [model.context]


def batches() -> list[int]:
    """Doubling from 1."""
    return [1 << i for i in range(MOST_BATCH.bit_length())]


def _steps(model: ModelSpec, machine: Variant, kind: Sweep, links: Sequence[Change]) -> list[tuple[int | str, Variant]]:
    if machine.problem:
        return [("-", machine)]
    if kind == "link":
        return [(name, _relinked(machine, change)) for name, change in links]
    new_tokens = machine.request.workload.new_tokens
    if kind == "batch":
        return [(n, _at_work(machine, batch=n)) for n in batches()]
    return [(n, _at_work(machine, context=n, prompt_tokens=n - new_tokens)) for n in contexts(model, new_tokens)]


def _at_work(machine: Variant, **changes: int) -> Variant:
    workload = msgspec.structs.replace(machine.request.workload, **changes)
    return replace(machine, request=msgspec.structs.replace(machine.request, workload=workload))


def _relinked(machine: Variant, change: Callable[[HardwareProfile], HardwareProfile]) -> Variant:
    try:
        return replace(machine, profile=change(machine.profile))
    except ValueError as error:
        return replace(machine, problem=str(error))
