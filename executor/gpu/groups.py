"""Which steps of a device run as one launch: the fusions of a GPU, as groups of steps in their order.

Knows kinds and roles of steps. Knows nothing of kernels or buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from ...planner.steps import Kind, Step

Group = tuple[Step, ...]


def groups(steps: Sequence[Step]) -> Iterator[Group]:
    """The steps of one device in order, cut into groups: a projection up with its activation; a residual with the
    exchange and the norm after it; any other step alone.
    """
    at = 0
    while at < len(steps):
        group = _group(steps[at:])
        yield group
        at += len(group)


def _group(rest: Sequence[Step]) -> Group:
    first = rest[0]
    if first.role == "gate_up":
        return first, rest[1]
    if first.kind in (Kind.RESIDUAL, Kind.PUSH, Kind.PULL):
        return _exchange(rest)
    return (first,)


def _exchange(rest: Sequence[Step]) -> Group:
    """An optional residual, the push and the pull of one site, the norm that reads what was pulled."""
    group = [rest[0]] if rest[0].kind is Kind.RESIDUAL else []
    moves = takewhile(lambda step: step.kind in (Kind.PUSH, Kind.PULL), rest[len(group) :])
    for step in moves:
        if (group and group[-1].kind is Kind.PULL) or (group and group[-1].collective not in (-1, step.collective)):
            break
        group.append(step)
    after = rest[len(group)] if len(group) < len(rest) else None
    whole = group[-1].role in ("pull_hidden", "residual")
    if whole and after is not None and after.kind is Kind.NORM:
        group.append(after)
    return tuple(group)
