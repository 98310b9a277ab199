"""What holds a plan back, and what one change would buy: each answer is a solve of its own, with that change.

Knows which questions to ask, in which order, and when to stop. Knows nothing of how plans are found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import msgspec

from ..hwprofiles.profile import HardwareProfile
from .block_uses import block_uses
from .changes import with_copy, with_link_rate, with_memory, without_memory_limits
from .errors import Infeasible, Undecided
from .explanation import Change, End, Explanation, Figures, Subject
from .model_spec import ModelSpec
from .plan import Plan, Predicted, members
from .price import Pricer
from .request import Request
from .search import NEAR_ENOUGH
from .wishes import completed, pricer_of
from .wording import listed, shares_words, strategy_words

EXPLAIN_S = 20.0  # unless the user says otherwise
LEAST_S, PART = 0.2, 0.25  # of the time: what a question takes at least, and which part it may take at most
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """What to solve."""

    model: ModelSpec
    profile: HardwareProfile
    request: Request


@dataclass(frozen=True)
class Question:
    """What if: `words` say what is changed, `case` the model, machine and request with the change."""

    subject: Subject
    words: str
    device: str
    case: Case


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
        """What the change would buy or cost; where the plan itself stays possible, it never costs."""
        plan, subject, named = self.plan(question.case), question.subject, (question.words, question.device)
        gain = None if plan is None else 1 - plan.objective_s / now.objective_s
        if gain is not None and (abs(gain) < NEAR_ENOUGH or (gain < 0 and subject != "strategy")):
            plan, gain = now, 0.0
        self.changes.append(Change(subject, *named, plan_figures(plan) if plan else None, gain))
        return self.changes[-1]


def explain(
    plan: Plan, model: ModelSpec, profile: HardwareProfile, request: Request, limit_s: float = EXPLAIN_S
) -> Explanation:
    """Who does what in `plan`, the ends of the trade-off between its phases, and what one change would buy.

    At most about `limit_s` seconds, the most useful questions first; those not reached have no figures.
    """
    from .solve import solve

    began = time.perf_counter()
    case = Case(model, profile, completed(request, model, profile))
    pricer = pricer_of(case.request, model, profile)
    asker = Asker(solve, began + limit_s, limit_s, plan.solve_s)
    ends = _ends(asker, case, pricer, plan)
    for question in strategy_questions(case, plan):
        asker.ask(question, plan)
    _ask_memory(asker, case, plan)
    for question in (*link_questions(case, plan), *device_questions(case), *granularity_questions(case, plan)):
        asker.ask(question, plan)
    uses, rests = block_uses(pricer, plan.split)
    tight, explain_s = tight_words(asker.changes), time.perf_counter() - began
    return Explanation(plan_figures(plan), uses, rests, ends, tuple(asker.changes), tight, explain_s)


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
    ends = []
    for phase in ("prefill", "decode"):
        found = asker.plan(_for_one_phase(case, phase))
        priced = [(pricer.predict(p.split), p) for p in (found, plan) if p is not None and found]
        if not priced:
            ends.append(End(phase, None))
            continue
        field = "prefill_s" if phase == "prefill" else "decode_s_per_token"
        best, shown = min(priced, key=lambda each: getattr(each[0], field))
        proven = shown is found and found.status == "optimal"
        figures = predicted_figures(pricer, best, proven)
        ends.append(End(phase, figures, _shares(shown, "attention", pricer.model.group), _shares(shown, "mlp", 1)))
    return tuple(ends)


def _for_one_phase(case: Case, phase: str) -> Case:
    """One new token for prefill alone. For decode alone a prompt of one token, and as many new ones as keep the mean
    position of the workload; where the context is too short for that, as many as it holds.
    """
    w = case.request.workload
    if phase == "prefill":
        alone = msgspec.structs.replace(w, new_tokens=1)
    else:
        new = min(2 * max(w.prompt_tokens + w.new_tokens // 2 - 1, 1), max(w.context - 1, 1))
        alone = msgspec.structs.replace(w, prompt_tokens=1, new_tokens=new)
    return replace(case, request=msgspec.structs.replace(case.request, workload=alone))


def _shares(plan: Plan, name: str, per_share: int) -> str:
    """Shares and strategy where all layers are alike, else how many kinds there are."""
    blocks = list(dict.fromkeys(getattr(layer, name) for layer in plan.layers))
    if len(blocks) > 1:
        return f"{len(blocks)} kinds"
    if len(members(blocks[0].units)) == 1:
        return strategy_words(blocks[0], plan.devices)
    return f"{shares_words(blocks[0], per_share)} {strategy_words(blocks[0], plan.devices)}"


def strategy_questions(case: Case, plan: Plan) -> Iterator[Question]:
    """The strategies that the plan does not have throughout, each with the best split for it."""
    for name, words in (("attention", "attention"), ("mlp", "MLP")):
        blocks = {getattr(layer, name) for layer in plan.layers}
        shared = {block.strategy for block in blocks if len(members(block.units)) > 1}
        if not shared or getattr(case.request, f"{name}_strategy"):
            continue
        for strategy in ("row", "column"):
            if shared != {strategy}:
                request = msgspec.structs.replace(case.request, **{f"{name}_strategy": strategy})
                yield Question("strategy", f"{words} by {strategy}", "", replace(case, request=request))


def _ask_memory(asker: Asker, case: Case, plan: Plan) -> None:
    """Whether memory costs time at all; if it does, what a GiB more buys on the devices with least room left."""
    enough = 2 * sum(use.bytes for use in plan.device_use)
    profile, request = without_memory_limits(case.profile, case.request, enough)
    free = asker.ask(Question("memory", "no memory limits at all", "", Case(case.model, profile, request)), plan)
    if free.gain == 0:
        return
    for use in sorted(plan.device_use, key=lambda u: u.cap_bytes - u.bytes)[:2]:
        grown = Case(case.model, *with_memory(case.profile, case.request, use.name, GIB))
        asker.ask(Question("memory", f"1 GiB more on {use.name}", use.name, grown), plan)


def link_questions(case: Case, plan: Plan) -> Iterator[Question]:
    """Every link twice as wide, slowest first, those of devices in use before others."""
    used = {use.name: use.bytes > 0 for use in plan.device_use}
    linked = [
        (not used[d.name], min(d.link.push_bytes_per_s, d.link.pull_bytes_per_s), d.name)
        for d in case.profile.devices
        if d.link
    ]
    for _, _, name in sorted(linked):
        wider = with_link_rate(case.profile, name, 2)
        yield Question("link", f"twice the link of {name}", name, replace(case, profile=wider))


def device_questions(case: Case) -> Iterator[Question]:
    """One more of the device that reads fastest."""
    fastest = max(case.profile.devices, key=lambda d: d.read_bytes_per_s)
    profile, request = with_copy(case.profile, case.request, fastest.name)
    yield Question("device", f"one more device like {fastest.name}", fastest.name, Case(case.model, profile, request))


def granularity_questions(case: Case, plan: Plan) -> Iterator[Question]:
    """KV heads half as large and twice as many: the same work, in finer shares."""
    m = case.model
    shared = any(len(members(layer.attention.units)) > 1 for layer in set(plan.layers))
    if shared and m.head_dim % 4 == 0 and case.request.attention_split is None:
        finer = msgspec.structs.replace(m, heads=2 * m.heads, kv_heads=2 * m.kv_heads, head_dim=m.head_dim // 2)
        yield Question("granularity", "twice as many KV heads of half the size", "", replace(case, model=finer))


def tight_words(changes: list[Change]) -> tuple[str, ...]:
    """What the answers say about limits: those whose change saves time, or that none of those asked about does."""
    asked = [c for c in changes if c.subject in ("memory", "link", "granularity")]
    lines = [
        f"{_limit_words(c)} holds the plan back: {c.words} would save {c.gain:.1%} of the time"
        for c in asked
        if c.gain and c.gain > 0
    ]
    missing = [c.words for c in asked if c.gain is None]
    if not lines and len(missing) < len(asked):
        lines.append("none of the limits asked about holds the plan back: it is the speed of the devices")
    if any(c.gain == 0 and c.subject == "memory" and not c.device for c in asked):
        lines.append("more memory would buy nothing: even without any limit the plan would be as fast")
    if missing:
        lines.append(f"not answered in the time there was: {listed(missing)}")
    return tuple(lines)


def _limit_words(change: Change) -> str:
    words = {"memory": "memory", "link": "the link", "granularity": "the size of KV heads"}[change.subject]
    return f"{words} of {change.device}" if change.device else words
