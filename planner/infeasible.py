"""Why nothing fits, and the smallest changes that would: each proposal is checked by a solve of its own.

Knows contexts, batches, caps, splits by hand, number formats and memory as knobs. Knows nothing of time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from ..hwprofiles.profile import HardwareProfile
from .baselines import split_bytes
from .errors import Infeasible, Undecided
from .guarded_solver import solve_model
from .memory import device_caps, fits, host_cap
from .model_spec import ModelSpec
from .plan import Split
from .price import Pricer
from .request import Request
from .search import SOLVED, new_model
from .wishes import given_by_hand, pricer_of

QUESTION_S, ADVICE_S = 5.0, 20.0  # for one change, and for all of them
MIB = 2**20


def fitting_split(pricer: Pricer, request: Request, caps: tuple[int, ...], limit_s: float) -> Split | None:
    """Any split within the limits, memory alone considered; None where there is none.

    Undecided where `limit_s` was too short to tell.
    """
    model = new_model(pricer, request, caps, 1.0, timed=False)
    answer = solve_model(model.cp, time.perf_counter() + limit_s)
    if answer.status == "INFEASIBLE":
        return None
    if answer.status not in SOLVED:
        raise Undecided(
            f"within {limit_s:g} s the solver found no split that fits, nor a proof that there is none: "
            "raise --time-limit, --cap or lower --context"
        )
    split = model.split_of(answer.value)
    assert fits(split_bytes(pricer, split), pricer.profile, caps)
    return split


@dataclass(frozen=True)
class Case:
    """A request as it could be made, on the machine as it is or could be; no question is asked after `deadline`."""

    model: ModelSpec
    profile: HardwareProfile
    request: Request
    deadline: float

    @property
    def caps(self) -> tuple[int, ...]:
        return device_caps(self.profile, self.request.caps)

    def fits(self) -> bool:
        """Whether a split that fits was found."""
        limit_s = min(QUESTION_S, self.deadline - time.perf_counter())
        pricer = pricer_of(self.request, self.model, self.profile)
        try:
            return limit_s > 0 and fitting_split(pricer, self.request, self.caps, limit_s) is not None
        except Undecided:
            return False

    def but(self, **changes: object) -> Case:
        """The same with another request."""
        return replace(self, request=msgspec.structs.replace(self.request, **changes))

    def at_work(self, **changes: int) -> Case:
        """The same with another workload."""
        return self.but(workload=msgspec.structs.replace(self.request.workload, **changes))

    def grown(self, d: int, mib: int) -> Case:
        """The same on a machine with more free memory on device `d`, without caps."""
        devices, extra = list(self.profile.devices), mib * MIB
        devices[d] = msgspec.structs.replace(devices[d], free_bytes=devices[d].free_bytes + extra)
        host_bytes = self.profile.host.memory_bytes + extra * (devices[d].kind == "cpu")
        host = msgspec.structs.replace(self.profile.host, memory_bytes=host_bytes)
        profile = msgspec.structs.replace(self.profile, devices=tuple(devices), host=host)
        return replace(self.but(caps={}), profile=profile)


def refusal(pricer: Pricer, request: Request) -> Infeasible:
    """The error to raise when no split fits: what was asked, and every change that was found to help.

    Changes are single ones; where none helps, together with bfloat16; where that does not help, more memory.
    """
    case = Case(pricer.model, pricer.profile, request, time.perf_counter() + ADVICE_S)
    fixes = _fixes(case)
    half = case.but(dtype="bfloat16")
    if request.dtype != "bfloat16":
        fixes += ["--dtype bfloat16"] if half.fits() else []
        fixes = fixes or [f"--dtype bfloat16 and {fix}" for fix in _fixes(half)]
    fixes = fixes or _memory_fix(case)
    asked = f"no split of this model in {request.dtype} fits at {_work(request)} within {_limits(case)}"
    if not fixes:
        return Infeasible(f"{asked}; no change of context, cap or number format was found to help: add devices")
    return Infeasible(f"{asked}; it fits with {', or with '.join(fixes)}")


def _fixes(case: Case) -> list[str]:
    return _context_fix(case) + _batch_fix(case) + _by_hand_fix(case) + _cap_fix(case)


def _context_fix(case: Case) -> list[str]:
    w = case.request.workload
    least = w.prompt_tokens + w.new_tokens
    if w.context == least or not case.at_work(context=least).fits():
        return []
    return [f"--context {_largest(lambda n: case.at_work(context=n).fits(), least, w.context - 1)}"]


def _batch_fix(case: Case) -> list[str]:
    batch = case.request.workload.batch
    if batch == 1 or not case.at_work(batch=1).fits():
        return []
    return [f"--batch {_largest(lambda n: case.at_work(batch=n).fits(), 1, batch - 1)}"]


def _by_hand_fix(case: Case) -> list[str]:
    """What was given by hand is taken back one by one, or, where that does not help, all at once."""
    names = list(given_by_hand(case.request))
    single = [name for name in names if case.but(**{name: None}).fits()]
    if single or len(names) < 2:
        return [f"no {_option(name)}" for name in single]
    return [f"no {' and no '.join(map(_option, names))}"] if case.but(**dict.fromkeys(names)).fits() else []


def _cap_fix(case: Case) -> list[str]:
    """The device whose cap needs least, within what it has free; where no single one suffices, all to one level."""
    given = case.request.caps
    singles = [answer for name in given if (answer := _raised(case, (name,)))]
    if singles:
        best = min(singles, key=lambda caps: sum(caps.values()) - sum(given[name] for name in caps))
    else:
        best = (len(given) > 1 and _raised(case, tuple(given))) or {}
    return [" ".join(f"--cap {name}={cap // MIB}MiB" for name, cap in best.items())] if best else []


def _raised(case: Case, names: tuple[str, ...]) -> dict[str, int] | None:
    """The lowest caps in whole MiB for these devices that fit, those that must rise."""
    free = dict(zip((d.name for d in case.profile.devices), device_caps(case.profile, {})))
    given = case.request.caps

    def at(mib: int) -> dict[str, int]:
        levels = {name: min(mib, free[name] // MIB) * MIB for name in names}
        return {name: level for name, level in levels.items() if level > given[name]}

    def enough(mib: int) -> bool:
        return case.but(caps=given | at(mib)).fits()

    most = max((free[name] // MIB for name in names), default=0)
    return at(_smallest(enough, 0, most)) if enough(most) else None


def _memory_fix(case: Case) -> list[str]:
    """The device that needs least memory beyond what it has free."""
    least, name = 2**24, ""  # MiB
    for d, device in enumerate(case.profile.devices):
        enough = partial(_fits_grown, case, d)
        if enough(least - 1):
            least, name = _smallest(enough, 0, least - 1), device.name
    caps = " and no --cap" if case.request.caps else ""
    return [f"{least} MiB more memory on {name} than it has free{caps}"] if name else []


def _fits_grown(case: Case, d: int, mib: int) -> bool:
    return case.grown(d, mib).fits()


def _work(request: Request) -> str:
    w = request.workload
    return f"context {w.context}" + (f" and batch {w.batch}" if w.batch > 1 else "")


def _limits(case: Case) -> str:
    """Each device's limit, and that of the memory which CPU devices share where it binds before theirs."""
    limits = [f"{d.name} {_size(cap)}" for d, cap in zip(case.profile.devices, case.caps)]
    shared = host_cap(case.profile)
    if shared < sum(cap for d, cap in zip(case.profile.devices, case.caps) if d.kind == "cpu"):
        limits.append(f"all CPU devices together {_size(shared)} of host memory")
    return ", ".join(limits)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


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
