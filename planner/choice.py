"""Which split ships: descents from good splits, the solver's answer, mixtures of layers, the simplest among equals.

Knows the order in which candidates are made and compared. Knows neither how each is made nor what a plan says of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, takewhile

from .baselines import proportional_split
from .descent import NEAR_ENOUGH, Descent
from .heuristic import Balancer
from .infeasible import fitting_split, refusal
from .mixtures import Mixer
from .neighbours import Neighbourhood
from .plan import Split
from .price import Pricer
from .proof import Proof
from .request import Request
from .search import CLOSE_ENOUGH, Found
from .stage_costs import StageCosts

FOUND_BY_SOLVER = "the split is the solver's, its shares polished by exact prices"
FOUND_BY_DESCENT = "the split was found by exact descent, and the solver found none that is faster by more than 0.1 %"
FOUND_BY_SETS = "the split was found by exact descent from shares that linear programs found for the best device sets"
FOUND_BY_MIXING = "layers are cut in several ways, since memory is short: no single way found is as fast"


DESCENTS = 2  # from so many starts
WORTH_A_DESCENT = 1.03  # mixtures slower than this times the best other split are not descended from


@dataclass(frozen=True)
class Choice:
    """The split that ships, what found it, and what the solver knows of all others.

    `mixed`: layers that are alike are not cut alike.
    """

    split: Split
    source: str
    found: Found
    mixed: bool


def choose(pricer: Pricer, request: Request, caps: tuple[int, ...], baselines: list[Split], deadline: float) -> Choice:
    """The fastest split that fits, within `NEAR_ENOUGH` the simplest. Infeasible, Undecided where there is none."""
    descent = Descent(Neighbourhood(pricer, request, caps), deadline)
    solver_deadline = deadline - 0.1 * request.time_limit_s
    balancer = Balancer(pricer, caps, request.replicate_kv)
    ready = [*baselines, *_by_hand(pricer, request, caps)]
    balanced = takewhile(lambda _: not descent.over, balancer.splits())
    starts = [split for split in dict.fromkeys(chain(ready, balanced)) if descent.near.allows(split)]
    starts = starts or [_any_split(pricer, request, caps)]

    proof = Proof(pricer, request, caps, solver_deadline)
    starts = list(map(descent.summed, starts))
    by_sets = dict.fromkeys(split for split in proof.splits(starts) if descent.near.allows(split))
    starts += map(descent.summed, by_sets)
    alike = [split for split in starts if not is_mixed(pricer, split)] or [_any_split(pricer, request, caps)]
    first, *others = sorted(alike, key=descent.price_s)[:DESCENTS]
    near = descent.polished(first)
    for split in others:
        if descent.price_s(split) < WORTH_A_DESCENT * descent.price_s(first) and not descent.over:
            near = descent.fastest((near, descent.polished(split)))
    near = descent.finished(near)
    found = proof.found(near)
    options = [(FOUND_BY_DESCENT if not found.sets else FOUND_BY_SETS, near)]
    if found.split is not None and descent.near.allows(found.split):
        options.append((FOUND_BY_SOLVER, descent.polished(found.split)))
    source, best = min(options, key=lambda option: descent.price_s(option[1]))
    if descent.price_s(near) <= descent.price_s(best) * (1 + CLOSE_ENOUGH):
        source, best = options[0]  # the same every time, whatever the solver's threads came upon

    mixed = [split for split in starts if is_mixed(pricer, split)]
    mixed += [split for split in Mixer(pricer, caps, best).splits() if descent.near.allows(split)]
    for split in [descent.fastest(mixed)] if mixed else []:
        close = descent.price_s(split) < WORTH_A_DESCENT * descent.price_s(best)
        worth_it_s = descent.price_s(best) * (1 - NEAR_ENOUGH)
        if close and descent.price_s(other := descent.polished(split)) < worth_it_s:
            source, best = FOUND_BY_MIXING, other
    best = descent.simplest(best if best == near else descent.finished(best), balancer)
    if is_mixed(pricer, best):
        found = proof.found_unlimited(near)
    return Choice(best, source, found, is_mixed(pricer, best))


def is_mixed(pricer: Pricer, split: Split) -> bool:
    """Whether layers of equal window are cut differently."""
    return len(set(zip(pricer.model.windows, split.layers))) > len(set(pricer.model.windows))


def _by_hand(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> list[Split]:
    """Proportional splits that keep what the request fixes."""
    unit = StageCosts(pricer).units("mlp").unit
    columns = request.mlp_split and tuple(-(-share // unit) for share in request.mlp_split)
    attention = request.attention_strategy or "row", request.attention_split
    mlp = request.mlp_strategy or "row", columns
    speeds = [d.read_bytes_per_s for d in pricer.profile.devices]
    return [proportional_split(pricer, weights, attention, mlp) for weights in (speeds, caps)]


def _any_split(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> Split:
    split = fitting_split(pricer, request, caps, request.time_limit_s)
    if split is None:
        raise refusal(pricer, request)
    return split
