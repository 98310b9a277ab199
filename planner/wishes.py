"""Whether a request makes sense for a model and a profile, and whether a split obeys it.

Knows splits and strategies given by hand. Knows nothing of which are good.
"""

from __future__ import annotations

import math

import msgspec

from ..hwprofiles.profile import HardwareProfile
from ..hwprofiles.storage import FIX, check_profile
from .config_fields import checked
from .model_spec import ModelSpec
from .plan import GPU_PREFILL_CHUNK, BlockPlan, Dtype, Split, Workload, distinct_layers, size
from .price import Pricer
from .request import Request
from .weight_formats import ROLES, check_dtype, held_as, mlp_unit, native_dtype

MAX_CACHED = 1 << 44  # keys, and as many values: more than fits any machine, and bytes the solver can still count


def completed(request: Request, model: ModelSpec, profile: HardwareProfile) -> Request:
    """`request` with the number formats that it leaves open."""
    gpus = any(device.kind == "cuda" for device in profile.devices)
    dtype = request.dtype or native_dtype(model, gpus)
    short = gpus and dtype != "float32"
    cache_dtype = request.cache_dtype or ("bfloat16" if short else "float32")
    workload = request.workload
    if gpus:
        workload = msgspec.structs.replace(workload, prefill_chunk=GPU_PREFILL_CHUNK)
    return msgspec.structs.replace(request, dtype=dtype, cache_dtype=cache_dtype, workload=workload)


def pricer_of(request: Request, model: ModelSpec, profile: HardwareProfile) -> Pricer:
    """Prices splits as a completed request has it."""
    assert request.dtype
    assert request.cache_dtype
    return Pricer(model, profile, request.dtype, request.workload, request.cache_dtype)


def check_request(request: Request, model: ModelSpec, profile: HardwareProfile) -> None:
    """ValueError, one line with the reason, for a request that no plan could honour, or a profile that cannot be."""
    try:
        check_profile(profile)
    except ValueError as error:
        raise ValueError(f"cannot use the profile: {error}; {FIX}") from error
    checked(model)
    if not 0 < request.time_limit_s < math.inf:
        raise ValueError(f"the time limit must be a positive number, not {request.time_limit_s:g} s")
    _check_work(request.workload, model)
    check_wishes(request, model, profile)


def check_wishes(request: Request, model: ModelSpec, profile: HardwareProfile) -> None:
    """ValueError where caps, splits by hand or number formats do not suit the model and the devices."""
    assert request.dtype
    for name, cap in request.caps.items():
        profile.device(name)
        if cap < 0:
            raise ValueError(f"the cap of {name} must not be negative")
    check_dtype(model, request.dtype)
    _check_measured(model, request.dtype, profile)
    _check_shares("attention", "KV heads", request.attention_split, model.kv_heads, 1, profile, model.heads)
    _check_shares("mlp", "MLP columns", request.mlp_split, model.mlp, mlp_unit(model, request.dtype), profile)


def _check_work(w: Workload, model: ModelSpec) -> None:
    for name in ("prompt_tokens", "new_tokens", "batch", "context"):
        if getattr(w, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(w, name)}")
    if w.prompt_tokens + w.new_tokens > w.context:
        raise ValueError(
            f"{w.prompt_tokens} prompt and {w.new_tokens} new tokens exceed the context of {w.context}: raise --context"
        )
    if w.context > model.context:
        raise ValueError(
            f"context {w.context} exceeds the {model.context} positions this model was made for: lower --context"
        )
    if w.batch * w.context * model.layers * model.kv_heads * model.head_dim > MAX_CACHED:
        raise ValueError(
            f"the KV cache of {w.batch} sequences of {w.context} tokens is absurd: lower --batch or --context"
        )


def _check_measured(model: ModelSpec, dtype: Dtype, profile: HardwareProfile) -> None:
    """ValueError where a device has matrix products in other formats only."""
    needed = {held_as(model, dtype, role).form for role in ROLES}
    for device in profile.devices:
        formats = dict.fromkeys(p.format for p in device.ops if p.op == "linear")
        missing = sorted(needed - set(formats)) if formats else []
        if missing:
            raise ValueError(
                f"the profile has no {missing[0]} figures for {device.name}: "
                f"choose --dtype {' or '.join(formats)}, or {FIX}"
            )


def _check_shares(
    block: str,
    what: str,
    shares: tuple[int, ...] | None,
    total: int,
    unit: int,
    profile: HardwareProfile,
    queries: int = 0,
) -> None:
    if shares is None:
        return
    option, devices = f"--{block}-split", len(profile.devices)
    if len(shares) != devices:
        raise ValueError(f"{option} has {len(shares)} shares for {devices} devices; give one for each, 0 for none")
    if min(shares) < 0:
        raise ValueError(f"{option} has a negative share")
    if sum(shares) != total:
        finer = "; shares by hand are whole KV heads, not query heads" if sum(shares) == queries else ""
        raise ValueError(f"{option} sums to {sum(shares)}, the model has {total} {what}{finer}")
    ends = [sum(shares[: d + 1]) for d in range(devices)]
    if any(end % unit for end in ends if end != total):
        raise ValueError(f"{option} must be in multiples of {unit} {what}; only the last share may hold a remainder")


def given_by_hand(request: Request) -> dict[str, str]:
    """The splits and strategies that are not the solver's to choose, by name, in words: `attention split 3:0`."""
    names = ("attention_split", "attention_strategy", "mlp_split", "mlp_strategy")
    given = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
    return {
        name: f"{name.replace('_', ' ')} {value if isinstance(value, str) else ':'.join(map(str, value))}"
        for name, value in given.items()
    }


def obeys(split: Split, request: Request, model: ModelSpec) -> bool:
    """Whether every layer has the shares and strategies that were given by hand."""
    return all(
        _block_obeys(layer.attention, request.attention_split, request.attention_strategy, model.group)
        and _block_obeys(layer.mlp, request.mlp_split, request.mlp_strategy, 1)
        for layer in distinct_layers(split)
    )


def _block_obeys(block: BlockPlan, shares: tuple[int, ...] | None, strategy: str | None, values: int) -> bool:
    """`values`: query heads or MLP columns in a share of 1."""
    wanted = shares and tuple(share * values for share in shares)
    return strategy in (None, block.strategy) and wanted in (None, tuple(map(size, block.units)))
