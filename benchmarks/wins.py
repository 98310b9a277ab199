"""Which freedom of a plan pays: each one that it uses is taken away, and the best split without it is looked for.

Knows what counts as using a freedom, and how to search without it. A win is more than `TIE` of the objective.
Where the request can forbid a freedom, the split without it is solved for too; otherwise it is the end of exact
descents from splits by rule and heuristic, and from a mixture of them where memory is short: perhaps not the best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import msgspec

from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.baselines import baseline_splits
from tpplan.planner.choice import is_mixed
from tpplan.planner.descent import Descent
from tpplan.planner.errors import Infeasible, Undecided
from tpplan.planner.heuristic import Balancer
from tpplan.planner.memory import device_caps
from tpplan.planner.mixtures import Mixer
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.neighbours import Neighbourhood
from tpplan.planner.plan import BlockPlan, LayerPlan, Plan, Range, Split, distinct_layers, members
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.solve import solve
from tpplan.planner.sums import SumWays
from tpplan.planner.wishes import completed, pricer_of

TIE = 0.005
PARTS, LONE = "sums in parts", "sums on the CPU"
DESCENT_S = 5.0
FORBIDDEN = {  # what a request says to do without
    "column": {"attention_strategy": "row", "mlp_strategy": "row"},
    "row": {"attention_strategy": "column", "mlp_strategy": "column"},
    "shared KV heads": {"replicate_kv": False},
}


@dataclass(frozen=True)
class Case:
    """A model, a machine and a request with all number formats."""

    model: ModelSpec
    profile: HardwareProfile
    request: Request

    @classmethod
    def of(cls, model: ModelSpec, profile: HardwareProfile, request: Request) -> Case:
        return cls(model, profile, completed(request, model, profile))

    @property
    def pricer(self) -> Pricer:
        return pricer_of(self.request, self.model, self.profile)

    @property
    def caps(self) -> tuple[int, ...]:
        return device_caps(self.profile, self.request.caps)


Uses = Callable[[Split, Case], bool]


def _shared(split: Split) -> list[BlockPlan]:
    """Attention and MLP blocks of several devices."""
    blocks = (block for layer in distinct_layers(split) for block in (layer.attention, layer.mlp))
    return [block for block in blocks if len(members(block.units)) > 1]


def _sums(split: Split) -> list[tuple[Range, ...]]:
    return [sums for block in _shared(split) for sums in (block.decode_sums, block.prefill_sums) if sums]


def _in_layers(split: Split) -> set[int]:
    layers = distinct_layers(split)
    return {d for layer in layers for block in (layer.attention, layer.mlp) for d in members(block.units)}


def _replicates(split: Split, case: Case) -> bool:
    return any(begin % case.model.group for layer in distinct_layers(split) for begin, _ in layer.attention.units)


USES: dict[str, Uses] = {
    "column": lambda split, _: any(block.strategy == "column" for block in _shared(split)),
    "row": lambda split, _: any(block.strategy == "row" for block in _shared(split)),
    "shared KV heads": _replicates,
    "other devices for MLP than attention": lambda split, _: any(
        members(layer.attention.units) != members(layer.mlp.units) for layer in distinct_layers(split)
    ),
    "other devices for the head than layers": lambda split, _: set(members(split.head)) != _in_layers(split),
    "a device left out of all layers": lambda split, case: len(_in_layers(split)) < len(case.profile.devices),
    PARTS: lambda split, _: any(len(members(sums)) > 1 for sums in _sums(split)),
    LONE: lambda split, _: any(len(members(sums)) == 1 for sums in _sums(split)),
    "layers cut in several ways": lambda split, case: is_mixed(case.pricer, split),
}


@dataclass(frozen=True)
class FewerWays(SumWays):
    """Ways of summing without those in parts, or without those on one device. `lone`: which of the two are kept."""

    lone: bool = True

    def ways(self, producers: tuple[int, ...]) -> Iterator[tuple[Range, ...]]:
        return (sums for sums in super().ways(producers) if (len(members(sums)) == 1) == self.lone)


@dataclass(frozen=True)
class Without(Neighbourhood):
    """Splits that do not use a freedom."""

    name: str
    uses: Callable[[Split], bool]

    @cached_property
    def ways(self) -> SumWays:
        if self.name in (PARTS, LONE):
            return FewerWays(self.pricer, lone=self.name == PARTS)
        return SumWays(self.pricer)

    def allows(self, split: Split) -> bool:
        return not self.uses(split) and super().allows(split)


def wins(plan: Plan, case: Case) -> dict[str, float | None]:
    """Freedoms that the plan uses, with how much slower the best found without is; None where none was found."""
    used = [name for name, uses in USES.items() if uses(plan.split, case)]
    return {name: _slower(plan, case, name) for name in used}


def _slower(plan: Plan, case: Case, name: str) -> float | None:
    found = [_solved_s(case, FORBIDDEN[name])] if name in FORBIDDEN else []
    found.append(_descended_s(plan.split, case, name))
    best_s = min((seconds for seconds in found if seconds is not None), default=None)
    return None if best_s is None else best_s / plan.objective_s - 1


def _solved_s(case: Case, changes: dict[str, object]) -> float | None:
    """The objective of the best plan of a changed request; None where nothing fits or nobody knows."""
    try:
        plan = solve(case.model, "without", case.profile, msgspec.structs.replace(case.request, **changes))
    except (Infeasible, Undecided):
        return None
    return plan.objective_s


def _descended_s(split: Split, case: Case, name: str) -> float | None:
    """The objective of the best split that exact descents find without a freedom; None where no start does without."""
    pricer, caps = case.pricer, case.caps
    near = Without(pricer, case.request, caps, name, lambda other: USES[name](other, case))
    starts = [other for other in dict.fromkeys(_starts(split, pricer, caps)) if near.allows(other)]
    if not starts:
        return None
    descent = Descent(near, time.perf_counter() + DESCENT_S)
    best = descent.fastest([descent.polished(start) for start in sorted(starts, key=descent.price_s)[:2]])
    mixed = [other for other in Mixer(pricer, caps, best).splits() if near.allows(other)]
    ends = [best, *(descent.polished(other) for other in ([descent.fastest(mixed)] if mixed else []))]
    return min(map(descent.price_s, ends))


def _starts(split: Split, pricer: Pricer, caps: tuple[int, ...]) -> Iterator[Split]:
    """The plan with one thing undone, splits by heuristic over every device set of its blocks, and all baselines."""
    yield _changed(split, lambda block: BlockPlan(block.strategy, block.units, block.outputs))
    yield _changed(split, lambda block: BlockPlan("row", block.units))
    yield _changed(split, lambda block: _without_lone_sums(block))
    balancer = Balancer(pricer, caps, replicate_kv=True)
    sets = {members(block.units) for block in _shared(split)} | {members(split.head), tuple(sorted(_in_layers(split)))}
    for held in sorted(sets):
        if (balanced := balancer.split(held)) is not None:
            yield balanced
    yield from balancer.splits()
    for splits in baseline_splits(pricer, caps).values():
        yield from splits


def _without_lone_sums(block: BlockPlan) -> BlockPlan:
    sums = (s if len(members(s)) > 1 else () for s in (block.decode_sums, block.prefill_sums))
    return BlockPlan(block.strategy, block.units, block.outputs, *sums)


def _changed(split: Split, change: Callable[[BlockPlan], BlockPlan]) -> Split:
    """Every block of every layer changed."""
    layers = {layer: LayerPlan(change(layer.attention), change(layer.mlp)) for layer in distinct_layers(split)}
    return msgspec.structs.replace(split, layers=tuple(layers[layer] for layer in split.layers))
