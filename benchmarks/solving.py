"""How long planning takes for the 70B shape on 2 to 16 devices: `python benchmarks/solving.py [--machines 2,4]`.

Every run is a process of its own, as a command is; medians are printed. Three moments are timed from the call of
`solve`: "first", when all baselines are made, checked for memory and priced, where one of them fits; "start", when all
splits by heuristic are too, and the first descent begins at the best of all; "plan", when the plan is there, proven or
not, and checked (`solve_s`; OR-Tools is loaded in it). Reading model and profile comes before.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

from boxes import SOLVED_FOR, example, markdown

FIRST_GOAL_S = 0.2
GOALS_S = {2: 1.0, 3: 1.0, 4: 1.0, 8: 10.0, 16: 60.0}
PROVEN_UP_TO = 8  # devices, for a goal to count as reached
HEADER = (
    "devices, machine, memory full, first s, slower by, start s, slower by, plan s, min-max, status, gap, used, plans"
)


@dataclass(frozen=True)
class Run:
    """What one process saw. `first`, `start`: seconds until then, and how much slower that split is than the plan.

    `full`: the plan's bytes over all caps; `digest`: equal for equal splits.
    """

    first: tuple[float, float]
    start: tuple[float, float]
    solve_s: float
    status: str
    gap: float
    used: int
    full: float
    digest: str


def one_run(machine: str, model: str, context: int, limit_s: float) -> Run:
    """Solves once, watching for the best baseline and for the split at which the first descent begins."""
    import msgspec

    from tpplan.hwprofiles.machine import load_hardware
    from tpplan.planner import solve as planning
    from tpplan.planner.descent import Descent
    from tpplan.planner.plan import Split, Workload, devices_used
    from tpplan.planner.request import Request

    spec, profile = example(model), load_hardware(machine)
    price, polish = planning.price_baselines, Descent.polished
    firsts: list[tuple[float, float]] = []
    starts: list[tuple[float, float]] = []

    def priced(*arguments: Any) -> Any:
        table, fitting = price(*arguments)
        if fitting:
            firsts.append((time.perf_counter() - began, min(b.objective_s for b in table.values() if b.objective_s)))
        return table, fitting

    def polished(descent: Descent, split: Split, reshape: bool = True) -> Split:
        starts.append((time.perf_counter() - began, descent.price_s(split)))
        return polish(descent, split, reshape)

    planning.price_baselines, Descent.polished = priced, polished  # type: ignore[method-assign]
    request = Request(Workload(context=context), time_limit_s=limit_s)
    began = time.perf_counter()
    plan = planning.solve(spec, model, profile, request)
    first, start = (
        (at_s, objective_s / plan.objective_s - 1) for at_s, objective_s in ((firsts or starts)[0], starts[0])
    )
    return Run(
        first=first,
        start=start,
        solve_s=plan.solve_s,
        status=plan.status,
        gap=plan.gap,
        used=len(devices_used(plan.split)),
        full=sum(use.bytes for use in plan.device_use) / sum(use.cap_bytes for use in plan.device_use),
        digest=hashlib.sha256(msgspec.json.encode(plan.split)).hexdigest(),
    )


def in_process(*arguments: object) -> Run:
    """`one_run` in a new process, which has nothing loaded."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor:
        return executor.submit(one_run, *arguments).result()  # type: ignore[arg-type]


def row(devices: int, machine: str, runs: list[Run]) -> tuple[str, ...]:
    """A line of the table: medians, the worst status and gap, and how many different plans came out."""
    solved = sorted(run.solve_s for run in runs)
    worst = max(runs, key=lambda run: (run.status != "optimal", run.gap))
    return (
        str(devices),
        f"`{machine}`",
        f"{worst.full:.0%}",
        f"{median(run.first[0] for run in runs):.2f}",
        f"{median(run.first[1] for run in runs):.0%}",
        f"{median(run.start[0] for run in runs):.2f}",
        f"{median(run.start[1] for run in runs):.1%}",
        f"{median(solved):.2f}",
        f"{solved[0]:.2f}-{solved[-1]:.2f}",
        worst.status,
        f"{worst.gap:.1%}",
        str(worst.used),
        str(len({run.digest for run in runs})),
    )


def goals(results: dict[tuple[int, str], list[Run]]) -> Iterator[str]:
    """What was to be reached, and on how many machines it was."""
    first = [median(run.first[0] for run in runs) <= FIRST_GOAL_S for runs in results.values()]
    yield f"first plan that fits within {FIRST_GOAL_S} s: {sum(first)} of {len(first)} machines"
    for devices, limit_s in GOALS_S.items():
        reached = [
            median(run.solve_s for run in runs) <= limit_s
            and (devices > PROVEN_UP_TO or all(run.status == "optimal" for run in runs))
            for (d, _), runs in results.items()
            if d == devices
        ]
        if reached:
            what = "proven" if devices <= PROVEN_UP_TO else "planned, gap told,"
            yield f"{devices} devices {what} within {limit_s:g} s: {sum(reached)} of {len(reached)} machines"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", help="numbers of devices, as 2,4 (default: all)")
    parser.add_argument("--model", default="llama-3.1-70b-int4", help="a name in examples/")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--time-limit", type=float, default=55.0, help="seconds for each solve")
    options = parser.parse_args()
    wanted = [int(count) for count in options.machines.split(",")] if options.machines else list(SOLVED_FOR)
    results: dict[tuple[int, str], list[Run]] = {}
    for devices, machine in [(count, machine) for count in wanted for machine in SOLVED_FOR[count]]:
        arguments = (machine, options.model, options.context, options.time_limit)
        results[devices, machine] = [in_process(*arguments) for _ in range(options.runs)]
    print(markdown(HEADER.split(", "), [row(*key, runs) for key, runs in results.items()]))
    print("", *goals(results), sep="\n")


if __name__ == "__main__":
    main()
