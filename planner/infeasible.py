"""Whether anything fits, and what to say where nothing does: which limits contradict each other, and what would help.

Knows requests as they could be made, and asks whether each fits. Knows nothing of time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import msgspec

from ..hwprofiles.profile import HardwareProfile
from .baselines import split_bytes
from .changes import with_copy, with_memory
from .errors import Infeasible, Undecided
from .fixes import fixes
from .guarded_solver import solve_model
from .limits import contradiction, in_words
from .memory import device_caps, fits
from .model_spec import ModelSpec
from .plan import Split
from .price import Pricer
from .request import Request
from .search import SOLVED, new_model
from .wishes import check_wishes, pricer_of

QUESTION_S, LIMITS_S, ADVICE_S = 3.0, 8.0, 20.0  # for one question, for all about limits, for all together


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

    def answer(self) -> bool | None:
        """Whether any split fits; None where time ran out, or where it is no request to make."""
        limit_s = min(QUESTION_S, self.deadline - time.perf_counter())
        if limit_s <= 0:
            return None
        try:
            check_wishes(self.request, self.model, self.profile)
            pricer = pricer_of(self.request, self.model, self.profile)
            return fitting_split(pricer, self.request, self.caps, limit_s) is not None
        except (Undecided, ValueError):
            return None

    def fits(self) -> bool:
        """Whether a split that fits was found."""
        return self.answer() is True

    def but(self, **changes: object) -> Case:
        """The same with another request."""
        return replace(self, request=msgspec.structs.replace(self.request, **changes))

    def at_work(self, **changes: int) -> Case:
        """The same with another workload."""
        return self.but(workload=msgspec.structs.replace(self.request.workload, **changes))

    def grown(self, name: str, extra_bytes: int) -> Case:
        """The same on a machine with more free memory on a device, which then has no cap."""
        caps = {device: cap for device, cap in self.request.caps.items() if device != name}
        profile, request = with_memory(self.profile, self.but(caps=caps).request, name, extra_bytes)
        return replace(self, profile=profile, request=request)

    def copied(self, name: str) -> Case:
        """The same on a machine with one more device like `name`."""
        profile, request = with_copy(self.profile, self.request, name)
        return replace(self, profile=profile, request=request)


def refusal(pricer: Pricer, request: Request) -> Infeasible:
    """The error to raise when no split fits: a smallest set of limits that contradict each other, and what helps."""
    began = time.perf_counter()
    case = Case(pricer.model, pricer.profile, request, began + LIMITS_S)
    asked = f"no split of this model in {request.dtype} fits: {in_words(contradiction(case))}"
    helpful = fixes(replace(case, deadline=began + ADVICE_S))
    if not helpful:
        return Infeasible(f"{asked}; no change of context, cap or number format was found to help: add devices")
    return Infeasible(f"{asked}; it fits with {', or with '.join(helpful)}")
