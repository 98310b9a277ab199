"""A solver that dies or hangs in native code: the command goes on without a proof."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from ortools.sat.python import cp_model

from tpplan.planner import guarded_solver
from tpplan.planner.guarded_solver import Answer, solve_model


def knapsack() -> tuple[cp_model.CpModel, Any]:
    """Maximise 2x + y with x + y <= 7 and x <= 4; the best is 11."""
    cp = cp_model.CpModel()
    x, y = cp.new_int_var(0, 4, "x"), cp.new_int_var(0, 10, "y")
    cp.add(x + y <= 7)
    cp.maximize(2 * x + y)
    return cp, 2 * x + y


def test_answers_cross_the_process_border() -> None:
    """Status, objective, bound and the values of expressions arrive as the solver found them."""
    cp, goal = knapsack()
    answer = solve_model(cp, time.perf_counter() + 10)
    assert (answer.status, answer.objective_value, answer.best_objective_bound) == ("OPTIMAL", 11.0, 11.0)
    assert answer.value(goal) == 11


def test_infeasible_is_an_answer() -> None:
    """A model without solutions is reported as such, once."""
    cp, goal = knapsack()
    cp.add(goal >= 12)
    assert solve_model(cp, time.perf_counter() + 10).status == "INFEASIBLE"


def test_a_native_abort_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that aborts the process comes back as CRASHED."""
    monkeypatch.setattr(guarded_solver, "_search", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
    assert solve_model(knapsack()[0], time.perf_counter() + 10) == Answer("CRASHED")


def test_a_hang_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that ignores its limit is ended soon after it."""
    monkeypatch.setattr(guarded_solver, "_search", lambda *arguments: time.sleep(60))
    monkeypatch.setattr(guarded_solver, "GRACE_S", 0.2)
    started = time.perf_counter()
    assert solve_model(knapsack()[0], started + 0.3) == Answer("CRASHED")
    assert time.perf_counter() - started < 3
