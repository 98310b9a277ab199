"""What holds a plan back, and what one change would buy: each answer is a solve of its own, with that change.

Knows which questions to ask, in which order, and when to stop. Knows nothing of how plans are found.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from ..hwprofiles.profile import HardwareProfile
from .block_uses import block_uses
from .errors import Infeasible, Undecided
from .explanation import Change, End, Explanation, Figures
from .model_spec import ModelSpec
from .plan import Phase, Plan, Predicted, members
from .price import Pricer
from .quant_words import quantised_words
from .questions import (
    Case,
    Question,
    device_questions,
    for_one_phase,
    granularity_questions,
    link_questions,
    memory_questions,
    strategy_questions,
    unlimited_question,
)
from .report import TIE
from .request import Request
from .solve import solve
from .wishes import completed, pricer_of
from .wording import listed, shares_words, strategy_words

EXPLAIN_S = 20.0  # unless the user says otherwise
LEAST_S, PART = 0.2, 0.125  # of the time: what a question takes at least, and which part it may take at most


@dataclass
class Asker:
    """Solves cases until `deadline`, remembering what was not reached."""

    solve: Callable[[ModelSpec, str, HardwareProfile, Request], Plan]
    deadline: float
    limit_s: float
    usual_s: float
    changes: list[Change] = field(default_factory=list)

    def plan(self, case: Case) -> Plan | None:
        """The plan of a case; None where the time is over, or too short to find one."""
        left_s = self.deadline - time.perf_counter()
        if left_s < max(LEAST_S, min(self.usual_s, self.limit_s * PART)):
            return None
        limit_s = min(left_s, self.limit_s * PART, case.request.time_limit_s)
        try:
            request = msgspec.structs.replace(case.request, time_limit_s=limit_s)
            return self.solve(case.model, "what if", case.profile, request)
        except (Infeasible, Undecided):
            return None

    def ask(self, question: Question, now: Plan) -> Change:
        """What the change would buy or cost; `now` is the plan without it."""
        plan = self.plan(question.case)
        change = Change(question.subject, question.words, question.device)
        if plan is not None:
            change = _answered(change, question, plan, now)
        self.changes.append(change)
        return change


def _answered(change: Change, question: Question, plan: Plan, now: Plan) -> Change:
    """Where the plan without the change stays possible with it, the best is no worse."""
    figures = plan_figures(plan)
    if question.subject != "strategy":
        case = question.case
        pricer = pricer_of(case.request, case.model, case.profile)
        kept = pricer.predict(now.split) if question.subject == "link" else now.predicted
        figures = min(figures, predicted_figures(pricer, kept, figures.proven), key=lambda f: f.objective_s)
    gain, most = (1 - seconds / now.objective_s for seconds in (figures.objective_s, plan.bound_s))
    gain = 0.0 if abs(gain) < TIE else gain
    return msgspec.structs.replace(change, figures=figures, gain=gain, most_gain=max(most, gain))


def explain(
    plan: Plan, model: ModelSpec, profile: HardwareProfile, request: Request, limit_s: float = EXPLAIN_S
) -> Explanation:
    """Who does what in `plan`, the ends of the trade-off between its phases, and what one change would buy.

    At most about `limit_s` seconds, the most useful questions first; those not reached have no figures.
    """
    began = time.perf_counter()
    case = Case(model, profile, completed(request, model, profile))
    pricer = pricer_of(case.request, model, profile)
    asker = Asker(solve, began + limit_s, limit_s, plan.solve_s)
    memory = asker.ask(unlimited_question(case, plan), plan)
    ends = _ends(asker, case, pricer, plan)
    links = [*link_questions(case, plan)]
    later = [*(memory_questions(case, plan) if memory.gain != 0 else ()), *links[:1], *device_questions(case)]
    for question in (*later, *granularity_questions(case, plan), *links[1:], *strategy_questions(case, plan)):
        asker.ask(question, plan)
    uses, rests = block_uses(pricer, plan.split)
    tight, explain_s = tight_words(asker.changes), time.perf_counter() - began
    weights = quantised_words(pricer, plan.split)
    return Explanation(plan_figures(plan), uses, rests, ends, tuple(asker.changes), tight, explain_s, weights)


def plan_figures(plan: Plan) -> Figures:
    """A plan's own figures."""
    p = plan.predicted
    proven = plan.status == "optimal"
    return Figures(plan.objective_s, p.prefill_s, p.decode_s_per_token, p.decode_tokens_per_s, proven)


def predicted_figures(pricer: Pricer, p: Predicted, proven: bool) -> Figures:
    """Figures of a split at the workload of `pricer`."""
    return Figures(pricer.objective_s(p), p.prefill_s, p.decode_s_per_token, p.decode_tokens_per_s, proven)


def _ends(asker: Asker, case: Case, pricer: Pricer, plan: Plan) -> tuple[End, ...]:
    """The best for prefill alone and for decode alone; the plan itself where nothing better was found."""
    phases: tuple[Phase, Phase] = ("prefill", "decode")
    return tuple(_end(phase, asker.plan(for_one_phase(case, phase)), pricer, plan) for phase in phases)


def _end(phase: Phase, found: Plan | None, pricer: Pricer, plan: Plan) -> End:
    if found is None:
        return End(phase, None)
    seconds = "prefill_s" if phase == "prefill" else "decode_s_per_token"
    priced = [(plan.predicted, plan), (pricer.predict(found.split), found)]
    best, shown = min(priced, key=lambda each: getattr(each[0], seconds))
    figures = predicted_figures(pricer, best, shown is found and found.status == "optimal")
    if shown is plan or found.split == plan.split:
        return End(phase, figures)
    return End(phase, figures, _shares(found, "attention", pricer.model.group), _shares(found, "mlp", 1))


def _shares(plan: Plan, name: str, per_share: int) -> str:
    """Shares and strategy where all layers are alike, else how many kinds there are."""
    blocks = list(dict.fromkeys(getattr(layer, name) for layer in plan.layers))
    if len(blocks) > 1:
        return f"{len(blocks)} kinds"
    if len(members(blocks[0].units)) == 1:
        return strategy_words(blocks[0], plan.devices)
    return f"{shares_words(blocks[0], per_share)} {strategy_words(blocks[0], plan.devices)}"


def tight_words(changes: list[Change]) -> tuple[str, ...]:
    """What the answers say about limits: those whose change saves time, or that none of those asked about does."""
    asked = [c for c in changes if c.subject in ("memory", "link", "granularity")]
    lines = [
        f"{_limit_words(c)} holds the plan back: {c.words} would save {c.gain:.1%} of the time"
        for c in asked
        if c.gain and c.gain > 0
    ]
    missing = [c.words for c in asked if c.gain is None]
    proven = all(c.figures and c.figures.proven for c in asked)
    if not lines and proven:
        lines.append("none of the limits asked about holds the plan back: it is the speed of the devices")
    if any(c.gain == 0 and c.subject == "memory" and not c.device for c in asked) and proven:
        lines.append("more memory would buy nothing: even without any limit the plan would be as fast")
    if not lines and len(missing) < len(asked):
        lines.append("no limit was found to hold the plan back, but the time was too short to be sure")
    if missing:
        lines.append(f"not answered in the time there was: {listed(missing)}")
    return tuple(lines)


def _limit_words(change: Change) -> str:
    words = {"memory": "memory", "link": "the link", "granularity": "the size of KV heads"}[change.subject]
    return f"{words} of {change.device}" if change.device else words
