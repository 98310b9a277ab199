"""Runs CP-SAT on the model of all splits: the fastest, then among equals the one with fewest devices and exchanges.

Knows the order of searches and their statuses. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .guarded_solver import Answer, solve_model
from .plan import Split
from .price import Pricer
from .request import Request
from .split_model import OBJECTIVE_TICKS, SplitModel

SOLVED = ("OPTIMAL", "FEASIBLE")
NEAR_ENOUGH = 0.005
CLOSE_ENOUGH = 0.001  # the gap to settle for once an exact proof has taken EXACT_S
EXACT_S, SECOND_S = 3.0, 2.0


@dataclass(frozen=True)
class Found:
    """The solver's answer: `splits` in order of preference; `bound_s` holds for every split of the space."""

    splits: list[Split]
    proven: bool
    bound_s: float
    error: float


def new_model(pricer: Pricer, request: Request, caps: tuple[int, ...], tick_s: float, timed: bool = True) -> SplitModel:
    """The CP-SAT model, built; imports OR-Tools."""
    from ortools.sat.python import cp_model

    model = SplitModel(pricer, request, caps, tick_s, cp_model.CpModel(), timed)
    model.build()
    return model


def fastest_split(
    pricer: Pricer, request: Request, caps: tuple[int, ...], start: Split, start_s: float
) -> Found | None:
    """The fastest split within the limits, hinted by `start`; None where the solver found none in time."""
    deadline = time.perf_counter() + request.time_limit_s
    model = new_model(pricer, request, caps, start_s / OBJECTIVE_TICKS)
    model.hint(start)
    model.cp.minimize(model.objective)
    answer = solve_model(model.cp, min(deadline, time.perf_counter() + EXACT_S))
    if answer.status != "OPTIMAL" and time.perf_counter() < deadline:
        if answer.status == "FEASIBLE":
            _hint_solution(model.cp, answer)
        answer = solve_model(model.cp, deadline, CLOSE_ENOUGH)
    if answer.status not in SOLVED:
        return None
    best, bound = answer.objective_value, answer.best_objective_bound
    proven = best - bound <= CLOSE_ENOUGH * best
    splits = [model.split_of(answer.value)]
    if proven:
        splits = _simpler(model, answer, round(best), deadline) + splits
    return Found(splits, proven, max(bound, 0) * model.tick_s / (1 + model.error), model.error)


def _simpler(model: SplitModel, answer: Answer, best: int, deadline: float) -> list[Split]:
    """Within 0.5 % of the best: fewer devices, then fewer exchanges; of equals the least memory, early devices."""
    effort = _effort(model)
    now = answer.value(effort)
    _hint_solution(model.cp, answer)
    model.cp.add(model.objective <= best + int(best * NEAR_ENOUGH))
    model.cp.minimize(effort)
    simpler = solve_model(model.cp, _second(deadline))
    if simpler.status in SOLVED and simpler.value(effort) < now:
        model.cp.add(effort <= simpler.value(effort))
        _hint_solution(model.cp, simpler)
        model.cp.minimize(model.objective)
        again = solve_model(model.cp, _second(deadline))
        if again.status in SOLVED:
            answer, best = again, round(again.objective_value)
    model.cp.add(effort <= answer.value(effort))
    model.cp.add(model.objective <= best)
    _hint_solution(model.cp, answer)
    model.cp.minimize(_canonical(model))
    last = solve_model(model.cp, _second(deadline))
    return [model.split_of((last if last.status in SOLVED else answer).value)]


def _second(deadline: float) -> float:
    """The deadline of a refinement."""
    return min(deadline, time.perf_counter() + SECOND_S)


def _effort(model: SplitModel) -> Any:
    return sum(model.devices_used) * 10**6 + model.collectives()


def _canonical(model: SplitModel) -> Any:
    """Peak memory in MiB first, then units on early devices."""
    peak = model.cp.new_int_var(0, 2**25, "peak")
    for needed in model.bytes_used:
        model.cp.add(2**20 * peak >= needed)
    order = 0
    for weight, block in enumerate(model.blocks.values(), 1):
        for v in block.variants:
            for shares in (v.inputs, v.outputs) if v.outputs else (v.inputs,):
                order += sum(weight * d * share.units for d, share in enumerate(shares.by_device))
    return peak * 2**12 + order


def _hint_solution(cp: Any, answer: Answer) -> None:
    cp.clear_hints()
    for i in range(len(cp.proto.variables)):
        variable = cp.get_int_var_from_proto_index(i)
        cp.add_hint(variable, answer.value(variable))
