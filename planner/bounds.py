"""Lower bounds on the duration of a stage for each set of devices that may share it.

They follow from the cost curves alone; written into the CP-SAT model they save most of the proof.
"""

from __future__ import annotations

import numpy as np

from .curves import Piece
from .variables import Share, Shares

Components = tuple[int, ...]  # of `stage_costs.Costs`, to be added
Set = tuple[int, ...]
NEVER = 1 << 61


def least_ticks(shares: Shares, components: Components) -> list[int]:
    """For each of the sets: no way to share all units among exactly its devices brings the slowest below this."""
    sets = [held for held, _ in shares.sets]
    if shares.group > 1:
        return _least_aligned(shares, sets, components)
    return _least_unaligned(shares.by_device, sets, components)


def _least_unaligned(shares: list[Share], sets: list[Set], components: Components) -> list[int]:
    """By bisection over what each device does in a time, for all sets at once."""
    units = shares[0].whole_piece.hi
    tables = [_least_by_units(share, units, components) for share in shares]
    held = np.array([[d in devices for d in range(len(shares))] for devices in sets])
    low = np.array([max(int(tables[d][0]) for d in devices) for devices in sets])
    high = np.maximum(low, max(int(table[-1]) for table in tables if len(table)))
    while (low < high).any():
        middle = (low + high) // 2
        most = np.stack([np.searchsorted(table, middle, side="right") for table in tables], axis=1)
        enough = (most * held).sum(axis=1) >= units
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    alone = [_cost(share.whole_piece, units, components) for share in shares]
    ragged = [_ragged(shares, devices, components) for devices in sets]
    bounds = zip(sets, low.tolist(), ragged)
    return [alone[devices[0]] if len(devices) == 1 else max(0, least - less) for devices, least, less in bounds]


def _least_aligned(shares: Shares, sets: list[Set], components: Components) -> list[int]:
    """Where KV heads are cut apart, what a share costs depends on where it begins: by dynamic programming over ends.

    For a set in device order, [e]: the least for which its devices take the first e units.
    """
    units, group = shares.by_device[0].whole_piece.hi, shares.group
    tables = [_from_to(share, units, group, components) for share in shares.by_device]
    nobody = np.full(units + 1, NEVER, dtype=np.int64)
    nobody[0] = 0
    found: dict[Set, np.ndarray] = {(): nobody}
    for held in sorted(sets, key=len):
        before = found[held[:-1]]
        found[held] = np.maximum(before[:, None], tables[held[-1]]).min(axis=0)
    alone = [_cost(share.whole_piece, units, components) for share in shares.by_device]
    return [alone[held[0]] if len(held) == 1 else int(found[held][units]) for held in sets]


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
