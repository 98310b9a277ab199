"""The unknowns of the CP-SAT model: shares of blocks, strategies, and the literals that communication depends on.

Knows what may be chosen and how literals hang together. Knows neither exchanges nor memory (see `constraints`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from .curves import Curve, Piece
from .plan import Strategy
from .units import Units

MOST_SET_DEVICES = 8
Expression = Any  # CP-SAT linear expressions have no public common type


@dataclass
class Share:
    """One device's part of one block: at most one piece of its cost curve is active, or it holds the whole.

    `unit`: the most ticks that a unit's absence saves, by component, where part of the last one is absent.
    `tail`: 1 where its last unit is the ragged one of `dimension`.
    `spare` (attention): query heads that the KV heads it caches have beyond the share, each costing `spare_unit` ticks;
    `kv_heads`: how many it caches, where they may be cut apart.
    """

    pieces: list[tuple[Piece, Expression, Expression]]
    whole: Expression
    whole_piece: Piece
    dimension: Units
    unit: tuple[int, ...]
    tail: Expression = 0
    spare: Expression = 0
    kv_heads: Expression = 0
    spare_unit: tuple[int, ...] = (0,) * 5

    @property
    def used(self) -> Expression:
        return sum(literal for _, literal, _ in self.pieces) + self.whole

    @property
    def units(self) -> Expression:
        return sum(amount for _, _, amount in self.pieces) + self.whole_piece.hi * self.whole

    def linear(self, each: int) -> Expression:
        """`each` for every value of the dimension that is held."""
        units = sum(amount for _, _, amount in self.pieces)
        missing = each * self.dimension.missing * self.tail
        return each * self.dimension.unit * units - missing + each * self.dimension.total * self.whole

    def cost(self, component: int) -> Expression:
        """Ticks of one component of `curves.Costs`."""
        parts = (p.slopes[component] * amount + p.bases[component] * lit for p, lit, amount in self.pieces)
        missing = self.unit[component] * self.dimension.missing // self.dimension.unit
        spare = self.spare_unit[component] * self.spare if self.spare_unit[component] else 0
        return sum(parts) + spare - missing * self.tail + self.whole_piece.bases[component] * self.whole

    def largest(self, component: int) -> int:
        """No share costs more than this."""
        pieces = [p for p, _, _ in self.pieces] + [self.whole_piece]
        return max(max(p.slopes[component] * u + p.bases[component] for u in (p.lo, p.hi)) for p in pieces)


@dataclass
class Shares:
    """All devices' parts of one dimension, and how many devices hold some: `counts[k - 1]` for k devices that share it.

    `sets`: a literal for each device set, where there are few devices.
    `present`: 1 where the dimension is cut this way at all. `single`: 1 where one device holds everything.
    `group`: units that share a KV head, where those may be cut apart.
    """

    present: Expression
    by_device: list[Share]
    counts: list[Expression]
    sets: list[tuple[tuple[int, ...], Expression]]
    group: int = 1

    @property
    def single(self) -> Expression:
        return sum(share.whole for share in self.by_device)


@dataclass
class Variant:
    """A block under one strategy; `outputs` (column): hidden columns of a block with several members."""

    strategy: Strategy
    inputs: Shares
    outputs: Shares | None = None

    def sole_producer(self, d: int) -> Expression:
        """1 where device `d` alone writes the block's output."""
        whole = self.inputs.by_device[d].whole
        return whole + self.outputs.by_device[d].whole if self.outputs else whole


@dataclass
class BlockVariables:
    """One class of blocks (or the embedding, or the head): exactly one variant is present."""

    name: str
    variants: list[Variant] = field(default_factory=list)

    def used(self, d: int) -> Expression:
        return sum(v.inputs.by_device[d].used for v in self.variants)

    def sole(self, d: int) -> Expression:
        """1 where device `d` is the only member."""
        return sum(v.inputs.by_device[d].whole for v in self.variants)


def make_shares(model: Any, name: str, curves: list[Curve], present: Expression, dimension: Units) -> Shares:
    """Shares of all devices that sum to the whole wherever `present` is 1."""
    shares = [_make_share(model, f"{name}.d{d}", curve, dimension) for d, curve in enumerate(curves)]
    later: Expression = 0
    for share in reversed(shares) if dimension.missing else ():
        share.tail = model.new_bool_var("")
        model.add(share.tail <= share.used - share.whole)
        model.add(len(shares) * share.tail <= len(shares) - later)
        later += share.used
    total = curves[0].whole.hi
    for share in shares:
        model.add(share.used <= present)
    model.add(sum(share.units for share in shares) == total * present)
    counts = [model.new_bool_var(f"{name}.members{k + 1}") for k in range(len(shares))]
    model.add(sum(counts) == present)
    model.add(sum((k + 1) * count for k, count in enumerate(counts)) == sum(share.used for share in shares))
    return Shares(present, shares, counts, _make_sets(model, shares, present))


def _make_sets(model: Any, shares: list[Share], present: Expression) -> list[tuple[tuple[int, ...], Expression]]:
    """One literal for each set of holders, which is what lower bounds of a stage's duration can be tied to."""
    devices = range(len(shares))
    if len(devices) > MOST_SET_DEVICES:
        return []
    sets = [held for k in devices for held in combinations(devices, k + 1)]
    literals = [(held, model.new_bool_var("")) for held in sets]
    model.add(sum(literal for _, literal in literals) == present)
    for d in devices:
        model.add(sum(literal for held, literal in literals if d in held) == shares[d].used)
    return literals


def _make_share(model: Any, name: str, curve: Curve, dimension: Units) -> Share:
    pieces = []
    for piece in curve.pieces:
        literal = model.new_bool_var(f"{name}.from{piece.lo}")
        amount = model.new_int_var(0, piece.hi, f"{name}.units{piece.lo}")
        model.add(amount >= piece.lo * literal)
        model.add(amount <= piece.hi * literal)
        pieces.append((piece, literal, amount))
    return Share(pieces, model.new_bool_var(f"{name}.whole"), curve.whole, dimension, curve.unit)


def add_spares(model: Any, name: str, shares: Shares, group: int, unit_costs: list[tuple[int, ...]]) -> None:
    """Cached KV heads of shares that are cut by query heads, `group` to a KV head, in device order.

    A device caches from the KV head of its first query head to that of its last: both round outwards, since less is
    cheaper.
    """
    heads, shares.group = shares.by_device[0].dimension.total, group
    begin: Expression = 0
    for d, (share, ticks) in enumerate(zip(shares.by_device, unit_costs)):
        end = begin + share.units
        first = model.new_int_var(0, heads // group, f"{name}.d{d}.kv_begin")
        last = model.new_int_var(0, heads // group, f"{name}.d{d}.kv_end")
        spare = model.new_int_var(0, 2 * group - 2, f"{name}.d{d}.spare")
        model.add(group * first <= begin)
        model.add(group * last >= end)
        model.add(spare >= group * (last - first) - share.units - group * (1 - share.used))
        share.kv_heads = model.new_int_var(0, heads // group, f"{name}.d{d}.kv_heads")
        model.add(group * share.kv_heads == share.units + spare)
        share.spare, share.spare_unit = spare, ticks
        begin = end


def hint_spares(model: Any, shares: Shares, group: int, units: tuple[int, ...] | None) -> None:
    begin = 0
    for share, own in zip(shares.by_device, units or (0,) * len(shares.by_device)):
        end = begin + own
        cached = -(-end // group) - begin // group
        model.add_hint(share.spare, group * cached - own if own else 0)
        model.add_hint(share.kv_heads, cached if own else 0)
        begin = end


def hint_shares(model: Any, shares: Shares, units: tuple[int, ...] | None) -> None:
    """Hints every variable of the shares from units per device; None where the variant is absent."""
    total = shares.by_device[0].whole_piece.hi
    for share, u in zip(shares.by_device, units or (0,) * len(shares.by_device)):
        model.add_hint(share.whole, u == total)
        for piece, literal, amount in share.pieces:
            inside = u < total and piece.lo <= u <= piece.hi
            model.add_hint(literal, inside)
            model.add_hint(amount, u if inside else 0)
    holders = tuple(d for d, u in enumerate(units or ()) if u)
    for k, count in enumerate(shares.counts):
        model.add_hint(count, k + 1 == len(holders))
    for held, literal in shares.sets:
        model.add_hint(literal, held == holders)
