"""Lower bounds on the duration of a stage for each set of devices that may share it.

They follow from the cost curves alone; written into the CP-SAT model they save most of the proof.
"""

from __future__ import annotations

import numpy as np

from .curves import Piece
from .variables import Share

Components = tuple[int, ...]  # of `stage_costs.Costs`, to be added
NEVER = 1 << 62


def least_ticks(shares: list[Share], sets: list[tuple[int, ...]], components: Components) -> list[int]:
    """For each set: no way to share all units among exactly its devices brings the cost of the slowest below this."""
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


def _least_by_units(share: Share, units: int, components: Components) -> np.ndarray:
    """[u - 1]: what u units or more cost at least, for u below `units`."""
    costs = np.full(max(units - 1, 1), 0 if units == 1 else NEVER, dtype=np.int64)
    for piece, _, _ in share.pieces:
        slope, base = (sum(row[c] for c in components) for row in (piece.slopes, piece.bases))
        at = np.arange(piece.lo, piece.hi + 1)
        costs[piece.lo - 1 : piece.hi] = np.minimum(costs[piece.lo - 1 : piece.hi], (slope * at + base)[: units - 1])
    return np.minimum.accumulate(costs[::-1])[::-1]


def _ragged(shares: list[Share], devices: tuple[int, ...], components: Components) -> int:
    """What the last unit may cost less than others."""
    dimension = shares[0].dimension
    most = max(sum(shares[d].unit[c] for c in components) for d in devices)
    return most * dimension.missing // dimension.unit


def _cost(piece: Piece, units: int, components: Components) -> int:
    return sum(piece.slopes[c] * units + piece.bases[c] for c in components)
