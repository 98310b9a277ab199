"""What machines would reach: each is solved, and asked for the largest context that fits.

Knows variants and the time there is for all of them. Knows nothing of where they come from.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence

import msgspec

from .errors import Infeasible, Undecided
from .infeasible import Case
from .model_spec import ModelSpec
from .plan import Plan, devices_used
from .solve import solve
from .variants import Variant
from .wishes import check_request, completed

UNFIT = "does not fit"
NO_TIME = "no time was left: raise --total-limit"
Progress = Callable[[str, float], None]


class Outcome(msgspec.Struct, frozen=True):
    """What one variant reaches; figures are None where there is no plan, and `problem` says why.

    `answer_s`: prefill and all new tokens. `speedup`: the first variant's answer time over this one's.
    `largest_context`: tokens a sequence for which memory suffices, None where that was not found out.
    `devices`: those with a share. `gap`: how much faster a split could be at most, as a part of `answer_s`.
    """

    name: str
    fits: bool
    problem: str = ""
    answer_s: float | None = None
    prefill_s: float | None = None
    decode_tokens_per_s: float | None = None
    speedup: float | None = None
    largest_context: int | None = None
    devices: tuple[str, ...] = ()
    gap: float | None = None


def what_if(model: ModelSpec, asked: Sequence[Variant], total_s: float, progress: Progress) -> list[Outcome]:
    """One outcome a variant, in their order; the first is what the others are compared with."""
    deadline, found = deadline_in(total_s), list[Outcome]()
    for done, variant in enumerate(asked):
        progress(variant.name, done / len(asked))
        found.append(outcome(model, variant, deadline))
    base_s = found[0].answer_s
    return [msgspec.structs.replace(o, speedup=base_s / o.answer_s) if base_s and o.answer_s else o for o in found]


def deadline_in(total_s: float) -> float:
    """On the clock of `time.perf_counter`; ValueError for what is no number."""
    if math.isnan(total_s):
        raise ValueError("the total time limit must be a number of seconds: set --total-limit")
    return time.perf_counter() + total_s


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Fastest answer first, then those that do not fit, those with a problem last; equals keep their order."""
    return sorted(outcomes, key=lambda o: (o.answer_s is None, o.problem not in ("", UNFIT), o.answer_s or 0.0))


def refusal(outcomes: Sequence[Outcome]) -> ValueError | None:
    """What to end with where no variant has a plan; None where one has."""
    if any(o.fits for o in outcomes):
        return None
    unfit = [o for o in outcomes if o.problem == UNFIT]
    if any(o.problem == NO_TIME for o in outcomes):
        return ValueError(f"{'what was answered does not fit, and for the rest ' if unfit else ''}{NO_TIME}")
    if not unfit:
        return ValueError(f"nothing could be planned: {outcomes[0].name}: {outcomes[0].problem}")
    most = max(o.largest_context or 0 for o in unfit)
    fix = f"--context {most}" if most else "more memory, fewer bits (--dtype) or a smaller --batch"
    return Infeasible(f"nothing fits, as it is or changed; try {fix}")


def outcome(model: ModelSpec, variant: Variant, deadline: float, contexts: bool = True) -> Outcome:
    """One variant solved before `deadline` (of `time.perf_counter`), with its largest context unless told otherwise."""
    if variant.problem or time.perf_counter() >= deadline:
        return Outcome(variant.name, False, variant.problem or NO_TIME)
    request = completed(variant.request, model, variant.profile)
    try:
        check_request(request, model, variant.profile)
        case = Case(model, variant.profile, request, deadline)
        return _answered(variant.name, case, largest_context(case) if contexts else None)
    except (ValueError, Undecided) as error:
        late = isinstance(error, Undecided) and time.perf_counter() >= deadline
        return Outcome(variant.name, False, NO_TIME if late else " ".join(str(error).split()))


def _answered(name: str, case: Case, largest: int | None) -> Outcome:
    """Solved in the time that is left, unless it surely does not fit. Undecided where the time was too short."""
    known = largest is not None and case.request.workload.context <= largest
    if not known and case.answer() is False:
        return Outcome(name, False, UNFIT, largest_context=largest)
    left_s = case.deadline - time.perf_counter()
    if left_s <= 0:
        return Outcome(name, False, NO_TIME)
    limited = case.but(time_limit_s=min(case.request.time_limit_s, left_s)).request
    try:
        return _reached(name, solve(case.model, "", case.profile, limited), largest)
    except Infeasible:
        return Outcome(name, False, UNFIT, largest_context=largest)


def largest_context(case: Case) -> int | None:
    """The largest context that memory suffices for, by bisection up to the model's own; 0 where none does.

    None where the time of `case` ran out.
    """
    workload = case.request.workload
    least = workload.prompt_tokens + workload.new_tokens
    contexts = range(least, case.model.context + 1)
    found = bisect_left(contexts, True, key=lambda context: not case.at_work(context=context).fits())
    if time.perf_counter() >= case.deadline:
        return None
    return contexts[found - 1] if found else 0


def _reached(name: str, plan: Plan, largest: int | None) -> Outcome:
    return Outcome(
        name=name,
        fits=True,
        answer_s=plan.objective_s,
        prefill_s=plan.predicted.prefill_s,
        decode_tokens_per_s=plan.predicted.decode_tokens_per_s,
        largest_context=largest,
        devices=tuple(plan.devices[d] for d in sorted(devices_used(plan.split))),
        gap=plan.gap,
    )
