"""The linear program of one choice of sets: shares of both halves of a layer, and how long its stages last.

What it leaves open is how units round and how costs bend; its least is below all splits over these sets.
"""

from __future__ import annotations

from itertools import product
from math import inf
from typing import Any

from .plan import Strategy
from .set_halves import Half, Halves, members_of
from .set_heads import HeadTimes
from .set_memory import SetMemory
from .set_shares import Figures
from .set_tables import SetTables
from .steps import Block

SAFE = 1e-6  # relative; a linear program is solved in floating point
BLOCKS: tuple[Block, Block] = ("attention", "mlp")
OTHER: dict[Block, Block] = {"attention": "mlp", "mlp": "attention"}


class SetProgram:
    """`least_s`: seconds of `times` layers over given sets, both phases, each between its like, and of a head that
    takes at least `head_s`.
    """

    def __init__(
        self,
        tables: SetTables,
        halves: Halves,
        heads: HeadTimes,
        memory: SetMemory,
        times: int,
        head_s: float,
    ) -> None:
        from ortools.linear_solver import pywraplp

        self.tables, self.halves, self.heads, self.memory = tables, halves, heads, memory
        self.times, self.head_s = times, head_s
        self.sets, self.sources = tables.bounds.sources.sets, tables.bounds.sources
        self.lp: Any = pywraplp.Solver.CreateSolver("GLOP")
        self.units: dict[tuple[Block, int], Any] = {}
        self.wrote: dict[tuple[Block, int], Any] = {}
        for block in BLOCKS:
            half = halves.of(block)
            self._share(self.units, block, half.members, self._first(block))
            if half.writers >= 0:
                self._share(self.wrote, block, half.writers, tables.figures[block, "outputs"])
        for block, phase in product(BLOCKS, (0, 1)):
            self._add_first(block, phase)
            if halves.of(block).writers >= 0:
                self._add_second(block, phase)
        if memory.tight:
            self._limit_memory()

    def least_s(self) -> float:
        """Nothing where the program was not solved; infinite where memory is too small."""
        self.lp.Objective().SetMinimization()
        status = self.lp.Solve()
        if status == self.lp.INFEASIBLE:
            return inf
        if status != self.lp.OPTIMAL:
            return 0.0
        total_s = self.lp.Objective().Value() + (0.0 if self.memory.tight else self.head_s)
        return max(0.0, float(total_s) * (1 - SAFE))

    def shares(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """By block and device the units that `least_s` found, and hidden columns of blocks split by column."""
        return self._found(self.units), self._found(self.wrote)

    def _found(self, variables: dict[tuple[Block, int], Any]) -> dict[str, list[float]]:
        devices = range(len(self.sets.of))
        return {
            block: [max(0.0, variables[block, d].solution_value()) if (block, d) in variables else 0.0 for d in devices]
            for block in dict.fromkeys(block for block, _ in variables)
        }

    def _first(self, block: Block) -> Figures:
        return self.tables.figures[block, "row" if self.halves.of(block).writers < 0 else "column"]

    def _share(self, found: dict[tuple[Block, int], Any], block: Block, members: int, figures: Figures) -> None:
        held = self.sets.sets[members]
        low = figures.dimension.least if len(held) < figures.dimension.count else 0.0
        total = self.lp.Constraint(figures.units, figures.units)
        for d in held:
            found[block, d] = self.lp.NumVar(min(low, figures.units), figures.units, "")
            total.SetCoefficient(found[block, d], 1.0)

    def _limit_memory(self) -> None:
        """Bytes in shares of each cap. Tables may be anywhere, but the head takes time where it is.

        Equal devices count together: which of them a half is on was chosen for cheap exchanges, not for memory.
        """
        memory, vocabulary = self.memory, self.tables.bounds.shares.costs.vocabulary.total
        heads, others = (self.lp.Constraint(vocabulary, vocabulary) for _ in range(2))
        used = members_of(self.sets.sets, self.halves)
        stages = [self._head_stage() for _ in (0, 1)]
        self._sum_at_least(stages, self.head_s)
        rows: dict[int, Any] = {}
        for d, like in enumerate(self.sets.of):
            cap, fixed = max(memory.caps[d], 1), memory.member_bytes(len(used) > 1) if d in used else 0
            if like == d:
                rows[d] = self.lp.Constraint(-self.lp.infinity(), 0.0)
            row = rows[like]
            row.SetUb(row.Ub() + 1 + SAFE - fixed / cap)
            head, other = (self.lp.NumVar(0.0, vocabulary, "") for _ in range(2))
            heads.SetCoefficient(head, 1.0)
            others.SetCoefficient(other, 1.0)
            row.SetCoefficient(head, memory.table_bytes / cap)
            row.SetCoefficient(other, memory.table_bytes * (memory.tables - 1) / cap)
            for phase, stage in enumerate(stages):
                self._at_least(stage, 0.0, (head, memory.head_token_s(d, phase)))
            self._add_bytes(row, d, cap)

    def _add_bytes(self, row: Any, d: int, cap: int) -> None:
        """What shares of a layer take, in parts of `cap`."""
        for block in BLOCKS:
            if (block, d) in self.units:
                each = self.memory.unit_bytes(block, self.halves.of(block).writers < 0)
                row.SetCoefficient(self.units[block, d], each / cap)
            if (block, d) in self.wrote:
                row.SetCoefficient(self.wrote[block, d], self.memory.column_bytes(block) / cap)

    def _head_stage(self) -> Any:
        """It comes once, the stages of a layer as often as there are layers after the first."""
        stage = self.lp.NumVar(0.0, self.lp.infinity(), "")
        self.lp.Objective().SetCoefficient(stage, 1.0)
        return stage

    def _sum_at_least(self, stages: list[Any], least_s: float) -> None:
        row = self.lp.Constraint(least_s, self.lp.infinity())
        for stage in stages:
            row.SetCoefficient(stage, 1.0)

    def _stage(self) -> Any:
        stage = self.lp.NumVar(0.0, self.lp.infinity(), "")
        self.lp.Objective().SetCoefficient(stage, float(self.times))
        return stage

    def _at_least(self, stage: Any, base_s: float, *terms: tuple[Any, float]) -> None:
        row = self.lp.Constraint(base_s, self.lp.infinity())
        row.SetCoefficient(stage, 1.0)
        for variable, each_s in terms:
            row.SetCoefficient(variable, -each_s)

    def _add_first(self, block: Block, phase: int) -> None:
        """Members pull what the other half produced, do their shares, and push: sums, or their part of a gather."""
        half, figures, stage = self.halves.of(block), self._first(block), self._stage()
        held, row_bytes = self.sets.sets[half.members], self.sources.row_bytes[phase]
        consumers = self.sets.sets[self.halves.other(block).members if half.writers < 0 else half.writers]
        ordered: list[tuple[int, float, float, bool]] = []
        for d in held:
            pushed = self._pushes(d, consumers, half, phase)
            extra = self.tables.bounds.push_extra_s[half.members, d] * row_bytes if pushed else 0.0
            if consumers != (d,) and len(consumers) == 1 and consumers[0] in held:
                extra = 0.0  # one mover less than the set has
            base, own = self._pulled(block, d, phase)
            if len(held) == 1:
                whole = (figures.alone_pushed if pushed else figures.alone)[d, phase]
                push = extra * (figures.fixed_push + figures.unit_push * figures.units)
                self._at_least(stage, base + whole + push, *own)
                continue
            base += extra * figures.fixed_push + (figures.residual[d, phase] if d == held[0] else 0.0)
            lines = (figures.pushed if pushed else figures.bare)[d]
            for slope, least in set(zip(lines.slopes[:, phase], lines.bases[:, phase])):
                self._at_least(stage, base + least, (self.units[block, d], slope + extra * figures.unit_push), *own)
            if not own:
                ordered.append((d, base, extra * figures.unit_push, pushed))
        if block == "attention" and self.heads.costs.replicate_kv and half.settled and 1 < len(held) == len(ordered):
            strategy: Strategy = "row" if half.writers < 0 else "column"
            stage.SetLb(self.heads.least_s(figures, strategy, phase, self._unnamed(ordered)) * (1 - SAFE))

    def _unnamed(self, ordered: list[tuple[int, float, float, bool]]) -> list[tuple[int, float, float, bool]]:
        """Equal devices as the cheapest of them: where in their order the others' sets begin is not known."""
        of, found = self.sets.of, []
        for d, _, _, _ in ordered:
            equals = [each for each in ordered if of[each[0]] == of[d]]
            base_s, head_s = (min(each[i] for each in equals) for i in (1, 2))
            found.append((d, base_s, head_s, all(each[3] for each in equals)))
        return found

    def _pushes(self, d: int, consumers: tuple[int, ...], half: Half, phase: int) -> bool:
        """Whether a device must push, by whichever way its sums may go."""
        plain = consumers != (d,)
        if half.writers >= 0 or len(self.sets.sets[half.members]) == 1:
            return plain
        return all(self.sources.reducers[way] != d if way else plain for way in half.ways[phase])

    def _pulled(self, block: Block, d: int, phase: int) -> tuple[float, list[tuple[Any, float]]]:
        """Seconds at least until device `d` has the other half's output, and less for what it wrote itself."""
        half, other = self.halves.of(block), self.halves.other(block)
        members, p = self.sets.sets[half.members], other.producers
        if len(members) == 1 and members == self.sets.sets[p]:
            return 0.0, []
        extra = self._pull_extra_s(half.members, p, d) * self.sources.row_bytes[phase]
        if other.writers >= 0:
            way = self.tables.hidden
            base = way.pull_s[p, d, phase] + extra * way.moved[p, d]
            saved = way.saved_s[p, d, phase]
            each = (saved + extra) * self.tables.figures[OTHER[block], "outputs"].dimension.unit
            return base, [(self.wrote[OTHER[block], d], -each)] if saved > 0 else []
        ways = [self.sources.row_ways[w] for w in other.ways[phase]]
        sole = len(members) == 1
        return min(
            (way.sole_s if sole else way.middle_s)[p, phase] + way.pull_s[p, d, phase] + extra * way.moved[p, d]
            for way in ways
        ), []

    def _pull_extra_s(self, members: int, producers: int, d: int) -> float:
        sets, bounds = self.sets.sets, self.tables.bounds
        spared = len(sets[producers]) == 1 and sets[producers][0] in sets[members]
        return float((bounds.spared_extra_s if spared else bounds.pull_extra_s)[members, d])

    def _add_second(self, block: Block, phase: int) -> None:
        """Writers gather the inputs of the output projection, write their columns, and push."""
        half, figures, stage = self.halves.of(block), self.tables.figures[block, "outputs"], self._stage()
        gather, row_bytes = self.tables.gathers[block], self.sources.row_bytes[phase]
        consumers = self.sets.sets[self.halves.other(block).members]
        width, inputs = self.tables.bounds.shares.costs.inputs(block), self._first(block)
        writers = self.sets.sets[half.writers]
        for d in writers:
            pushed = consumers != (d,)
            spared = len(consumers) == 1 and consumers[0] in writers
            push = self.tables.bounds.push_extra_s[half.writers, d] * row_bytes if pushed and not spared else 0.0
            pull = self.tables.bounds.pull_extra_s[half.writers, d] * row_bytes
            saved = gather.saved_s[half.members, d, phase]
            own = (saved + pull if saved > 0 else 0.0) * width / inputs.units
            base = gather.pull_s[half.members, d, phase] + pull * width
            lines = (figures.pushed if pushed else figures.bare)[d]
            for slope, least in set(zip(lines.slopes[:, phase], lines.bases[:, phase])):
                terms = (self.wrote[block, d], slope + push * figures.unit_push), (self.units[block, d], -own)
                self._at_least(stage, base + least, *terms)
