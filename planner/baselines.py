"""Splits that need no solver, as other tools make them, priced and checked like the plan.

Knows six rules of thumb. Knows nothing of optimality.
"""

from __future__ import annotations

from collections.abc import Sequence

from .memory import DeviceBytes, device_bytes, fits
from .plan import HIDDEN_UNIT, VOCAB_UNIT, Baseline, BlockPlan, LayerPlan, Range, Split, Strategy, size
from .price import Pricer
from .units import Units, proportional
from .weight_formats import mlp_unit


def baseline_splits(pricer: Pricer, caps: tuple[int, ...]) -> dict[str, list[Split]]:
    """Candidates by rule; of several (which device alone, where tied embeddings go) the best that fits counts."""
    devices, model = pricer.profile.devices, pricer.model
    speeds = [d.read_bytes_per_s for d in devices]
    alone = [_one_hot(len(devices), d) for d in range(len(devices))]
    return {
        "single_device": [proportional_split(pricer, weights) for weights in alone],
        "layer_split_by_speed": _layer_splits(model.layers, model.tied_embeddings, pricer, speeds),
        "layer_split_by_memory": _layer_splits(model.layers, model.tied_embeddings, pricer, caps),
        "even": [proportional_split(pricer, [1] * len(devices))],
        "memory_proportional": [proportional_split(pricer, caps)],
        "bandwidth_proportional": [proportional_split(pricer, speeds)],
    }


def price_baselines(
    pricer: Pricer, splits: dict[str, list[Split]], caps: tuple[int, ...]
) -> tuple[dict[str, Baseline], list[Split]]:
    """The table for the plan, and every candidate that fits."""
    table: dict[str, Baseline] = {}
    found: list[Split] = []
    for name, candidates in splits.items():
        fitting = [s for s in candidates if fits(split_bytes(pricer, s), pricer.profile, caps)]
        priced = [(pricer.predict(s), s) for s in fitting]
        found += fitting
        best = min((p for p, _ in priced), key=pricer.objective_s, default=None)
        if best is None:
            table[name] = Baseline(False, None, None)
        else:
            table[name] = Baseline(True, pricer.objective_s(best), best.decode_tokens_per_s)
    return table, found


def split_bytes(pricer: Pricer, split: Split) -> tuple[DeviceBytes, ...]:
    """What each device of the split holds, at the pricer's workload."""
    return device_bytes(pricer.model, split, pricer.workload, pricer.dtype, pricer.cache_dtype)


def proportional_split(
    pricer: Pricer,
    weights: Sequence[float],
    attention: tuple[Strategy, tuple[int, ...] | None] = ("row", None),
    mlp: tuple[Strategy, tuple[int, ...] | None] = ("row", None),
) -> Split:
    """Every block shared in proportion to `weights`, all layers alike; strategy and units of a block may be given."""
    m = pricer.model
    heads, columns, vocabulary = (
        Units(m.heads, m.group),
        Units(m.mlp, mlp_unit(m, pricer.dtype)),
        Units(m.vocab, VOCAB_UNIT),
    )
    layer = LayerPlan(_block(m.hidden, heads, weights, *attention), _block(m.hidden, columns, weights, *mlp))
    table = vocabulary.spans(proportional(vocabulary.count, weights))
    return Split(table, (layer,) * m.layers, table)


def _block(
    hidden: int, units: Units, weights: Sequence[float], strategy: Strategy, given: tuple[int, ...] | None
) -> BlockPlan:
    spans = units.spans(given or proportional(units.count, weights))
    if strategy == "row":
        return BlockPlan("row", spans)
    outputs = Units(hidden, HIDDEN_UNIT)
    return BlockPlan("column", spans, outputs.spans(proportional(outputs.count, [size(s) for s in spans])))


def _layer_splits(layers: int, tied: bool, pricer: Pricer, weights: Sequence[float]) -> list[Split]:
    """Contiguous layers a device; embedding on the first and head on the last one, both on one where they are tied."""
    m, counts = pricer.model, proportional(layers, weights)
    owners = [d for d, count in enumerate(counts) for _ in range(count)]
    plans = [
        LayerPlan(BlockPlan("row", _whole(m.heads, len(counts), d)), BlockPlan("row", _whole(m.mlp, len(counts), d)))
        for d in range(len(counts))
    ]
    stack = tuple(plans[d] for d in owners)
    first, last = (_whole(m.vocab, len(counts), d) for d in (owners[0], owners[-1]))
    ends = [(first, first), (last, last)] if tied else [(first, last)]
    return [Split(embedding, stack, head) for embedding, head in ends]


def _whole(total: int, devices: int, owner: int) -> tuple[Range, ...]:
    return Units(total, total).spans(tuple(_one_hot(devices, owner)))


def _one_hot(devices: int, d: int) -> list[int]:
    return [int(i == d) for i in range(devices)]
