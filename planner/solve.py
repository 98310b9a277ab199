"""Model, profile and request in, the fastest split out, as a checked `Plan` with bound, baselines and reasons.

Knows the order of the work and which candidate ships. Knows neither the CP-SAT model (`split_model`) nor prices.
"""

from __future__ import annotations

import time
from math import ceil

import msgspec

from .. import __version__
from ..hwprofiles.profile import HardwareProfile
from .baselines import baseline_splits, price_baselines, split_bytes
from .check import check
from .choice import Choice, choose
from .descent import NEAR_ENOUGH
from .memory import device_caps
from .model_spec import ModelSpec
from .plan import SCHEMA_VERSION, DeviceUse, Plan, Split, size
from .price import Pricer
from .reasons import reasons
from .request import Request
from .wishes import check_request, completed, given_by_hand, pricer_of

GAP_STEPS = 1000  # a gap is told in whole steps, rounded up
OPTIMAL_GAP = 0.02  # larger ones are of exchanges that the solver prices too low, and prove nothing worth the name


def solve(model: ModelSpec, model_path: str, profile: HardwareProfile, request: Request) -> Plan:
    """The fastest split of `model` on the devices of `profile`: prefill plus all new tokens, within memory.

    Raises ValueError for a request that makes no sense, Infeasible where nothing fits, Undecided where the time was
    too short to tell.
    """
    began = time.perf_counter()
    request = completed(request, model, profile)
    check_request(request, model, profile)
    pricer, caps = pricer_of(request, model, profile), device_caps(profile, request.caps)
    table, baselines = price_baselines(pricer, baseline_splits(pricer, caps), caps)
    choice = choose(pricer, request, caps, baselines, began + request.time_limit_s)
    plan = _plan(pricer, request, caps, choice, str(model_path))
    plan = msgspec.structs.replace(plan, baselines=table, solve_s=time.perf_counter() - began)
    check(plan, model, profile)
    return plan


def _plan(pricer: Pricer, request: Request, caps: tuple[int, ...], choice: Choice, model_path: str) -> Plan:
    """The plan without baselines and solve time."""
    split, predicted = choice.split, pricer.predict(choice.split)
    objective_s = pricer.objective_s(predicted)
    gap = ceil(GAP_STEPS * max(0.0, 1 - choice.found.bound_s / objective_s)) / GAP_STEPS
    return Plan(
        schema_version=SCHEMA_VERSION,
        tpplan_version=__version__,
        model=model_path,
        model_fingerprint=pricer.model.fingerprint,
        profile_fingerprint=pricer.profile.fingerprint,
        devices=tuple(d.name for d in pricer.profile.devices),
        dtype=pricer.dtype,
        cache_dtype=pricer.cache_dtype,
        workload=request.workload,
        embedding=split.embedding,
        layers=split.layers,
        head=split.head,
        status="optimal" if gap <= OPTIMAL_GAP and not choice.mixed else "feasible",
        objective_s=objective_s,
        bound_s=objective_s * (1 - gap),
        gap=gap,
        space=_space(choice, request),
        solve_s=0.0,
        predicted=predicted,
        baselines={},
        device_use=_device_use(pricer, split, caps),
        reasons=tuple(reasons(pricer, split, _source(choice, request), caps)),
    )


def _space(choice: Choice, request: Request) -> str:
    """What the proof covers."""
    found = choice.found
    if not found.proven and not found.bound_s:
        return "no proof: the solver found no bound in the time it had"
    memory = "memory taken for unlimited, " if choice.mixed else ""
    return (
        f"{_by_hand_words(request, 'the proof covers the rest: ')}every device set, share, way of summing, and row or "
        f"column strategy of every block, {memory}layers of equal window cut alike; {_how(choice)}; "
        f"plans within {100 * NEAR_ENOUGH:g} % count as equal, then fewer devices and exchanges win"
    )


def _how(choice: Choice) -> str:
    """What found the bound."""
    found = choice.found
    if found.sets:
        return f"the bound is the least over {found.sets} device sets for each block, by linear programs"
    return f"the bound is CP-SAT's, of costs fitted within {100 * found.error:.2f} %"


def _source(choice: Choice, request: Request) -> str:
    by_hand = _by_hand_words(request, "for the rest ")
    return f"{by_hand}{choice.source}"


def _by_hand_words(request: Request, rest: str) -> str:
    given = given_by_hand(request)
    return f"{', '.join(given.values())} as given by hand; {rest}" if given else ""


def _kv_heads(queries: int, model: ModelSpec) -> int | float:
    """Query heads as KV heads; a fraction where one is shared."""
    return queries // model.group if queries % model.group == 0 else round(queries / model.group, 3)


def _device_use(pricer: Pricer, split: Split, caps: tuple[int, ...]) -> tuple[DeviceUse, ...]:
    uses = []
    for d, (device, needed) in enumerate(zip(pricer.profile.devices, split_bytes(pricer, split))):
        uses.append(
            DeviceUse(
                name=device.name,
                attention_units=_kv_heads(sum(size(layer.attention.units[d]) for layer in split.layers), pricer.model),
                mlp_units=sum(size(layer.mlp.units[d]) for layer in split.layers),
                head_units=size(split.head[d]),
                bytes=needed.total,
                cap_bytes=caps[d],
                weight_bytes=needed.weights,
                cache_bytes=needed.cache,
                workspace_bytes=needed.workspace,
            )
        )
    return tuple(uses)
