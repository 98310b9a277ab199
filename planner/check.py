"""Verifies a plan on its own: coverage, granularity, memory, and the latency it promises.

Knows the rules that the executor relies on. Never imports the solver.
"""

from __future__ import annotations

from math import isclose, isfinite

from ..hwprofiles.profile import HardwareProfile
from .layer_graph import layer_graph, pass_steps
from .memory import device_bytes, host_cap
from .model_spec import ModelSpec
from .plan import HIDDEN_UNIT, SCHEMA_VERSION, VOCAB_UNIT, BlockPlan, Plan, Range, devices_used, members
from .price import Pricer
from .steps import Step
from .weight_formats import mlp_unit

TOLERANCE = 1e-6


def check(plan: Plan, model: ModelSpec, profile: HardwareProfile | None = None) -> None:
    """Raises ValueError, one line saying what is wrong, unless `plan` is a sound plan of `model` (on `profile`)."""
    _check_header(plan, model)
    _check_vocabulary(plan, model)
    unit = mlp_unit(model, plan.dtype)
    for i, layer in enumerate(plan.layers):
        _check_block(f"layer {i} attention", layer.attention, len(plan.devices), model.heads, 1, model.hidden)
        _check_block(f"layer {i} mlp", layer.mlp, len(plan.devices), model.mlp, unit, model.hidden)
    _check_memory(plan, model)
    if profile is not None:
        _check_profile(plan, profile)
        _check_latency(plan, model, profile)


def _check_header(plan: Plan, model: ModelSpec) -> None:
    if plan.schema_version != SCHEMA_VERSION:
        raise ValueError(f"the plan has schema version {plan.schema_version}, not {SCHEMA_VERSION}: solve again")
    if plan.model_fingerprint != model.fingerprint:
        raise ValueError(f"the plan is for another model ({plan.model}): solve again for this one")
    if not plan.devices or len(set(plan.devices)) != len(plan.devices):
        raise ValueError("the plan's devices are missing or repeated: solve again")
    if len(plan.layers) != model.layers:
        raise ValueError(f"the plan has {len(plan.layers)} layers, the model {model.layers}: solve again")
    w = plan.workload
    if min(w.prompt_tokens, w.new_tokens, w.batch, w.context) < 1:
        raise ValueError("the plan's workload must count at least one token, sequence and position: solve again")


def _check_vocabulary(plan: Plan, model: ModelSpec) -> None:
    for name, spans in (("embedding", plan.embedding), ("head", plan.head)):
        _check_spans(name, spans, len(plan.devices), model.vocab, VOCAB_UNIT)
    if model.tied_embeddings and plan.embedding != plan.head:
        raise ValueError("embedding and head are tied in this model, but the plan cuts them differently: solve again")


def _check_block(where: str, block: BlockPlan, devices: int, total: int, unit: int, hidden: int) -> None:
    _check_spans(where, block.units, devices, total, unit)
    if block.strategy == "row":
        if block.outputs:
            raise ValueError(f"{where}: a row block has no outputs of its own: solve again")
        for sums in (block.decode_sums, block.prefill_sums):
            if sums:
                _check_spans(f"{where} sums", sums, devices, hidden, HIDDEN_UNIT)
        return
    if block.decode_sums or block.prefill_sums:
        raise ValueError(f"{where}: a column block has nothing to sum: solve again")
    _check_spans(f"{where} outputs", block.outputs, devices, hidden, HIDDEN_UNIT)
    if not set(members(block.outputs)) <= set(members(block.units)):
        raise ValueError(f"{where}: a device without units has outputs: solve again")


def _check_spans(where: str, spans: tuple[Range, ...], devices: int, total: int, unit: int) -> None:
    """Contiguous in device order from 0 to `total`, cut at multiples of `unit` only."""
    if len(spans) != devices:
        raise ValueError(f"{where}: {len(spans)} ranges for {devices} devices: solve again")
    at = 0
    for d, (begin, end) in enumerate(spans):
        if begin != at or end < begin:
            raise ValueError(f"{where}: range [{begin}, {end}) of device {d} does not follow on {at}: solve again")
        if end != total and end % unit:
            raise ValueError(f"{where}: device {d} ends at {end}, not a multiple of {unit}: solve again")
        at = end
    if at != total:
        raise ValueError(f"{where}: the ranges end at {at}, not at {total}: solve again")


def _check_memory(plan: Plan, model: ModelSpec) -> None:
    if tuple(use.name for use in plan.device_use) != plan.devices:
        raise ValueError("the plan's device_use does not list its devices in order: solve again")
    needed_bytes = device_bytes(model, plan.split, plan.workload, plan.dtype, plan.cache_dtype)
    for use, needed in zip(plan.device_use, needed_bytes):
        if use.bytes != needed.total:
            raise ValueError(f"{use.name} needs {needed.total} bytes, the plan says {use.bytes}: solve again")
        if needed.total > use.cap_bytes:
            raise ValueError(f"{use.name} needs {needed.total} bytes, its cap is {use.cap_bytes}: solve again")


def _check_profile(plan: Plan, profile: HardwareProfile) -> None:
    if plan.profile_fingerprint != profile.fingerprint:
        raise ValueError("the plan was made with another profile: solve again")
    for name, device in zip(plan.devices, profile.devices):
        if profile.device(name) is not device:
            raise ValueError(f"the plan has {name!r} where the profile has {device.name!r}: solve again")
    if len(plan.devices) != len(profile.devices):
        raise ValueError(f"the plan has {len(plan.devices)} devices, the profile {len(profile.devices)}: solve again")
    on_host = sum(use.bytes for use, d in zip(plan.device_use, profile.devices) if d.kind == "cpu")
    if on_host > host_cap(profile):
        raise ValueError(f"CPU devices need {on_host} bytes together, the host has {host_cap(profile)}: solve again")
    for use, device in zip(plan.device_use, profile.devices):
        if use.cap_bytes > device.free_bytes:
            raise ValueError(f"{use.name}: a cap above its {device.free_bytes} free bytes: solve again")


def _check_latency(plan: Plan, model: ModelSpec, profile: HardwareProfile) -> None:
    """All figures by the pricer's stage sums; decode also by the whole graph's longest path, which knows no stages."""
    pricer = Pricer(model, profile, plan.dtype, plan.workload, plan.cache_dtype)
    predicted = pricer.predict(plan.split)
    pairs = [(getattr(predicted, name), getattr(plan.predicted, name)) for name in predicted.__struct_fields__]
    pairs += [(pricer.objective_s(predicted), plan.objective_s)]
    pairs += [(_decode_by_graph_s(plan, model, pricer), plan.predicted.decode_s_per_token)]
    for ours, theirs in pairs:
        if not isfinite(theirs) or not isclose(ours, theirs, rel_tol=TOLERANCE):
            raise ValueError(f"the plan promises {theirs:.6g} where the layer graph says {ours:.6g}: solve again")


def _decode_by_graph_s(plan: Plan, model: ModelSpec, pricer: Pricer) -> float:
    """Seconds of one decode pass: when the last step of the layer graph ends, plus the fixed cost of a pass."""
    batch = plan.workload.batch
    graph = layer_graph(pass_steps(model, plan.split, batch, pricer.decode_context, batch))
    ends_s: dict[Step, float] = {}
    for step in graph:  # steps were added in an order that they can run in
        begin_s = max((ends_s[before] for before in graph.predecessors(step)), default=0.0)
        ends_s[step] = begin_s + pricer.cost.step_s(step)
    return max(ends_s.values()) + max(pricer.profile.devices[d].step_overhead_s for d in devices_used(plan.split))
