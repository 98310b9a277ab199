"""Splits whose layers are cut in up to three ways, whole layers on one device among them, where memory is short.

Knows how many layers of each pattern fit and are fastest. Knows nothing of units (see `descent`) or proofs: with memory
to spare, layers do not depend on each other, and one way is best for all that are alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, permutations

import msgspec
import numpy as np

from .baselines import proportional_split, split_bytes
from .heuristic import Balancer
from .memory import DeviceBytes, Sizes, fits
from .plan import LayerPlan, Split, devices_used
from .price import Pricer
from .units import Units

TIGHT = 0.9  # of a cap
MOST_PATTERNS, MOST_SETS, MOST_TABLES = 3, 32, 3
MOST_SHARES = 160  # that layers are counted in, more than models have layers


@dataclass(frozen=True)
class Mixer:
    """Mixtures around `base`, with its embedding and head, or with both on one of the devices that have most room."""

    pricer: Pricer
    caps: tuple[int, ...]
    base: Split

    @property
    def _worthwhile(self) -> bool:
        """Whether there are layers to mix, devices to mix them over, and one of those is nearly full."""
        full = any(n.total > TIGHT * cap for n, cap in zip(self._bytes(self.base), self.caps))
        return full and len(self.caps) > 1 and self.pricer.model.layers > 1

    def splits(self) -> Iterator[Split]:
        """The fastest mixtures found for the patterns and tables at hand, their runs in every order; those that fit."""
        for base in self._bases() if self._worthwhile else ():
            runs = [(pattern, n) for pattern, n in zip(self.patterns, self._counts(base)) if n]
            for order in permutations(runs) if len(runs) > 1 else ():
                layers = tuple(pattern for pattern, n in order for _ in range(n))
                split = msgspec.structs.replace(base, layers=layers)
                if fits(self._bytes(split), self.pricer.profile, self.caps):
                    yield split

    def _bases(self) -> Iterator[Split]:
        """The base, and the same with its tables on one device."""
        yield self.base
        room = [cap - needed.total for needed, cap in zip(self._bytes(self.base), self.caps)]
        vocabulary, devices = Units(self.pricer.model.vocab, self.pricer.model.vocab), range(len(room))
        for d in sorted(devices, key=lambda d: -room[d])[:MOST_TABLES]:
            table = vocabulary.spans(tuple(int(e == d) for e in devices))
            yield msgspec.structs.replace(self.base, embedding=table, head=table)

    @cached_property
    def patterns(self) -> list[LayerPlan]:
        """The base's cuts, each device alone, and the fastest cut of every device set, as if memory were no matter."""
        everyone, count = range(len(self.caps)), len(self.caps)
        boundless = Balancer(self.pricer, (1 << 50,) * count, False)
        found = list(dict.fromkeys(self.base.layers))
        for d in everyone:
            found.append(proportional_split(self.pricer, [float(e == d) for e in everyone]).layers[0])
        sets = [held for size in range(2, count + 1) for held in combinations(everyone, size)]
        for held in sets if len(sets) <= MOST_SETS else [tuple(everyone[:k]) for k in range(2, count + 1)]:
            found.append(boundless.pattern(held) or found[0])
        return list(dict.fromkeys(found))

    def _counts(self, base: Split) -> list[int]:
        """Layers of each pattern: the least time for which the bytes fit; none where nothing does."""
        seconds = np.array([self._layer_s(base, pattern) for pattern in self.patterns])
        each = np.array([self._layer_bytes(pattern) for pattern in self.patterns], dtype=float)
        free = np.array(self._free_bytes(base), dtype=float)
        return fastest_counts(seconds, each, free, self.pricer.model.layers)

    def _layer_s(self, base: Split, pattern: LayerPlan) -> float:
        """A layer's part of a stack of its like, tables included, which all patterns have in common."""
        layers = self.pricer.model.layers
        return self.pricer.split_s(_stack(base, pattern, layers)) / layers

    def _layer_bytes(self, pattern: LayerPlan) -> list[int]:
        one, two = (self._bytes(_stack(self.base, pattern, layers)) for layers in (1, 2))
        return [b.weights + b.cache - a.weights - a.cache for a, b in zip(one, two)]

    def _free_bytes(self, base: Split) -> list[int]:
        """What layers may fill on each device: the cap less tables, the widest buffers of any pattern, and slots."""
        room, work = list(self.caps), self.pricer.workload
        slots = Sizes(self.pricer.model, work, self.pricer.dtype).slots(self.pricer.model.hidden)
        for pattern in self.patterns:
            stack = _stack(base, pattern, 1)
            more = slots if len(devices_used(stack)) == 1 else 0
            for d, (needed, own) in enumerate(zip(self._bytes(stack), self._layer_bytes(pattern))):
                room[d] = min(room[d], self.caps[d] - needed.total + own - more * (needed.total > 0))
        return room

    def _bytes(self, split: Split) -> tuple[DeviceBytes, ...]:
        return split_bytes(self.pricer, split)


def _stack(base: Split, pattern: LayerPlan, layers: int) -> Split:
    return msgspec.structs.replace(base, layers=(pattern,) * layers)


def fastest_counts(seconds: np.ndarray, each: np.ndarray, free: np.ndarray, layers: int) -> list[int]:
    """How many of `layers` layers to take of each pattern, up to MOST_PATTERNS different ones, for the least time: all
    choices of so many patterns, and all counts of these at once. All 0 where nothing fits.

    seconds: [patterns] of a layer; each: [patterns, devices] bytes of one; free: [devices] bytes.
    """
    best_s, best, least = np.inf, [0] * len(seconds), layers * each
    counts = _all_counts(layers, min(MOST_PATTERNS, len(seconds)))
    order = sorted(range(len(seconds)), key=lambda pattern: seconds[pattern])
    for chosen in map(list, combinations(order, counts.shape[1])):
        if seconds[chosen].min() * layers >= best_s or (least[chosen].min(axis=0) > free).any():
            continue
        taken_s = counts @ seconds[chosen]
        better = np.flatnonzero(taken_s < best_s * (1 - 1e-9))
        better = better[(counts[better] @ each[chosen] <= free).all(axis=1)]
        if len(better):
            at = better[taken_s[better].argmin()]
            best_s, best = float(taken_s[at]), [0] * len(seconds)
            for pattern, count in zip(chosen, counts[at]):
                best[pattern] = int(count)
    return best


def _all_counts(layers: int, parts: int) -> np.ndarray:
    """[choices, parts]: all ways to share out so many layers; very many go in steps, the largest part has the rest."""
    shares = np.array(list(_compositions(min(layers, MOST_SHARES), parts)), dtype=float)
    counts: np.ndarray = np.floor(shares * layers / shares[0].sum())
    counts[np.arange(len(counts)), shares.argmax(axis=1)] += layers - counts.sum(axis=1)
    return counts


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as a sum of so many numbers, those with most in front first."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _compositions(total - first, parts - 1):
            yield first, *rest
