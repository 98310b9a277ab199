"""Constraints of the CP-SAT model: how long each stage lasts.

Knows who waits for whom, as the layer graph has it: every consumer of an exchange waits for all producers. A stage
lasts as long as its slowest device's pulls, compute and pushes. What exchanges cost is `exchanges`' to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from .bounds import Gather, least_after_gather, least_of_any_set, least_ticks
from .exchanges import Exchange, Exchanges
from .stage_costs import Costs, StageCosts
from .variables import BlockVariables, Expression, Share, Shares, Variant

COMPUTE, PUSH, LAST_PUSH = 0, 2, 4  # components of `Costs`; prefill's follow decode's


@dataclass(frozen=True)
class Stage:
    """Shares of a stage under one strategy, the components of its pushes by phase, literals by device of it alone
    consuming what is pushed.
    """

    shares: Shares
    pushes: tuple[int, int]
    sole_consumers: list[Expression]

    def components(self, phase: int) -> tuple[int, int]:
        return COMPUTE + phase, self.pushes[phase]


@dataclass
class StageTimes:
    """Adds a duration per stage and phase, in ticks of the objective: each as often as a layer's stages are run."""

    cp: Any
    costs: StageCosts
    exchanges: Exchanges
    tick_s: float

    @property
    def devices(self) -> range:
        return range(len(self.costs.pricer.profile.devices))

    def embedding(self, embed: BlockVariables, first: BlockVariables) -> Expression:
        """Ticks from the token ids to the pushed hidden states, both phases."""
        total = 0
        shares = embed.variants[0].inputs
        fixed = [
            [self._ticks(self.costs.embedding(d, alone)) for alone in (False, True)]
            for d in range(len(shares.by_device))
        ]
        skips = [self._both(s.used, first.sole(d)) for d, s in enumerate(shares.by_device)]
        for phase in (0, 1):
            time = self._duration()
            for (shared, alone), share, skip in zip(fixed, shares.by_device, skips):
                some, push = share.used - share.whole, PUSH + phase
                busy = (shared[phase] + shared[push]) * some + (alone[phase] + alone[push]) * share.whole
                self.cp.add(time >= busy - max(shared[push], alone[push]) * skip)
                self.cp.add(time >= shared[phase] * some + alone[phase] * share.whole)
            total += time
        return total

    def block(self, before: Any, here: Any, after: Any, blocks: dict[Any, BlockVariables]) -> Expression:
        """Ticks of one block between two neighbours: one stage under row, two under column."""
        block, following, last = blocks[here], blocks[after], after[0] == "head"
        exchange = self.exchanges.after(blocks[before], False)
        firsts, seconds = [self._duration(), self._duration()], [self._duration(), self._duration()]
        pushes = PUSH, LAST_PUSH if last else PUSH + 1
        followers = [following.sole(d) for d in self.devices]
        stages = []
        for v in block.variants:
            if v.outputs is None:
                stages.append(Stage(v.inputs, pushes, followers))
                continue
            writers = [out.whole for out in v.outputs.by_device]
            stages.append(Stage(v.inputs, (PUSH, PUSH + 1), writers))
            gather, second = self.exchanges.inputs(here[0], v), Stage(v.outputs, pushes, followers)
            for phase, time in enumerate(seconds):
                self._second_stage(time, v, here, gather, following, phase, pushes[phase])
            self._bound(seconds, [second], gather)
        for phase, time in enumerate(firsts):
            for d in self.devices:
                ways = [self._first_ways(v, here[0], following, phase, pushes[phase], d) for v in block.variants]
                pulls = self._pulls(exchange, d, phase, block.sole(d))
                self._at_least(time, [sum(each) for each in zip(*ways)], pulls, block.used(d))
        self._bound(firsts, stages, exchange)
        return sum(firsts) + sum(seconds)

    def head(self, before: BlockVariables, head: BlockVariables) -> Expression:
        exchange, times = self.exchanges.after(before, True), [self._duration(), self._duration()]
        shares = head.variants[0].inputs
        for phase, time in enumerate(times):
            for d, share in enumerate(shares.by_device):
                self._at_least(time, [share.cost(phase)], self._pulls(exchange, d, phase, head.sole(d)), share.used)
        self._bound(times, [Stage(shares, (PUSH, PUSH + 1), [0] * len(self.devices))], exchange)
        return sum(times)

    def overhead(self, used: list[Expression], passes: int) -> Expression:
        """Ticks of the largest fixed cost of a pass among devices in use, for all passes."""
        time = self._duration()
        for device, literal in zip(self.costs.pricer.profile.devices, used):
            self.cp.add(time >= ceil(passes * device.step_overhead_s / self.tick_s) * literal)
        return time

    def _first_ways(
        self, v: Variant, name: Any, after: BlockVariables, phase: int, push: int, d: int
    ) -> tuple[Expression, Expression]:
        """How long device `d` is busy at least, without and with its push: up to the partial sums under row, up to the
        inputs of the output projection under column; nothing where the block has the other strategy.
        """
        share = v.inputs.by_device[d]
        if v.outputs is not None:
            compute = share.cost(phase)
            return compute, compute + self._pushed(share, PUSH + phase, v.outputs.by_device[d].whole)
        shared, alone = (self._ticks(self.costs.residual(name, d, alone))[phase] for alone in (False, True))
        earlier = sum(other.used for other in v.inputs.by_device[:d])
        first = self.cp.new_bool_var("")
        self.cp.add(first >= share.used - share.whole - earlier)
        compute = share.cost(phase) + shared * first + alone * share.whole
        return compute, compute + self._pushed(share, push, after.sole(d))

    def _second_stage(
        self, time: Any, v: Variant, here: Any, gather: Exchange, after: BlockVariables, phase: int, push: int
    ) -> None:
        """Inputs gathered by the writers, then their slices; one member alone does both in place."""
        assert v.outputs is not None
        name, layer = here
        for d, (share, out) in enumerate(zip(v.inputs.by_device, v.outputs.by_device)):
            ways = [out.cost(phase), out.cost(phase) + self._pushed(out, push, after.sole(d))]
            self._at_least(time, ways, self._pulls(gather, d, phase, 0), out.used)
            alone = self._ticks(self.costs.outputs(layer, name, d, self.costs.hidden.count, True))
            skip = self._both(share.whole, after.sole(d))
            self.cp.add(time >= (alone[phase] + alone[push]) * share.whole - alone[push] * skip)

    def _bound(self, times: list[Any], stages: list[Stage], exchange: Exchange) -> None:
        """What each device set needs at least, in decode and in prefill.

        Implied by the other constraints, but far from implied by their linear relaxation; `stages` are all strategies'
        together, or half of each would do. A push may fall away where one device consumes all, a pull where one device
        holds all.
        """
        if not stages[0].shares.sets:
            for phase, time in enumerate(times):
                each = [least_of_any_set(s.shares, (COMPUTE + phase,)) for s in stages]
                self.cp.add(time >= sum(bound * s.shares.present for bound, s in zip(each, stages)))
            return
        for phase, time in enumerate(times):
            skipped = sum(
                share.largest(stage.pushes[phase]) * sole
                for stage in stages
                for share, sole in zip(stage.shares.by_device, stage.sole_consumers)
            )
            present, single = (sum(getattr(s.shares, name) for s in stages) for name in ("present", "single"))
            pulled, most = self._least_pull(exchange, phase)
            least = self._by_set(stages, [least_ticks(s.shares, s.components(phase)) for s in stages])
            self.cp.add(time >= least + pulled - most * (1 - present + single) - skipped)
            self.cp.add(time >= least - skipped)
            for literal, bounds in self._joint_bounds(stages, exchange, phase):
                joint = self._by_set(stages, bounds)
                self.cp.add(time >= joint - max(map(max, bounds)) * (1 - literal) - skipped)

    def _by_set(self, stages: list[Stage], bounds: list[list[int]]) -> Expression:
        return sum(
            bound * literal
            for stage, each in zip(stages, bounds)
            for bound, (_, literal) in zip(each, stage.shares.sets)
        )

    def _joint_bounds(
        self, stages: list[Stage], exchange: Exchange, phase: int
    ) -> Iterator[tuple[Expression, list[list[int]]]]:
        """Bounds by set that hold where a literal does: pulls and compute of a device together."""
        for literal, full, saved, units in exchange.gathers:
            ticks = [int(c[phase] / self.tick_s) for c in full]
            gather = Gather(ticks, [c[phase] / self.tick_s for c in saved], units)
            yield literal, [least_after_gather(s.shares, s.components(phase), gather) for s in stages]

    def _pushed(self, share: Share, push: int, sole_consumer: Expression) -> Expression:
        """Push ticks of a share; nothing where its device is the only consumer."""
        most = share.largest(push)
        return share.cost(push) - (most * self._both(share.used, sole_consumer) if most else 0)

    def _pulls(self, exchange: Exchange, d: int, phase: int, sole_consumer: Expression) -> tuple[Expression, int]:
        """Pull ticks of device `d`, nothing where one device is both the producer and the consumer; and the most."""
        ticks = [(literal, self._ticks(costs[d])[phase]) for literal, costs in exchange.pulls]
        pulled, most = self._sum(exchange, (d, phase), ticks)
        local = self._both(exchange.sole_producer[d], sole_consumer)
        own = sum(int(each[d][phase] / self.tick_s) * units[d] for units, each in exchange.own)
        return pulled - most * local - own, most

    def _least_pull(self, exchange: Exchange, phase: int) -> tuple[Any, int]:
        """What the cheapest consumer pays, and the most that can be."""
        ticks = [(literal, min(self._ticks(c)[phase] for c in costs)) for literal, costs in exchange.least]
        return self._sum(exchange, (-1, phase), ticks)

    def _sum(self, exchange: Exchange, key: tuple[int, int], ticks: list[tuple[Expression, int]]) -> tuple[Any, int]:
        """The ticks of whichever literal holds, in one variable for all constraints that need it; and the most."""
        most = max(t for _, t in ticks)
        if key not in exchange.pulled:
            exchange.pulled[key] = self.cp.new_int_var(0, most, "")
            self.cp.add(exchange.pulled[key] == sum(t * literal for literal, t in ticks))
        return exchange.pulled[key], most

    def _at_least(self, time: Any, ways: list[Expression], pulls: tuple[Expression, int], used: Expression) -> None:
        """A duration covers each way of being busy, and the pulls before it where the device takes part.

        A device that does not is not busy; the most that it could pull is subtracted then, which keeps the linear
        relaxation tight where an enforced constraint would have none. Pulls are never negative, but what is left of
        them is, where a device alone produced and consumes.
        """
        pulled, most = pulls
        for busy in ways:
            self.cp.add(time >= busy + pulled - most * (1 - used))
            self.cp.add(time >= busy)

    def _both(self, one: Expression, other: Expression) -> Expression:
        """A literal that may be 1 only where both are; it always makes a plan cheaper, so it will be."""
        if isinstance(one, int) or isinstance(other, int):
            return 0
        both = self.cp.new_bool_var("")
        self.cp.add(both <= one)
        self.cp.add(both <= other)
        return both

    def _duration(self) -> Any:
        return self.cp.new_int_var(0, 10**11, "")

    def _ticks(self, costs: Costs) -> tuple[int, ...]:
        return tuple(ceil(c / self.tick_s) for c in costs)
