"""Every split of a small model whose layers are alike, and the best of them: what the solver is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import msgspec

from tpplan.planner.baselines import split_bytes
from tpplan.planner.memory import fits
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import HIDDEN_UNIT, VOCAB_UNIT, BlockPlan, LayerPlan, Phase, Range, Split, members
from tpplan.planner.price import Pricer
from tpplan.planner.sums import SumWays
from tpplan.planner.units import Units
from tpplan.planner.weight_formats import mlp_unit

Spans = tuple[Range, ...]


def shares(units: int, devices: int, allowed: tuple[int, ...] | None = None) -> Iterator[tuple[int, ...]]:
    """All ways to give `units` to devices, of which only those allowed may hold some."""
    for counts in product(range(units + 1), repeat=devices - 1):
        last = units - sum(counts)
        full = (*counts, last)
        if last >= 0 and (allowed is None or all(d in allowed for d, c in enumerate(full) if c)):
            yield full


def every_block(total: int, unit: int, hidden: int, devices: int) -> Iterator[BlockPlan]:
    """All ways to cut one block; a row block is summed by every consumer."""
    units, outputs = Units(total, unit), Units(hidden, HIDDEN_UNIT)
    for counts in shares(units.count, devices):
        spans = units.spans(counts)
        yield BlockPlan("row", spans)
        for outs in shares(outputs.count, devices, members(spans)) if len(members(spans)) > 1 else ():
            yield BlockPlan("column", spans, outputs.spans(outs))


def every_layer(pricer: Pricer, heads: int) -> Iterator[LayerPlan]:
    """All ways to cut one layer; attention in units of `heads` query heads."""
    model, devices = pricer.model, len(pricer.profile.devices)
    attention = every_block(model.heads, heads, model.hidden, devices)
    mlp = list(every_block(model.mlp, mlp_unit(model, pricer.dtype), model.hidden, devices))
    return (LayerPlan(*blocks) for blocks in product(attention, mlp))


def every_tables(model: ModelSpec, devices: int) -> list[tuple[Spans, Spans]]:
    """All ways to hold embedding and head."""
    units = Units(model.vocab, VOCAB_UNIT)
    tables = [units.spans(counts) for counts in shares(units.count, devices)]
    return [(t, t) for t in tables] if model.tied_embeddings else list(product(tables, tables))


def every_split(pricer: Pricer, heads: int) -> Iterator[Split]:
    """All splits with equal layers, row blocks summed by every consumer."""
    tables = every_tables(pricer.model, len(pricer.profile.devices))
    for layer, (embedding, head) in product(every_layer(pricer, heads), tables):
        yield Split(embedding, (layer,) * pricer.model.layers, head)


def best_split(pricer: Pricer, caps: tuple[int, ...], heads: int) -> tuple[float, Split]:
    """Price and split of the fastest that fits, every way of summing included; infinity and no split without one."""
    best: tuple[float, Split | None] = (float("inf"), None)
    for split in every_split(pricer, heads):
        for seconds, summed in _summed(pricer, split):
            if seconds >= best[0]:
                break
            if fits(split_bytes(pricer, summed), pricer.profile, caps):
                best = seconds, summed
                break
    return best


def _summed(pricer: Pricer, split: Split) -> list[tuple[float, Split]]:
    """The split with every way of summing its two blocks in either phase, the fastest first."""
    work, layer = pricer.workload, split.layers[0]
    ways = [_ways(pricer, block) for block in (layer.attention, layer.mlp)]
    decode = _by_price(pricer, split, "decode", ways)
    prefill = _by_price(pricer, split, "prefill", ways)
    both = [
        (work.new_tokens * one + work.batch * two, _with_sums(_with_sums(split, "decode", a), "prefill", b))
        for (one, a), (two, b) in product(decode, prefill)
    ]
    return sorted(both, key=lambda each: each[0])


def _by_price(pricer: Pricer, split: Split, phase: Phase, ways: list[list[Spans]]) -> list[tuple[float, list[Spans]]]:
    options = [list(sums) for sums in product(*ways)]
    return [(pricer.phase_s(_with_sums(split, phase, sums), phase), sums) for sums in options]


def _ways(pricer: Pricer, block: BlockPlan) -> list[Spans]:
    holders = members(block.units)
    return [(), *SumWays(pricer).ways(holders)] if block.strategy == "row" and len(holders) > 1 else [()]


def _with_sums(split: Split, phase: Phase, sums: list[Spans]) -> Split:
    layer = split.layers[0]
    blocks = [
        msgspec.structs.replace(block, **{f"{phase}_sums": spans})
        for block, spans in zip((layer.attention, layer.mlp), sums)
    ]
    return msgspec.structs.replace(split, layers=(LayerPlan(*blocks),) * len(split.layers))
