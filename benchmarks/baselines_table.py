"""Plans beside splits that need no solver, on many machines: `python benchmarks/baselines_table.py [--machines 0,3]`.

Prints how much slower every baseline is, which freedom of the plan pays how much (`wins.py`), and a summary. Ends with
an error where a plan is slower than a baseline, or simulated slower than predicted. Machines and models are those of
`boxes.py`; `--machines` and `--models` take their numbers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from boxes import COMPARED_FOR, COMPARED_ON, example, markdown
from played import played
from wins import TIE, USES, Case, wins

from tpplan.hwprofiles.machine import load_hardware
from tpplan.planner.errors import Infeasible, Undecided
from tpplan.planner.plan import Plan
from tpplan.planner.request import Request
from tpplan.planner.solve import solve

BASELINES = {
    "single_device": "one device",
    "layer_split_by_speed": "layers by speed",
    "layer_split_by_memory": "layers by memory",
    "even": "even",
    "memory_proportional": "by memory",
    "bandwidth_proportional": "by bandwidth",
}
SHORT = {
    "other devices for MLP than attention": "MLP's devices",
    "other devices for the head than layers": "head's devices",
    "a device left out of all layers": "left out",
    "layers cut in several ways": "mixture",
    "sums in parts": "parts",
    "sums on the CPU": "CPU sums",
    "shared KV heads": "shared KV",
}


@dataclass(frozen=True)
class Compared:
    """A plan with what its freedoms win, and what `played` says. `plan`: None where nothing fits."""

    machine: str
    model: str
    plan: Plan | None
    wins: dict[str, float | None]
    played: tuple[float, float]


def compared(machine: str, model: str, limit_s: float) -> Compared:
    """Solves, and takes every freedom away that the plan uses; a plan slower than a baseline is an error."""
    case = Case.of(example(model), load_hardware(machine), Request(time_limit_s=limit_s))
    try:
        plan = solve(case.model, model, case.profile, case.request)
    except (Infeasible, Undecided):
        return Compared(machine, model, None, {}, (1.0, 1.0))
    for name, slower in _slower(plan).items():
        assert slower is None or slower >= -1e-9, f"{model} on {machine}: {name} is {-slower:.2%} faster than the plan"
    return Compared(machine, model, plan, wins(plan, case), played(plan, case.pricer))


def _slower(plan: Plan) -> dict[str, float | None]:
    """How much slower each baseline is than the plan; None where it does not fit."""
    return {name: b.objective_s and b.objective_s / plan.objective_s - 1 for name, b in plan.baselines.items()}


def row(one: Compared) -> tuple[str, ...]:
    """A line of the table; baselines as multiples of the plan's time, = where they tie."""
    if one.plan is None:
        return (one.model, *["-"] * (4 + len(BASELINES)))
    slower = _slower(one.plan)
    return (
        one.model,
        f"{one.plan.objective_s:.2f}",
        f"{one.plan.predicted.decode_tokens_per_s:.1f}",
        *(_times(slower[name]) for name in BASELINES),
        ", ".join(f"{SHORT.get(name, name)} {_percent(slower)}" for name, slower in _won(one).items()) or "-",
        f"{one.plan.gap:.1%}" + ("" if one.plan.status == "optimal" else " (not proven)"),
    )


def _times(slower: float | None) -> str:
    if slower is None:
        return "-"
    return "=" if slower <= TIE else f"{1 + slower:.2f}"


def _percent(slower: float | None) -> str:
    return "?" if slower is None else f"{slower:.0%}" if slower >= 0.1 else f"{slower:.1%}"


def _won(one: Compared) -> dict[str, float | None]:
    """Freedoms without which the best split found is slower by more than a tie, or none was found."""
    return {name: slower for name, slower in one.wins.items() if slower is None or slower > TIE}


def summary(results: Sequence[Compared]) -> Iterator[str]:
    """Two tables: of baselines, and of freedoms."""
    solved = [one for one in results if one.plan is not None]
    yield f"{len(solved)} of {len(results)} combinations fit; no plan is slower than any baseline."
    least = [min((one.played[phase] for one in solved), default=1.0) for phase in (0, 1)]
    yield f"Simulated over predicted: decode {least[0]:.3f} to 1.000, prefill {least[1]:.3f} to 1.000.\n"
    yield markdown(
        ("baseline", "fits", f"ties (within {TIE:.1%})", "within 5 %", "median", "most"),
        [_baseline_row(name, [_slower(one.plan)[name] for one in solved if one.plan]) for name in BASELINES],
    )
    yield ""
    yield markdown(
        ("freedom", "in so many plans", "wins", "most", "where"), [_freedom_row(name, solved) for name in USES]
    )


def _baseline_row(name: str, each: list[float | None]) -> tuple[str, ...]:
    known = [slower for slower in each if slower is not None]
    ties, close = (sum(slower <= limit for slower in known) for limit in (TIE, 0.05))
    ends = (f"{1 + median(known):.2f}", f"{1 + max(known):.2f}") if known else ("-", "-")
    return (BASELINES[name], str(len(known)), str(ties), str(close), *ends)


def _freedom_row(name: str, solved: Sequence[Compared]) -> tuple[str, ...]:
    used = [(one.wins[name], one) for one in solved if name in one.wins]
    won = [(slower, one) for slower, one in used if slower is not None and slower > TIE]
    if not won:
        return (name, str(len(used)), "0", "-", "-")
    most, one = max(won, key=lambda pair: pair[0])
    return (name, str(len(used)), str(len(won)), _percent(most), f"{one.model} on `{one.machine}`")


def _chosen(names: Sequence[str], numbers: str | None) -> list[str]:
    return [names[int(number)] for number in numbers.split(",")] if numbers else list(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", help="numbers in COMPARED_ON from 0, as 0,3 (default: all)")
    parser.add_argument("--models", help="numbers in COMPARED_FOR from 0 (default: all)")
    parser.add_argument("--time-limit", type=float, default=10.0, help="seconds for each solve")
    options = parser.parse_args()
    began, results = time.perf_counter(), []
    header = ("model", "answer s", "tok/s", *BASELINES.values(), "wins", "gap")
    for machine in _chosen(COMPARED_ON, options.machines):
        here = [compared(machine, model, options.time_limit) for model in _chosen(COMPARED_FOR, options.models)]
        print(f"`{machine}`\n", markdown(header, map(row, here)), "", sep="\n", flush=True)
        results += here
    print(*summary(results), sep="\n")
    print(f"\n{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
