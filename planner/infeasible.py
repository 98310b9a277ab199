"""Why nothing fits, and the smallest change that would: each proposal is checked by a solve of its own.

Knows contexts, caps and number formats as knobs. Knows nothing of time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from .baselines import proportional_split, split_bytes
from .errors import Infeasible
from .guarded_solver import solve_model
from .memory import fits
from .plan import Split
from .price import Pricer
from .request import Request
from .search import SOLVED, new_model

SECONDS_PER_QUESTION = 5.0
MIB = 2**20


def fitting_split(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> Split | None:
    """Any split within the limits, memory alone considered."""
    model = new_model(pricer, request, caps, 1.0, timed=False)
    answer = solve_model(model.cp, time.perf_counter() + SECONDS_PER_QUESTION)
    if answer.status not in SOLVED:
        return None
    split = model.split_of(answer.value)
    return split if fits(split_bytes(pricer, split), pricer.profile, caps) else None


def refusal(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> Infeasible:
    """The error to raise when no split fits: what was asked, and every single change that was found to help."""
    w, names = pricer.workload, [d.name for d in pricer.profile.devices]
    limits = ", ".join(f"{name} {_size(cap)}" for name, cap in zip(names, caps))
    asked = f"no split of this model in {request.dtype} fits at context {w.context} within {limits}"
    fixes = [f for f in (_context_fix(pricer, request, caps), _cap_fix(pricer, request, caps)) if f]
    fixes += [f for f in (_dtype_fix(pricer, request, caps),) if f]
    if not fixes:
        return Infeasible(f"{asked}; no single change of context, cap or number format helps: add devices or memory")
    return Infeasible(f"{asked}; it fits with {', or with '.join(fixes)}")


def _context_fix(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> str | None:
    w = pricer.workload

    def at(context: int) -> bool:
        other = msgspec.structs.replace(w, context=context)
        return _fits(pricer, msgspec.structs.replace(request, workload=other), caps)

    least = min(w.prompt_tokens + w.new_tokens, w.context)
    if not at(least):
        return None
    return f"--context {_largest(at, least, w.context - 1)}" if w.context > least else None


def _cap_fix(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> str | None:
    """The device that needs least beyond its cap."""
    devices = pricer.profile.devices
    answers = []
    for d, device in enumerate(devices):

        def within(mib: int, d: int = d) -> bool:
            raised = tuple(cap + mib * MIB * (i == d) for i, cap in enumerate(caps))
            return _fits(pricer, request, raised)

        most = 2 * sum(n.total for n in split_bytes(pricer, _everything_on(pricer, d))) // MIB + 1
        if within(most):
            answers.append((_smallest(within, 1, most), d, device.name))
    if not answers:
        return None
    mib, d, name = min(answers)
    return f"{mib} MiB more on {name} (a cap of {_size(caps[d] + mib * MIB)})"


def _dtype_fix(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> str | None:
    if request.dtype == "bfloat16" or not _fits(pricer, msgspec.structs.replace(request, dtype="bfloat16"), caps):
        return None
    return "--dtype bfloat16"


def _fits(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> bool:
    other = Pricer(pricer.model, pricer.profile, request.dtype, request.workload)
    return fitting_split(other, request, caps) is not None


def _everything_on(pricer: Pricer, d: int) -> Split:
    return proportional_split(pricer, [int(i == d) for i in range(len(pricer.profile.devices))])


def _largest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest n in low..high that holds; `low` does, and so does everything below one that does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _smallest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest n in low..high that holds; `high` does."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _size(count: int) -> str:
    return f"{count / MIB:.0f} MiB" if count < 2**33 else f"{count / 2**30:.2f} GiB"
