"""What consumers of a block pay to pull its output, for every set (or number) of devices that may have produced it.

Knows ways of summing and slices of a gather. Knows nothing of stages. With sets, figures are exact where consumers are
the producers; elsewhere, and with numbers of devices alone, no plan pulls for less.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .plan import members, size
from .stage_costs import NOTHING, Costs, StageCosts
from .sums import SumWays
from .variables import BlockVariables, Expression, Shares, Variant

Pulls = list[tuple[Expression, list[Costs]]]
Set = tuple[int, ...]


@dataclass
class Exchange:
    """A block's output or a gathered input, as consumers see it; costs are a list by device.

    `pulls`: what each set of producers costs. `least`: a bound on what is left of that once a consumer has its own
    slices. `own`: units that a device pulls from nobody, with what each saves. `sole_producer`: literals by device.
    `gathers`: for each column variant, a literal of being gathered from several, what all costs at least, what an
    own unit saves, units.
    `pulled`: variables made for the ticks of `pulls` by device and phase, -1 for `least`.
    """

    pulls: Pulls
    least: Pulls
    own: list[tuple[list[Expression], list[Costs]]]
    sole_producer: list[Expression]
    gathers: list[tuple[Expression, list[Costs], list[Costs], int]] = field(default_factory=list)
    pulled: dict[tuple[int, int], Any] = field(default_factory=dict)


@dataclass
class Exchanges:
    """Exchanges of blocks under all their variants; costs of a set are computed once."""

    costs: StageCosts
    _found: dict[Any, list[Costs]] = field(default_factory=dict)
    _after: dict[tuple[str, bool], Exchange] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ways = SumWays(self.costs.pricer)
        self.devices = range(len(self.costs.pricer.profile.devices))
        self.hidden = self.costs.pricer.model.hidden

    def after(self, block: BlockVariables, last: bool) -> Exchange:
        """Hidden states of a block. `last`: of prefill, its last chunk alone counts."""
        key = (block.name, last)
        if key not in self._after:
            self._after[key] = self._last(self.after(block, False)) if last else self._hidden_states(block)
        return self._after[key]

    def _hidden_states(self, block: BlockVariables) -> Exchange:
        exchange = Exchange([], [], [], [0] * len(self.devices))
        for v in block.variants:
            for d in self.devices:
                exchange.sole_producer[d] += v.sole_producer(d)
            if v.outputs is None:
                sums = [(literal, self._summed(held)) for held, literal in self._sets(v.inputs)]
                exchange.pulls += sums
                exchange.least += sums
                continue
            self._gather(exchange, v.outputs, self.hidden)
            alone = [(s.whole, self._sliced((d,), self.hidden)) for d, s in enumerate(v.inputs.by_device)]
            exchange.pulls += alone
            exchange.least += alone
        return exchange

    def inputs(self, block: Any, v: Variant) -> Exchange:
        """Inputs of the output projection of a column block, as its writers see them."""
        exchange = Exchange([], [], [], [0] * len(self.devices))
        self._gather(exchange, v.inputs, self.costs.inputs(block))
        return exchange

    def _gather(self, exchange: Exchange, shares: Shares, width: int) -> None:
        dimension = shares.by_device[0].dimension
        unit = max(1, width * dimension.unit // dimension.total)
        sets = self._sets(shares)
        exchange.pulls += [(literal, self._sliced(held, width)) for held, literal in sets]
        exchange.least += [(literal, self._sliced(held, unit)) for held, literal in sets]
        units = [sum(amount for _, _, amount in share.pieces) for share in shares.by_device]
        saved = [self._saved(d, width, unit) for d in self.devices]
        exchange.own.append((units, saved))
        several = [self._sliced(held, width) for held, _ in sets if len(held) > 1]
        if several:
            gathered = sum(literal for held, literal in sets if len(held) > 1)
            exchange.gathers.append((gathered, [_least(each) for each in zip(*several)], saved, dimension.count))

    def _sets(self, shares: Shares) -> list[tuple[Set, Expression]]:
        """Every set of producers with its literal; with many devices a number of several of them stands for all sets of
        the size, as negative numbers.
        """
        if shares.sets:
            return shares.sets
        alone: list[tuple[Set, Expression]] = [((d,), share.whole) for d, share in enumerate(shares.by_device)]
        return alone + [(tuple(-1 - i for i in range(k + 1)), lit) for k, lit in enumerate(shares.counts) if k]

    def _held(self, held: Set, d: int) -> Set:
        """A set as it is, or one of its size with `d` in it, which has less to pull."""
        if held[0] >= 0:
            return held
        return tuple(sorted((d + i) % len(self.devices) for i in range(len(held))))

    def _sliced(self, held: Set, width: int) -> list[Costs]:
        """`width` values in all, in slices of the set."""
        key = (held, width)
        if key not in self._found:
            self._found[key] = [self.costs.pull(d, self._held(held, d), width, "concat") for d in self.devices]
        return self._found[key]

    def _summed(self, held: Set) -> list[Costs]:
        """Partial sums of the set, by the way that is cheapest for the device."""
        if held not in self._found:
            self._found[held] = [self._cheapest(d, self._held(held, d)) for d in self.devices]
        return self._found[held]

    def _cheapest(self, d: int, producers: Set) -> Costs:
        options = [self.costs.pull(d, producers, self.hidden, "sum", alone=len(producers) == 1)]
        linked = self.costs.pricer.profile.devices[d].link is not None
        for sums in self.ways.ways(producers):
            middle = self.costs.weighted(self.ways.middle_costs(sums, producers))
            others = self.hidden - (size(sums[d]) if linked else 0)
            last = self.costs.pull(d, members(sums), others, "concat")
            options.append(tuple(a + b for a, b in zip(middle, last)))  # type: ignore[arg-type]
        return _least(options)

    def _saved(self, d: int, width: int, unit: int) -> Costs:
        """What a unit of its own saves a device with a link; others copy their own slices too."""
        if self.costs.pricer.profile.devices[d].link is None or width <= unit:
            return NOTHING
        others = (d, (d + 1) % len(self.devices))
        whole, one = (self.costs.pull(d, others, w, "concat") for w in (width, unit))
        share = unit / (width - unit)
        return tuple((a - b) * share for a, b in zip(whole, one))  # type: ignore[return-value]

    def _last(self, exchange: Exchange) -> Exchange:
        def late(costs: list[Costs]) -> list[Costs]:
            return [(c[0], c[4], c[2], c[3], c[4]) for c in costs]

        pulls, least = ([(lit, late(c)) for lit, c in each] for each in (exchange.pulls, exchange.least))
        own = [(units, late(each)) for units, each in exchange.own]
        gathers = [(lit, late(full), late(saved), units) for lit, full, saved, units in exchange.gathers]
        return Exchange(pulls, least, own, exchange.sole_producer, gathers)


def _least(options: Iterable[Costs]) -> Costs:
    """The least of each component."""
    return tuple(min(each) for each in zip(*options))  # type: ignore[return-value]
