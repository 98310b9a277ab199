"""Lower bounds on the duration of a stage for each set of devices that may share it.

They follow from the cost curves alone; written into the CP-SAT model they save most of the proof.
"""

from __future__ import annotations

from .curves import Piece
from .variables import Share

Components = tuple[int, ...]  # of `curves.Costs`, to be added


def least_ticks(shares: list[Share], holders: tuple[int, ...], components: Components) -> int:
    """No way to share all units among exactly `holders` brings the cost of the slowest below this."""
    if len(holders) == 1:
        return _cost(shares[holders[0]].whole_piece, shares[holders[0]].whole_piece.hi, components)
    units = shares[holders[0]].whole_piece.hi
    pieces = [[piece for piece, _, _ in shares[d].pieces] for d in holders]
    if not all(pieces):
        return 0
    low = max(min(_cost(p, u, components) for p in each for u in (p.lo, p.hi)) for each in pieces)
    high = max(_cost(p, u, components) for each in pieces for p in each for u in (p.lo, p.hi))
    while low < high:
        middle = (low + high) // 2
        enough = sum(max(_most_units(p, middle, components) for p in each) for each in pieces) >= units
        low, high = (low, middle) if enough else (middle + 1, high)
    share = shares[holders[0]]
    ragged = max(sum(shares[d].unit[c] for c in components) for d in holders) * share.dimension.missing
    return max(0, low - ragged // share.dimension.unit)


def _cost(piece: Piece, units: int, components: Components) -> int:
    return sum(piece.slopes[c] * units + piece.bases[c] for c in components)


def _most_units(piece: Piece, ticks: int, components: Components) -> int:
    """The most units within the piece that cost at most `ticks`, 0 for none."""
    slope, base = (sum(row[c] for c in components) for row in (piece.slopes, piece.bases))
    if slope <= 0:
        return piece.hi if slope * piece.hi + base <= ticks else 0
    units = min(piece.hi, (ticks - base) // slope)
    return units if units >= piece.lo else 0
