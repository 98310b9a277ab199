"""Constraints of the CP-SAT model: how long each stage lasts.

Knows who waits for whom, as the layer graph has it: every consumer of an exchange waits for all producers. A stage
lasts as long as its slowest device's pulls, compute and pushes. What exchanges cost is `exchanges`' to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from .bounds import least_ticks
from .exchanges import Exchange, Exchanges
from .stage_costs import Costs, StageCosts
from .variables import BlockVariables, Expression, Share, Shares, Variant

COMPUTE, PUSH, LAST_PUSH = 0, 2, 4  # components of `Costs`; prefill's follow decode's


@dataclass
class StageTimes:
    """Adds a duration per stage and phase; `weights`: what a decode pass and a prefill count in the objective."""

    cp: Any
    costs: StageCosts
    exchanges: Exchanges
    tick_s: float
    weights: tuple[int, int]

    def embedding(self, embed: BlockVariables, first: BlockVariables) -> Expression:
        """Ticks from the token ids to the pushed hidden states, both phases weighted."""
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
            total += self.weights[phase] * time
        return total

    def block(self, before: Any, here: Any, after: Any, blocks: dict[Any, BlockVariables]) -> Expression:
        """Ticks of one block between two neighbours: one stage under row, two under column."""
        block, last = blocks[here], after[0] == "head"
        exchange = self.exchanges.after(blocks[before], False)
        firsts, seconds = [self._duration(), self._duration()], [self._duration(), self._duration()]
        pushes = PUSH, LAST_PUSH if last else PUSH + 1
        for v in block.variants:
            for phase, (first, second, push) in enumerate(zip(firsts, seconds, pushes)):
                if v.outputs is None:
                    self._row_stage(first, v, here[0], exchange, blocks[after], phase, push)
                else:
                    self._column_stages((first, second), v, here, exchange, blocks[after], phase, push)
            followers = sum(blocks[after].sole(d) for d in range(len(v.inputs.by_device)))
            if v.outputs is None:
                self._bound(firsts, v.inputs, exchange, followers, pushes)
            else:
                gather = self.exchanges.inputs(here[0], v)
                self._bound(firsts, v.inputs, exchange, v.outputs.single, (PUSH, PUSH + 1))
                self._bound(seconds, v.outputs, gather, followers, pushes)
        return sum(w * (first + second) for w, first, second in zip(self.weights, firsts, seconds))

    def head(self, before: BlockVariables, head: BlockVariables) -> Expression:
        exchange, times = self.exchanges.after(before, True), [self._duration(), self._duration()]
        shares = head.variants[0].inputs
        for phase, time in enumerate(times):
            for d, share in enumerate(shares.by_device):
                self._at_least(time, [share.cost(phase)], self._pulls(exchange, d, phase, head.sole(d)), share.used)
        self._bound(times, shares, exchange, 0, (PUSH, PUSH + 1))
        return sum(w * time for w, time in zip(self.weights, times))

    def overhead(self, used: list[Expression]) -> Expression:
        """Ticks of the largest fixed cost of a pass among devices in use."""
        time = self._duration()
        for device, literal in zip(self.costs.pricer.profile.devices, used):
            self.cp.add(time >= ceil(device.step_overhead_s / self.tick_s) * literal)
        return time

    def _row_stage(
        self, time: Any, v: Variant, name: Any, exchange: Exchange, after: BlockVariables, phase: int, push: int
    ) -> None:
        earlier: Expression = 0
        for d, share in enumerate(v.inputs.by_device):
            shared = self._ticks(self.costs.residual(name, d, False))[phase]
            alone = self._ticks(self.costs.residual(name, d, True))[phase]
            first = self.cp.new_bool_var("")
            self.cp.add(first >= share.used - share.whole - earlier)
            earlier += share.used
            compute = share.cost(phase) + shared * first + alone * share.whole
            ways = [compute, compute + self._pushed(share, push, after.sole(d))]
            self._at_least(time, ways, self._pulls(exchange, d, phase, v.inputs.by_device[d].whole), share.used)

    def _column_stages(
        self, times: Any, v: Variant, here: Any, exchange: Exchange, after: BlockVariables, phase: int, push: int
    ) -> None:
        """Inputs gathered by the writers, then their slices by the next block; one member alone does both in place."""
        assert v.outputs is not None
        (name, layer), (first, second) = here, times
        gather = self.exchanges.inputs(name, v)
        for d, (share, out) in enumerate(zip(v.inputs.by_device, v.outputs.by_device)):
            ways = [share.cost(phase), share.cost(phase) + self._pushed(share, PUSH + phase, out.whole)]
            self._at_least(first, ways, self._pulls(exchange, d, phase, share.whole), share.used)
            ways = [out.cost(phase), out.cost(phase) + self._pushed(out, push, after.sole(d))]
            self._at_least(second, ways, self._pulls(gather, d, phase, 0), out.used)
            alone = self._ticks(self.costs.outputs(layer, name, d, self.costs.hidden.count, True))
            skip = self._both(share.whole, after.sole(d))
            self.cp.add(second >= (alone[phase] + alone[push]) * share.whole - alone[push] * skip)

    def _bound(
        self, times: list[Any], shares: Shares, exchange: Exchange, sole_consumer: Expression, pushes: tuple[int, int]
    ) -> None:
        """What each device set needs at least, in decode and in prefill.

        Implied by the other constraints, but far from implied by their linear relaxation. A push may fall away where
        one device consumes all, a pull where one device holds all.
        """
        for phase, time in enumerate(times if shares.sets else ()):
            bounds = least_ticks(shares, (COMPUTE + phase, pushes[phase]))
            least = sum(bound * literal for bound, (_, literal) in zip(bounds, shares.sets))
            push = max(share.largest(pushes[phase]) for share in shares.by_device)
            pulled, most = self._least_pull(exchange, phase)
            self.cp.add(time >= least + pulled - most * (1 - shares.present + shares.single) - push * sole_consumer)
            self.cp.add(time >= least - push * sole_consumer)

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
        relaxation tight where an enforced constraint would have none.
        """
        pulled, most = pulls
        for busy in ways:
            self.cp.add(time >= busy + pulled - most * (1 - used))

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
