"""Lower bounds on the duration of a stage for each set of devices that may share it.

They follow from the cost curves alone; written into the CP-SAT model they save most of the proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .curves import Piece
from .variables import Share, Shares

Components = tuple[int, ...]  # of `stage_costs.Costs`, to be added
Set = tuple[int, ...]
NEVER = 1 << 61


@dataclass(frozen=True)
class Gather:
    """What a device pulls before a stage: `full` ticks by device, less `saved` for each of the units that it wrote.

    All devices together wrote `units`.
    """

    full: list[int]
    saved: list[float]
    units: int


def least_ticks(shares: Shares, components: Components, before: list[int] | None = None) -> list[int]:
    """For each of the sets: no way to share all units among exactly its devices brings the slowest below this.

    `before`: ticks that each device spends before, where several share the units.
    """
    sets, offsets = [held for held, _ in shares.sets], before or [0] * len(shares.by_device)
    least = _least_aligned if shares.group > 1 else _least_unaligned
    bounds = least(shares, sets, components, offsets)
    alone = [_cost(share.whole_piece, share.whole_piece.hi, components) for share in shares.by_device]
    return [alone[held[0]] if len(held) == 1 else bound for held, bound in zip(sets, bounds)]


def least_after_gather(shares: Shares, components: Components, gather: Gather) -> list[int]:
    """The same where devices pull before what they did not write themselves: who computes little may have written much.

    The linear program of both shares in closed form: within a time, a device must have written what it has no time to
    pull; every further unit of its own frees time to compute, most where pulls are slow and computing is fast.
    """
    sets, units = [held for held, _ in shares.sets], shares.by_device[0].whole_piece.hi
    held = np.array([[d in devices for d in range(len(shares.by_device))] for devices in sets])
    full, saved = np.array(gather.full, dtype=float), np.array(gather.saved, dtype=float)
    each = np.array([_least_each(share, units, components) for share in shares.by_device])
    free = np.where(held, np.where(each > 0, saved / np.maximum(each, 1e-9), np.inf), 0.0).max(axis=1)
    low, high = np.zeros(len(sets)), np.full(len(sets), full.max() + each.max() * units)
    for _ in range(60):
        middle = (low + high) / 2
        slack = np.where(held, middle[:, None] - full, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            wrote = np.nan_to_num(np.maximum(-slack, 0) / saved, nan=0.0, posinf=np.inf).sum(axis=1)
            done = np.nan_to_num(np.maximum(slack, 0) / each, nan=0.0, posinf=np.inf).sum(axis=1)
            done += np.nan_to_num((gather.units - wrote) * free, nan=np.inf, posinf=np.inf, neginf=-np.inf)
        enough = (wrote <= gather.units) & (done >= units)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    ragged = [_ragged(shares.by_device, devices, components) for devices in sets]
    bounds = zip(sets, least_ticks(shares, components), low, ragged)
    return [least if len(devices) == 1 else max(least, int(t) - less) for devices, least, t, less in bounds]


def least_of_any_set(shares: Shares, components: Components) -> int:
    """No set at all does all units in less: every device at its best pace, whatever its share."""
    units, dimension = shares.by_device[0].whole_piece.hi, shares.by_device[0].dimension
    each = [_least_each(share, units, components) for share in shares.by_device]
    saved = (sum(share.unit[c] for c in components) for share in shares.by_device)
    absent = dimension.missing / dimension.unit * max(a / b if b > 0 else 0.0 for a, b in zip(saved, each))
    together = int(max(0.0, units - absent) / sum(1 / ticks if ticks > 0 else np.inf for ticks in each))
    alone = min(_cost(share.whole_piece, units, components) for share in shares.by_device)
    return min(together, alone)


def _least_each(share: Share, units: int, components: Components) -> float:
    """Ticks that a unit takes at least, on average over a share of any size."""
    costs = _by_units(share, units, components)
    return float((costs / np.arange(1, len(costs) + 1)).min())


def _least_unaligned(shares: Shares, sets: list[Set], components: Components, before: list[int]) -> list[int]:
    """By bisection over what each device does in a time, for all sets at once."""
    devices, units = shares.by_device, shares.by_device[0].whole_piece.hi
    tables = [_least_by_units(share, units, components) + offset for share, offset in zip(devices, before)]
    held = np.array([[d in members for d in range(len(devices))] for members in sets])
    low = np.array([max(int(tables[d][0]) for d in members) for members in sets])
    high = np.maximum(low, max(int(table[-1]) for table in tables))
    while (low < high).any():
        middle = (low + high) // 2
        most = np.stack([np.searchsorted(table, middle, side="right") for table in tables], axis=1)
        enough = (most * held).sum(axis=1) >= units
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    return [max(0, least - _ragged(devices, members, components)) for members, least in zip(sets, low.tolist())]


def _least_aligned(shares: Shares, sets: list[Set], components: Components, before: list[int]) -> list[int]:
    """Where KV heads are cut apart, what a share costs depends on where it begins: by dynamic programming over ends.

    For a set in device order, [e]: the least for which its devices take the first e units.
    """
    units, group = shares.by_device[0].whole_piece.hi, shares.group
    tables = [_from_to(share, units, group, components) + offset for share, offset in zip(shares.by_device, before)]
    nobody = np.full(units + 1, NEVER, dtype=np.int64)
    nobody[0] = 0
    found: dict[Set, np.ndarray] = {(): nobody}
    for held in sorted(sets, key=len):
        found[held] = np.maximum(found[held[:-1]][:, None], tables[held[-1]]).min(axis=0)
    least = [int(found[held][units]) for held in sets]
    return [ticks if ticks < NEVER else 0 for ticks in least]  # more devices than units: no share of any, so no bound


def _from_to(share: Share, units: int, group: int, components: Components) -> np.ndarray:
    """[b, e]: what the units from b to e cost, NEVER where there are none."""
    costs = np.full(units + 1, NEVER, dtype=np.int64)
    costs[1:units] = _by_units(share, units, components)
    begin, end = np.arange(units + 1)[:, None], np.arange(units + 1)[None, :]
    spare = group * (-(-end // group) - begin // group) - (end - begin)
    spare_ticks = sum(share.spare_unit[c] for c in components)
    return np.where(end > begin, costs[np.maximum(end - begin, 0)] + spare_ticks * spare, NEVER)


def _least_by_units(share: Share, units: int, components: Components) -> np.ndarray:
    """[u - 1]: what u units or more cost at least, for u below `units`."""
    return np.minimum.accumulate(_by_units(share, units, components)[::-1])[::-1]


def _by_units(share: Share, units: int, components: Components) -> np.ndarray:
    """[u - 1]: what u units cost, for u below `units`."""
    costs = np.full(max(units - 1, 1), 0 if units == 1 else NEVER, dtype=np.int64)
    for piece, _, _ in share.pieces:
        slope, base = (sum(row[c] for c in components) for row in (piece.slopes, piece.bases))
        at = np.arange(piece.lo, piece.hi + 1)
        costs[piece.lo - 1 : piece.hi] = np.minimum(costs[piece.lo - 1 : piece.hi], (slope * at + base)[: units - 1])
    return costs


def _ragged(shares: list[Share], devices: tuple[int, ...], components: Components) -> int:
    """What the last unit may cost less than others."""
    dimension = shares[0].dimension
    most = max(sum(shares[d].unit[c] for c in components) for d in devices)
    return most * dimension.missing // dimension.unit


def _cost(piece: Piece, units: int, components: Components) -> int:
    return sum(piece.slopes[c] * units + piece.bases[c] for c in components)
