"""Runs CP-SAT on the model of all splits whose equal layers are cut alike: the fastest, and a bound for all of them.

Knows the model's life and its statuses. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import time

import msgspec

from .guarded_solver import solve_model
from .plan import Split
from .price import Pricer
from .request import Request
from .split_model import OBJECTIVE_TICKS, SplitModel

SOLVED = ("OPTIMAL", "FEASIBLE")
SEARCHED_GAP = 1e-5  # at which a search ends: wide gaps are met by chance, and a plan's would differ from run to run
UNMODELLED = 0.0005  # pushes that a sole reducer or consumer saves, taken off bounds; the most seen was 0.0002
CLOSE_ENOUGH = 0.001  # the gap of a proof: fitted costs are no nearer to the true ones


class Found(msgspec.Struct, frozen=True):
    """The solver's answer: `split` is None where it found none of its own.

    `bound_s` holds for every split of the space; `error`: how far fitted costs lie above true ones at worst. `sets`:
    how many device sets the bound is the least of, where linear programs found it, and 0 where CP-SAT did.
    """

    split: Split | None
    proven: bool
    bound_s: float
    error: float
    sets: int = 0


def new_model(
    pricer: Pricer,
    request: Request,
    caps: tuple[int, ...],
    tick_s: float,
    timed: bool = True,
    limited: bool = True,
) -> SplitModel:
    """The CP-SAT model, built; imports OR-Tools."""
    from ortools.sat.python import cp_model

    model = SplitModel(pricer, request, caps, tick_s, cp_model.CpModel(), timed, limited)
    model.build()
    return model


def fastest_split(
    pricer: Pricer, request: Request, caps: tuple[int, ...], start: Split, deadline: float, limited: bool = True
) -> Found:
    """The fastest split within the limits, hinted by `start`, searched until `deadline` (of time.perf_counter); nothing
    where that has passed.

    `limited`: whether memory is a limit. Layers that are alike are cut alike.
    """
    if time.perf_counter() > deadline:
        return Found(None, False, 0.0, 0.0)
    model = new_model(pricer, request, caps, pricer.split_s(start) / OBJECTIVE_TICKS, limited=limited)
    model.hint(start)
    model.cp.minimize(model.objective)
    answer = solve_model(model.cp, max(deadline, time.perf_counter() + 0.1), SEARCHED_GAP)
    bound = max(answer.best_objective_bound, 0) if answer.status in (*SOLVED, "UNKNOWN") else 0
    bound_s = bound * model.tick_s / (1 + model.error + UNMODELLED * (len(caps) > 1))
    if answer.status not in SOLVED:
        return Found(None, False, bound_s, model.error)
    proven = answer.objective_value - bound <= CLOSE_ENOUGH * answer.objective_value
    return Found(model.split_of(answer.value), proven, bound_s, model.error)
