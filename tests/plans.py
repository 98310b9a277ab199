"""Plans written by hand, for tests that run splits no solver would choose."""

from __future__ import annotations

from collections.abc import Sequence

from tpplan import __version__
from tpplan.planner.memory import device_bytes
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import (
    SCHEMA_VERSION,
    BlockPlan,
    DeviceUse,
    LayerPlan,
    Plan,
    Predicted,
    Range,
    Split,
    Workload,
    size,
)


def ranges(sizes: Sequence[int]) -> tuple[Range, ...]:
    """Consecutive ranges of the given sizes."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple((end - size, end) for end, size in zip(ends, sizes, strict=True))


def block(strategy: str, sizes: Sequence[int], outputs: Sequence[int]) -> BlockPlan:
    """A block; `outputs` (hidden columns) count under the column strategy only."""
    return BlockPlan(strategy, ranges(sizes), ranges(outputs) if strategy == "column" else ())  # type: ignore[arg-type]


def outputs_like(sizes: Sequence[int], hidden: int) -> list[int]:
    """Hidden columns shared out, in units of 32, like `sizes`."""
    units, total = hidden // 32, sum(sizes)
    ends = [round(units * sum(sizes[: i + 1]) / total) * 32 for i in range(len(sizes))]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def plan_by_hand(
    model: ModelSpec,
    devices: Sequence[str],
    kv_heads: Sequence[int],
    mlp: Sequence[int],
    vocab: Sequence[int],
    attention: str = "row",
    mlp_strategy: str = "row",
    dtype: str = "float32",
    context: int = 256,
    embedding: Sequence[int] | None = None,
    chunk: int = 256,
) -> Plan:
    """The same split in every layer; column outputs follow the units."""
    layer = LayerPlan(
        block(attention, [heads * model.group for heads in kv_heads], outputs_like(kv_heads, model.hidden)),
        block(mlp_strategy, mlp, outputs_like(mlp, model.hidden)),
    )
    split = Split(ranges(vocab if embedding is None else embedding), (layer,) * model.layers, ranges(vocab))
    return plan_of(model, devices, split, dtype, context=context, chunk=chunk)


def plan_of(
    model: ModelSpec,
    devices: Sequence[str],
    split: Split,
    dtype: str = "float32",
    cache_dtype: str = "float32",
    context: int = 256,
    chunk: int = 256,
) -> Plan:
    """A plan of any split, which promises nothing but its memory."""
    workload = Workload(context=context, prefill_chunk=chunk)
    held = device_bytes(model, split, workload, dtype, cache_dtype)  # type: ignore[arg-type]
    return Plan(
        schema_version=SCHEMA_VERSION,
        tpplan_version=__version__,
        model="by hand",
        model_fingerprint=model.fingerprint,
        profile_fingerprint="",
        devices=tuple(devices),
        dtype=dtype,  # type: ignore[arg-type]
        cache_dtype=cache_dtype,  # type: ignore[arg-type]
        workload=workload,
        embedding=split.embedding,
        layers=split.layers,
        head=split.head,
        status="by hand",
        objective_s=0.0,
        bound_s=0.0,
        gap=0.0,
        space="",
        solve_s=0.0,
        predicted=Predicted(0.0, 0.0, 0.0),
        baselines={},
        device_use=tuple(
            DeviceUse(
                name=name,
                attention_units=_kv_heads(sum(size(layer.attention.units[d]) for layer in split.layers), model),
                mlp_units=sum(size(layer.mlp.units[d]) for layer in split.layers),
                head_units=size(split.head[d]),
                bytes=held[d].total,
                cap_bytes=held[d].total,
                weight_bytes=held[d].weights,
                cache_bytes=held[d].cache,
                workspace_bytes=held[d].workspace,
            )
            for d, name in enumerate(devices)
        ),
        reasons=(),
    )


def _kv_heads(queries: int, model: ModelSpec) -> int | float:
    return queries / model.group if queries % model.group else queries // model.group
