"""Random splits of a model, every layer its own: shares, strategies, ways of summing, layers on one device."""

from __future__ import annotations

from random import Random

from plans import outputs_like, ranges

from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import HIDDEN_UNIT, MLP_UNIT, VOCAB_UNIT, BlockPlan, LayerPlan, Range, Split, size


def random_split(model: ModelSpec, devices: int, seed: int, unit: int = MLP_UNIT) -> Split:
    """Any split that `check` accepts; about a third of the blocks is on one device. `unit`: of MLP columns."""
    rng = Random(seed)
    layers = tuple(
        LayerPlan(_block(rng, model, devices, model.heads, 1), _block(rng, model, devices, model.mlp, unit))
        for _ in range(model.layers)
    )
    head = ranges(shares(rng, devices, model.vocab, VOCAB_UNIT))
    embedding = head if model.tied_embeddings else ranges(shares(rng, devices, model.vocab, VOCAB_UNIT))
    return Split(embedding, layers, head)


def shares(rng: Random, devices: int, total: int, unit: int, alone: float = 0.3) -> list[int]:
    """Sizes in multiples of `unit`, the last of them with the remainder; some may be 0."""
    if rng.random() < alone:
        owner = rng.randrange(devices)
        return [total * (d == owner) for d in range(devices)]
    units = total // unit
    cuts = sorted(rng.randint(0, units) * unit for _ in range(devices - 1))
    ends = [*cuts, total]
    return [end - begin for begin, end in zip([0, *cuts], ends, strict=True)]


def _block(rng: Random, model: ModelSpec, devices: int, total: int, unit: int) -> BlockPlan:
    units = shares(rng, devices, total, unit)
    if rng.random() < 0.3:
        outputs = outputs_like(units, model.hidden)
        return BlockPlan("column", ranges(units), ranges(outputs))
    return BlockPlan("row", ranges(units), (), _sums(rng, model, devices), _sums(rng, model, devices))


def _sums(rng: Random, model: ModelSpec, devices: int) -> tuple[Range, ...]:
    """Nobody, one device or several, members or not."""
    return ranges(shares(rng, devices, model.hidden, HIDDEN_UNIT)) if rng.random() < 0.7 else ()


def describe(split: Split) -> str:
    """Sizes by device, a line a block: for the message of a failed test."""
    lines = [f"embedding {_sizes(split.embedding)} head {_sizes(split.head)}"]
    for i, layer in enumerate(split.layers):
        for name, b in (("attention", layer.attention), ("mlp", layer.mlp)):
            ways = [_sizes(spans) for spans in (b.units, b.outputs, b.decode_sums, b.prefill_sums)]
            lines.append(f"layer {i} {name} {b.strategy} units {ways[0]} outputs {ways[1]} sums {ways[2]} / {ways[3]}")
    return "\n".join(lines)


def _sizes(spans: tuple[Range, ...]) -> list[int]:
    return [size(span) for span in spans]
