"""Whether the model says what people measured on unequal or badly linked cards: `python benchmarks/field_reports.py`.

Prices each reported configuration (`reported.py`) on its machine of the catalogue, once with the exchanges that tpplan
is made for and once with exchanges of `ENGINES_S`, and solves for the best plan there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cache
from textwrap import fill

import msgspec
from boxes import markdown
from reported import REPORTS, Report, Step, Tried

from tpplan.hwprofiles.machine import load_hardware
from tpplan.planner.baselines import split_bytes
from tpplan.planner.block_uses import time_shares
from tpplan.planner.memory import device_caps, fits
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import Predicted, Workload
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.solve import solve
from tpplan.planner.wishes import completed, pricer_of

ENGINES_S = 40e-6  # an exchange by cudaMemcpyAsync there and back, or by NCCL without peer access: 30 to 60 us
SAME = 0.03  # changes smaller than that are none
HEADER = (
    "model",
    "step",
    "measure",
    "reported t/s",
    "tpplan's model",
    "with 40 us exchanges",
    "change reported",
    "modelled",
    "with 40 us",
    "same direction",
    "best plan",
)


@dataclass(frozen=True)
class Modelled:
    """Tokens a second of a step's two configurations."""

    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after / self.before


def modelled(step: Step, exchange_s: float | None) -> Modelled:
    """Both configurations of a step priced, exchanges taking `exchange_s` at least."""
    return Modelled(*(_speed(step, tried, exchange_s) for tried in (step.before, step.after)))


def _speed(step: Step, tried: Tried, exchange_s: float | None) -> float:
    pricer = _pricer(step.model, tried.machine, step.workload, exchange_s)
    caps = device_caps(pricer.profile, {})
    split = tried.split(pricer, caps)
    assert fits(split_bytes(pricer, split), pricer.profile, caps), f"{tried.words} does not fit on {tried.machine}"
    predicted = pricer.predict(split)
    busiest = 1.0
    if tried.overlapped:
        shares = time_shares(pricer, split, "prefill")
        busiest = max(sum(share for (d, _), share in shares.items() if d == device) for device in range(len(caps)))
    return _per_s(step, pricer, predicted) / busiest


def _per_s(step: Step, pricer: Pricer, predicted: Predicted) -> float:
    """Tokens a second, as the report counts them."""
    if step.measure == "decode":
        return predicted.decode_tokens_per_s
    if step.measure == "prefill":
        return step.workload.prompt_tokens / predicted.prefill_s
    return step.workload.new_tokens / pricer.objective_s(predicted)


def _pricer(model: ModelSpec, machine: str, workload: Workload, exchange_s: float | None) -> Pricer:
    profile = load_hardware(machine)
    if exchange_s is not None:
        profile = msgspec.structs.replace(profile, rendezvous_s=exchange_s)
    return pricer_of(completed(Request(workload), model, profile), model, profile)


@cache
def _best(model: ModelSpec, machine: str, workload: Workload, limit_s: float) -> Predicted:
    return solve(model, "field report", load_hardware(machine), Request(workload, time_limit_s=limit_s)).predicted


def row(step: Step, limit_s: float) -> tuple[str, ...]:
    """A line of the table."""
    ours, theirs = modelled(step, None), modelled(step, ENGINES_S)
    pricer = _pricer(step.model, step.after.machine, step.workload, None)
    best = _per_s(step, pricer, _best(step.model, step.after.machine, step.workload, limit_s))
    return (
        step.model_name,
        f"{step.before.words}; {step.after.words}",
        step.measure,
        _arrow(step.before.reported, step.after.reported) if step.change else "-",
        _arrow(ours.before, ours.after),
        _arrow(theirs.before, theirs.after),
        f"x{step.change:.2f}" if step.change else "-",
        f"x{ours.change:.2f}",
        f"x{theirs.change:.2f}",
        f"{_agrees(step.change, ours.change)}, {_agrees(step.change, theirs.change)}" if step.change else "-",
        _figure(best),
    )


def _agrees(reported: float, modelled: float) -> str:
    return "yes" if _direction(reported) == _direction(modelled) else "no"


def _direction(change: float) -> int:
    return (change > 1 + SAME) - (change < 1 - SAME)


def _arrow(before: float | None, after: float | None) -> str:
    return f"{_figure(before)} to {_figure(after)}"


def _figure(per_s: float | None) -> str:
    return "-" if per_s is None else f"{per_s:.0f}" if per_s >= 100 else f"{per_s:.1f}"


def section(report: Report, limit_s: float) -> str:
    """A report's table with what was assumed and where it parts from the model."""
    table = markdown(HEADER, [row(step, limit_s) for step in report.steps])
    machines = dict.fromkeys(tried.machine for step in report.steps for tried in (step.before, step.after))
    where = ", ".join(f"`{machine}`" for machine in machines)
    head = f"**{report.name}** ({report.source}), as {where}. Assumed: {report.assumed}."
    return "\n\n".join((fill(head, 120, break_on_hyphens=False), table, fill(report.differs, 120))) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time-limit", type=float, default=10.0, help="seconds for each solve")
    options = parser.parse_args()
    for report in REPORTS:
        print(section(report, options.time_limit), flush=True)


if __name__ == "__main__":
    main()
