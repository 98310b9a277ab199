"""CP-SAT in a process of its own, so that a search that hangs or dies in native code costs a proof and not the command.

Knows processes, deadlines and statuses. Knows nothing of what is solved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

WORKERS, SEEDS = 4, (0, 1)
GRACE_S = 2.0


@dataclass(frozen=True)
class Answer:
    """What came back. `status` is CP-SAT's name, CRASHED where the process ended or hung without an answer."""

    status: str
    objective_value: float = 0.0
    best_objective_bound: float = 0.0
    response: Any = None

    def value(self, expression: Any) -> int:
        """An expression's value in the solution."""
        from ortools.sat.python import cp_model_helper

        return int(cp_model_helper.ResponseHelper.value(self.response, expression))


def solve_model(cp: Any, deadline: float, gap: float = 0.0) -> Answer:
    """Solves until `deadline` (of time.perf_counter); `gap`: relative distance to the bound that ends the search.

    OR-Tools 9.15 has open reports of aborts and of ignored time limits; a crashed search is tried once more.
    """
    answer = Answer("CRASHED")
    for seed in SEEDS:
        answer = _in_child(cp, max(deadline - time.perf_counter(), 0.01), gap, seed)
        if answer.status != "CRASHED" or time.perf_counter() > deadline:
            break
    assert answer.status != "MODEL_INVALID", cp.validate()
    return answer


def _in_child(cp: Any, limit_s: float, gap: float, seed: int) -> Answer:
    fork = multiprocessing.get_context("fork")  # the model is native memory: a child that inherits it needs no copy
    reader, writer = fork.Pipe(duplex=False)
    child = fork.Process(target=_search, args=(cp, limit_s, gap, seed, writer), daemon=True)
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # in the child for good: we end it
    child.start()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        writer.close()
        return _received(*reader.recv()) if reader.poll(limit_s + GRACE_S) else Answer("CRASHED")
    except EOFError:
        return Answer("CRASHED")
    finally:
        child.kill()
        child.join()
        reader.close()


def _search(cp: Any, limit_s: float, gap: float, seed: int, writer: Connection) -> None:
    """In the child: native complaints go nowhere, the parent says what matters."""
    from ortools.sat.python import cp_model

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = WORKERS
    solver.parameters.random_seed = seed
    solver.parameters.linearization_level = 2
    solver.parameters.cp_model_probing_level = 0  # with many device sets it takes longer than the search
    solver.parameters.symmetry_level = 0
    solver.parameters.relative_gap_limit = gap
    solver.parameters.max_time_in_seconds = limit_s
    status = solver.status_name(solver.solve(cp))
    response = solver.response_proto
    writer.send((status, response.objective_value, response.best_objective_bound, str(response)))


def _received(status: str, objective: float, bound: float, text: str) -> Answer:
    from ortools.sat.python import cp_model_helper

    response = cp_model_helper.CpSolverResponse()
    response.parse_text_format(text)
    return Answer(status, objective, bound, response)
