"""What devices pay to pull a block's output, by who produced it, and what sharing ports and host memory adds.

Knows producers, ways of summing and movers, for all sets at once. Knows nothing of shares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from .device_sets import DeviceSets, Set
from .plan import members, size
from .price import Chunk
from .stage_costs import Costs, StageCosts
from .sums import Sums, SumWays

PHASES = (0, 1, 4)  # of `Costs`: decode, prefill, prefill's last chunk
SLICES = 4  # into which a width is cut to see how a pull grows


@dataclass(frozen=True)
class Sources:
    """One way of handing on a block's output, for every set that produced it; infinite where a set has no such way.

    `middle_s[set, phase]`: before anyone can pull; `sole_s`: at least, where one device alone does; `beyond_s`: at
    least beyond a push by every producer, of which one that adds up itself pushes sums only.
    `pull_s[set, device, phase]`: alone on its paths. `moved[set, device]`: values a row over its link.
    `saved_s[set, device, phase]`: less for every value that it wrote itself.
    """

    middle_s: np.ndarray
    sole_s: np.ndarray
    beyond_s: np.ndarray
    pull_s: np.ndarray
    moved: np.ndarray
    saved_s: np.ndarray


@dataclass(frozen=True)
class SetSources:
    costs: StageCosts
    sets: DeviceSets

    @cached_property
    def linked(self) -> np.ndarray:
        return np.array([device.link is not None for device in self.costs.pricer.profile.devices])

    @cached_property
    def row_bytes(self) -> np.ndarray:
        """[phase]: bytes of one value a row in the whole workload."""
        work, (decode, prefill) = self.costs.pricer.workload, self.costs.phases
        rows = [work.new_tokens * _rows(decode), work.batch * _rows(prefill), work.batch * _rows(prefill[-1:])]
        return 4.0 * np.array(rows, dtype=float)

    def extra_s(self, held: np.ndarray, push: bool, fewer: int = 0) -> np.ndarray:
        """[set, device]: seconds a byte beyond its own link's while all of a set move theirs, or all but `fewer`."""
        profile, devices = self.costs.pricer.profile, self.costs.pricer.profile.devices
        ports = {p.name: p.push_bytes_per_s if push else p.pull_bytes_per_s for p in profile.host.ports}
        hung = [device.link.port if device.link else "" for device in devices]
        alike = np.array([[bool(a) and a == b for b in hung] for a in hung])
        each_s = [
            1 / (d.link.push_bytes_per_s if push else d.link.pull_bytes_per_s) if d.link else np.inf for d in devices
        ]
        port_s = np.array([1 / ports[port] if port in ports else 0.0 for port in hung])
        host_s = 1 / profile.host.bytes_per_s if profile.host.bytes_per_s else 0.0
        on_port, on_host = held @ alike.T - fewer, (held & self.linked).sum(axis=1, keepdims=True) - fewer
        return np.asarray(np.maximum(np.maximum(on_port * port_s, on_host * host_s) - np.array(each_s), 0.0))

    @cached_property
    def reducers(self) -> list[int | None]:
        """By row way the device that adds up alone."""
        cpus = [d for d, device in enumerate(self.costs.pricer.profile.devices) if device.kind == "cpu"]
        return [None] * (len(self.row_ways) - len(cpus)) + cpus

    @cached_property
    def row_ways(self) -> list[Sources]:
        """Ways of a row block: every consumer sums; the members do, in parts; a CPU device does."""
        cpus = [d for d, device in enumerate(self.costs.pricer.profile.devices) if device.kind == "cpu"]
        ways = SumWays(self.costs.pricer)
        found = [self._every(self._plain)]
        if max(map(len, self.sets.sets)) > 2:
            found.append(self._every(lambda s: self._reduced(ways, s, ways.in_parts(s)) if len(s) > 2 else None))
        return found + [self._every(partial(self._on_one, ways, ways.on_one(d))) for d in cpus]

    def _on_one(self, ways: SumWays, sums: Sums, s: Set) -> Sources | None:
        return self._reduced(ways, s, sums) if len(s) > 1 else None

    def gathered(self, width: int) -> Sources:
        """Slices of `width` values in all, written by the devices of a set."""
        return self._every(lambda s: self._slices(s, width))

    def _every(self, one: Callable[[Set], Sources | None]) -> Sources:
        count = len(self.linked)
        never = np.full(3, np.inf)
        none = Sources(never, never, never, np.zeros((count, 3)), np.zeros(count), np.zeros((count, 3)))
        found = [one(s) or none for s in self.sets.sets]
        names = ("middle_s", "sole_s", "beyond_s", "pull_s", "moved", "saved_s")
        return Sources(*(np.array([getattr(each, name) for each in found]) for name in names))

    def _plain(self, s: Set) -> Sources:
        hidden, held = self.costs.pricer.model.hidden, self._has(s)
        pulls = [self._pull(d, s, hidden, "sum", len(s) == 1) for d in range(len(held))]
        return self._of(np.zeros((3, 3)), pulls, hidden * (len(s) - held * 1.0))

    def _reduced(self, ways: SumWays, s: Set, sums: Sums) -> Sources:
        hidden = self.costs.pricer.model.hidden
        middle, sole = (self.costs.weighted(ways.middle_costs(sums, s, pushed)) for pushed in (True, False))
        others = [hidden - (size(span) if on_link else 0) for span, on_link in zip(sums, self.linked)]
        reducers = members(sums)
        pulls = [self._pull(d, reducers, width, "concat", False) for d, width in enumerate(others)]
        if len(reducers) == 1:
            pulls[reducers[0]] = np.zeros(3)  # it need not pull where it alone consumes
        before, alone = (np.array(each)[list(PHASES)] for each in (middle, sole))
        beyond = alone if len(reducers) == 1 and reducers[0] in s else before
        return self._of(np.array([before, alone, beyond]), pulls, np.array(others, dtype=float))

    def _slices(self, s: Set, width: int) -> Sources:
        found = [self._line(d, s, width) for d in range(len(self.linked))]
        saved = np.array([each[1] for each in found])
        moved = np.full(len(found), float(width)) if len(s) > 1 else width * (1.0 - self._has(s))
        nothing, pulls = np.zeros(3), np.array([each[0] for each in found])
        return Sources(nothing, nothing, nothing, pulls, moved, saved)

    def _line(self, d: int, s: Set, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of pulling everything, and how much less for each own value: a line below what is sampled."""
        whole = self._pull(d, s, width, "concat", False)
        if not self.linked[d] or d not in s or len(s) == 1:
            return whole, np.zeros(3)
        at = [max(1, width * i // SLICES) for i in range(SLICES + 1)]
        sampled = np.array([self._pull(d, s, w, "concat", False) for w in at])
        each = (sampled[-1] - sampled[0]) / (at[-1] - at[0])
        over = (sampled[0] + each * (np.array(at)[:, None] - at[0]) - sampled).max(axis=0)
        return whole - np.maximum(over, 0.0), np.maximum(each, 0.0)

    def _pull(self, d: int, s: Set, width: int, combine: str, alone: bool) -> np.ndarray:
        """By phase; priced once for equal devices."""
        like, inside = self.sets.of[d], d in s
        others = [e for e in range(len(self.linked)) if e != like]
        producers = tuple(sorted([like, *others[: len(s) - 1]] if inside else others[: len(s)]))
        costs: Costs = self.costs.pull(like, producers, width, combine, alone)
        return np.array(costs)[list(PHASES)]

    def _of(self, before: np.ndarray, pulls: list[np.ndarray], moved: np.ndarray) -> Sources:
        middle, sole, beyond = before
        return Sources(middle, sole, beyond, np.array(pulls), moved, np.zeros((len(pulls), 3)))

    def _has(self, s: Set) -> np.ndarray:
        return np.array([d in s for d in range(len(self.linked))])


def _rows(chunks: list[Chunk]) -> int:
    return sum(chunk.count * chunk.rows for chunk in chunks)
