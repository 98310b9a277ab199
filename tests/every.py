"""Every split of a small model whose layers are alike, and the best of them: what the solver is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import msgspec

from tpplan.planner.baselines import split_bytes
from tpplan.planner.memory import fits
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import HIDDEN_UNIT, VOCAB_UNIT, BlockPlan, LayerPlan, Range, Split, members
from tpplan.planner.price import Pricer
from tpplan.planner.sums import SumWays
from tpplan.planner.units import Units
from tpplan.planner.weight_formats import mlp_unit

Spans = tuple[Range, ...]


def shares(units: int, devices: int, allowed: tuple[int, ...] | None = None) -> Iterator[tuple[int, ...]]:
    """All ways to give `units` to devices, of which only those allowed may hold some."""
    for counts in product(range(units + 1), repeat=devices - 1):
        full = (*counts, units - sum(counts))
        if full[-1] >= 0 and (allowed is None or all(d in allowed for d, c in enumerate(full) if c)):
            yield full


def every_block(total: int, unit: int, hidden: int, devices: int) -> Iterator[BlockPlan]:
    """All ways to cut one block; a row block is summed by every consumer."""
    units, outputs = Units(total, unit), Units(hidden, HIDDEN_UNIT)
    for counts in shares(units.count, devices):
        spans = units.spans(counts)
        yield BlockPlan("row", spans)
        for outs in shares(outputs.count, devices, members(spans)) if len(members(spans)) > 1 else ():
            yield BlockPlan("column", spans, outputs.spans(outs))


def every_layer(pricer: Pricer, heads: int) -> list[LayerPlan]:
    """All ways to cut one layer; attention in units of `heads` query heads."""
    model, devices = pricer.model, len(pricer.profile.devices)
    attention = every_block(model.heads, heads, model.hidden, devices)
    mlp = every_block(model.mlp, mlp_unit(model, pricer.dtype), model.hidden, devices)
    return [LayerPlan(*blocks) for blocks in product(attention, mlp)]


def every_table(model: ModelSpec, devices: int) -> list[tuple[Spans, Spans]]:
    """All ways to hold embedding and head."""
    units = Units(model.vocab, VOCAB_UNIT)
    tables = [units.spans(counts) for counts in shares(units.count, devices)]
    return [(table, table) for table in tables] if model.tied_embeddings else list(product(tables, tables))


def every_split(pricer: Pricer, heads: int) -> Iterator[Split]:
    """All splits whose layers of one window are alike, row blocks summed by every consumer."""
    windows = list(dict.fromkeys(pricer.model.windows))
    layers, tables = every_layer(pricer, heads), every_table(pricer.model, len(pricer.profile.devices))
    for (*kinds,), (embedding, head) in product(product(layers, repeat=len(windows)), tables):
        yield Split(embedding, tuple(kinds[windows.index(w)] for w in pricer.model.windows), head)


def best_split(pricer: Pricer, caps: tuple[int, ...], heads: int) -> tuple[float, Split | None]:
    """Price and split of the fastest that fits, every way of summing included; infinity and None without one."""
    best: tuple[float, Split | None] = (float("inf"), None)
    for split in every_split(pricer, heads):
        for seconds, summed in priced(pricer, split):
            if seconds >= best[0]:
                break
            if fits(split_bytes(pricer, summed), pricer.profile, caps):
                best = seconds, summed
                break
    return best


def priced(pricer: Pricer, split: Split) -> Iterator[tuple[float, Split]]:
    """The split with every way of summing each of its blocks in either phase, the fastest first."""
    layers, work = dict.fromkeys(split.layers), pricer.workload
    blocks = list(dict.fromkeys(b for layer in layers for b in (layer.attention, layer.mlp) if _is_summed(b)))
    ways = product(*([(), *SumWays(pricer).ways(members(block.units))] for block in blocks))
    options = [dict(zip(blocks, way)) for way in ways]
    decode = [(pricer.phase_s(_summed(split, sums, {}), "decode"), sums) for sums in options]
    prefill = [(pricer.phase_s(_summed(split, {}, sums), "prefill"), sums) for sums in options]
    both = [
        (work.new_tokens * one_s + work.batch * two_s, one, two)
        for (one_s, one), (two_s, two) in product(decode, prefill)
    ]
    return ((seconds, _summed(split, one, two)) for seconds, one, two in sorted(both, key=lambda each: each[0]))


def _is_summed(block: BlockPlan) -> bool:
    return block.strategy == "row" and len(members(block.units)) > 1


def _summed(split: Split, decode: dict[BlockPlan, Spans], prefill: dict[BlockPlan, Spans]) -> Split:
    def block(plan: BlockPlan) -> BlockPlan:
        sums = {"decode_sums": decode.get(plan, ()), "prefill_sums": prefill.get(plan, ())}
        return msgspec.structs.replace(plan, **sums)

    changed = {layer: LayerPlan(block(layer.attention), block(layer.mlp)) for layer in dict.fromkeys(split.layers)}
    return msgspec.structs.replace(split, layers=tuple(changed[layer] for layer in split.layers))
