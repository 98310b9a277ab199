"""Runs CP-SAT on the model of all splits: the fastest, then among equals the one with fewest devices and exchanges.

Knows solver settings and statuses. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .plan import Split
from .price import Pricer
from .request import Request
from .split_model import OBJECTIVE_TICKS, SplitModel

SOLVED = ("OPTIMAL", "FEASIBLE")
NEAR_ENOUGH = 0.005
CLOSE_ENOUGH = 0.001  # the gap to settle for once an exact proof has taken EXACT_S
EXACT_S, SECOND_S = 3.0, 2.0
WORKERS, SEED = 4, 0


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
    solver, status = solve_model(model.cp, min(deadline, time.perf_counter() + EXACT_S))
    if status != "OPTIMAL" and time.perf_counter() < deadline:
        if status == "FEASIBLE":
            _hint_solution(model.cp, solver)
        solver, status = solve_model(model.cp, deadline, CLOSE_ENOUGH)
    if status not in SOLVED:
        return None
    best, bound = solver.objective_value, solver.best_objective_bound
    proven = best - bound <= CLOSE_ENOUGH * best
    splits = [model.split_of(solver.value)]
    if proven:
        splits = _simpler(model, solver, round(best), deadline) + splits
    return Found(splits, proven, max(bound, 0) * model.tick_s / (1 + model.error), model.error)


def _simpler(model: SplitModel, solver: Any, best: int, deadline: float) -> list[Split]:
    """Within 0.5 % of the best: fewer devices, then fewer exchanges; of equals the least memory, early devices."""
    effort = _effort(model)
    now = solver.value(effort)
    _hint_solution(model.cp, solver)
    model.cp.add(model.objective <= best + int(best * NEAR_ENOUGH))
    model.cp.minimize(effort)
    simpler, status = solve_model(model.cp, _second(deadline))
    if status in SOLVED and simpler.value(effort) < now:
        model.cp.add(effort <= simpler.value(effort))
        _hint_solution(model.cp, simpler)
        model.cp.minimize(model.objective)
        again, status = solve_model(model.cp, _second(deadline))
        if status in SOLVED:
            solver, best = again, round(again.objective_value)
    model.cp.add(effort <= solver.value(effort))
    model.cp.add(model.objective <= best)
    _hint_solution(model.cp, solver)
    model.cp.minimize(_canonical(model))
    last, status = solve_model(model.cp, _second(deadline))
    return [model.split_of((last if status in SOLVED else solver).value)]


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


def _hint_solution(cp: Any, solver: Any) -> None:
    cp.clear_hints()
    for i in range(len(cp.proto.variables)):
        variable = cp.get_int_var_from_proto_index(i)
        cp.add_hint(variable, solver.value(variable))


def solve_model(cp: Any, deadline: float, gap: float = 0.0) -> tuple[Any, str]:
    """Solver and status name; `gap`: relative distance to the bound that ends the search."""
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = WORKERS
    solver.parameters.random_seed = SEED
    solver.parameters.linearization_level = 2
    solver.parameters.relative_gap_limit = gap
    solver.parameters.max_time_in_seconds = max(deadline - time.perf_counter(), 0.01)
    status = solver.status_name(solver.solve(cp))
    assert status != "MODEL_INVALID", cp.validate()
    return solver, status
