"""Model, profile and request in, the fastest split out, as a checked `Plan` with bound, baselines and reasons.

Knows the order of the work and which candidate ships. Knows neither the CP-SAT model (`split_model`) nor prices.
"""

from __future__ import annotations

import time

import msgspec

from .. import __version__
from ..hwprofiles.profile import HardwareProfile
from .baselines import baseline_splits, price_baselines, proportional_split, split_bytes
from .check import check
from .curves import StageCosts
from .infeasible import fitting_split, refusal
from .memory import device_caps, fits
from .model_spec import ModelSpec
from .plan import SCHEMA_VERSION, DeviceUse, Plan, Split, size
from .price import Pricer
from .reasons import reasons
from .request import Request
from .search import NEAR_ENOUGH, Found, fastest_split
from .wishes import check_request, completed, given_by_hand, obeys, pricer_of

Candidate = tuple[float, str, Split]  # objective in seconds, where it comes from ("" for the solver), the split


def solve(model: ModelSpec, model_path: str, profile: HardwareProfile, request: Request) -> Plan:
    """The fastest split of `model` on the devices of `profile`: prefill plus all new tokens, within memory.

    Raises ValueError for a request that makes no sense, Infeasible where nothing fits, Undecided where the time was
    too short to tell.
    """
    began = time.perf_counter()
    request = completed(request, model, profile)
    check_request(request, model, profile)
    pricer = pricer_of(request, model, profile)
    caps = device_caps(profile, request.caps)
    table, priced = price_baselines(pricer, baseline_splits(pricer, caps), caps)
    ready = [(seconds, name, split) for seconds, name, split in priced if obeys(split, request, model)]
    ready += _by_hand(pricer, request, caps)
    if not ready:
        split = fitting_split(pricer, request, caps, request.time_limit_s)
        if split is None:
            raise refusal(pricer, request)
        ready = [(pricer.split_s(split), "the only one found that fits", split)]
    start_s, _, start = min(ready, key=lambda r: r[0])
    found = fastest_split(pricer, request, caps, start, start_s)
    fitting = [s for s in found.splits if fits(split_bytes(pricer, s), profile, caps)] if found else []
    plan = _plan(pricer, request, caps, _ship(pricer, fitting, ready), found, str(model_path))
    plan = msgspec.structs.replace(plan, baselines=table, solve_s=time.perf_counter() - began)
    check(plan, model, profile)
    return plan


def _by_hand(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> list[tuple[float, str, Split]]:
    """Proportional splits that keep what the request fixes, those that fit."""
    units = StageCosts(pricer).columns
    columns = request.mlp_split and tuple(-(-share // units.unit) for share in request.mlp_split)
    attention = request.attention_strategy or "row", request.attention_split
    mlp = request.mlp_strategy or "row", columns
    speeds = [d.read_bytes_per_s for d in pricer.profile.devices]
    splits = [proportional_split(pricer, weights, attention, mlp) for weights in (speeds, caps)]
    fitting = [s for s in splits if fits(split_bytes(pricer, s), pricer.profile, caps)]
    return [(pricer.split_s(s), "proportional to bandwidth or memory", s) for s in fitting]


def _ship(pricer: Pricer, found: list[Split], ready: list[Candidate]) -> Candidate:
    """The solver's preferred split, unless the layer graph prices another candidate better than its fastest."""
    best = min(ready, key=lambda r: r[0])
    if not found:
        return best
    preferred, *others = [(pricer.split_s(split), "", split) for split in found]
    limit_s = min([best[0], *(seconds * (1 + NEAR_ENOUGH) for seconds, _, _ in others)])
    return preferred if preferred[0] <= limit_s else min([*others, best, preferred], key=lambda r: r[0])


def _plan(
    pricer: Pricer, request: Request, caps: tuple[int, ...], shipped: Candidate, found: Found | None, model_path: str
) -> Plan:
    """The plan without baselines and solve time."""
    objective_s, source, split = shipped
    bound_s = min(found.bound_s, objective_s) if found else 0.0
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
        status="optimal" if found and found.proven else "feasible",
        objective_s=objective_s,
        bound_s=bound_s,
        gap=(objective_s - bound_s) / objective_s,
        space=_space(found, request),
        solve_s=0.0,
        predicted=pricer.predict(split),
        baselines={},
        device_use=_device_use(pricer, split, caps),
        reasons=tuple(reasons(pricer, split, _source(source, found, request), caps)),
    )


def _space(found: Found | None, request: Request) -> str:
    """What the proof covers."""
    if found is None:
        return "no proof: the solver found no split of its own in the time it had"
    return (
        f"{_by_hand_words(request, 'the proof covers the rest: ')}every device set, share, and row or column strategy "
        "of every block, layers of equal window cut alike; "
        f"costs fitted within {100 * found.error:.2f} %; plans within {100 * NEAR_ENOUGH:g} % count as equal, "
        "then fewer devices and exchanges win"
    )


def _source(source: str, found: Found | None, request: Request) -> str:
    by_hand = _by_hand_words(request, "for the rest ")
    if not source:
        proof = "proven fastest of its space" if found and found.proven else "the fastest found in the time given"
        return f"{by_hand}the split is the solver's, {proof}"
    why = "the layer graph prices it below the solver's own" if found else "the solver found none of its own"
    return f"{by_hand}the split is {source.replace('_', ' ')}: {why}"


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
