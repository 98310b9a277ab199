"""What `explain` asks: cases to solve that differ from the user's in one way.

Knows how each change is made. Knows nothing of the answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec

from ..hwprofiles.profile import HardwareProfile
from .changes import with_copy, with_link_rate, with_memory, without_memory_limits
from .explanation import Subject
from .model_spec import ModelSpec
from .plan import Phase, Plan, members
from .request import Request

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


def for_one_phase(case: Case, phase: Phase) -> Case:
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


def unlimited_question(case: Case, plan: Plan) -> Question:
    """Whether memory costs time at all."""
    enough = 2 * sum(use.bytes for use in plan.device_use)
    machine = without_memory_limits(case.profile, case.request, enough)
    return Question("memory", "no memory limits at all", "", Case(case.model, *machine))


def memory_questions(case: Case, plan: Plan) -> Iterator[Question]:
    """A GiB more on the two devices with least room left."""
    for use in sorted(plan.device_use, key=lambda u: u.cap_bytes - u.bytes)[:2]:
        grown = with_memory(case.profile, case.request, use.name, GIB)
        yield Question("memory", f"1 GiB more on {use.name}", use.name, Case(case.model, *grown))


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
        yield Question("granularity", "KV heads half the size", "", replace(case, model=finer))


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
