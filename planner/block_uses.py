"""Who spends what on which block: units, bytes and shares of time, device by device.

Knows a split and its prices. Knows nothing of other splits.
"""

from __future__ import annotations

from collections import defaultdict

from .baselines import split_bytes
from .explanation import BlockName, BlockUse, Rest
from .layer_graph import pass_steps
from .memory import Sizes, block_weight_bytes, distinct_blocks
from .plan import Phase, Split, kv_span, size
from .price import Chunk, Pricer, shortened

BLOCKS: dict[str, BlockName] = {"embed": "embedding", "attention": "attention", "mlp": "mlp", "head": "head"}
Parts = dict[tuple[int, BlockName], float]


def block_uses(pricer: Pricer, split: Split) -> tuple[tuple[BlockUse, ...], tuple[Rest, ...]]:
    """Every device's part in every block that it has one in, and its rest."""
    decode, prefill = time_shares(pricer, split, "decode"), time_shares(pricer, split, "prefill")
    units, held = _units(pricer, split), _bytes(pricer, split)
    uses, rests = [], []
    for d, (device, needed) in enumerate(zip(pricer.profile.devices, split_bytes(pricer, split))):
        for block in BLOCKS.values():
            part = (d, block)
            if units[part] or decode[part] or prefill[part]:
                parts = units[part], int(held[part]), decode[part], prefill[part]
                uses.append(BlockUse(device.name, block, *parts))
        waits = (1 - sum(shares[d, block] for block in BLOCKS.values()) for shares in (decode, prefill))
        rests.append(Rest(device.name, needed.workspace, *waits))
    return tuple(uses), tuple(rests)


def time_shares(pricer: Pricer, split: Split, phase: Phase) -> Parts:
    """How much of a decode step or of a prefill each device is busy with each block, its exchanges included."""
    batch = pricer.workload.batch
    chunks = pricer.chunks if phase == "prefill" else [Chunk(batch, pricer.decode_context, 1, batch)]
    model, short, weights = shortened(pricer.model, split)
    busy_s: Parts = defaultdict(float)
    for chunk in chunks:
        for step in pass_steps(model, short, chunk.rows, chunk.context, chunk.logits, phase):
            seconds = chunk.count * weights.get((step.layer, step.block), 1) * pricer.cost.step_s(step)
            busy_s[step.device, BLOCKS[step.block]] += seconds
    whole_s = sum(c.count * pricer.pass_s(split, c.rows, c.context, c.logits, phase) for c in chunks)
    return defaultdict(float, {part: seconds / whole_s for part, seconds in busy_s.items()})


def _units(pricer: Pricer, split: Split) -> Parts:
    m, units = pricer.model, Parts()
    for d in range(len(split.head)):
        units[d, "embedding"], units[d, "head"] = size(split.embedding[d]), size(split.head[d])
        units[d, "attention"] = sum(size(layer.attention.units[d]) for layer in split.layers) / m.group / m.layers
        units[d, "mlp"] = sum(size(layer.mlp.units[d]) for layer in split.layers) / m.layers
    return units


def _bytes(pricer: Pricer, split: Split) -> Parts:
    """Tied embeddings count with the head."""
    m = pricer.model
    sizes = Sizes(m, pricer.workload, pricer.dtype, pricer.cache_dtype)
    held: Parts = defaultdict(float)
    for d in range(len(split.head)):
        tokens = size(split.head[d])
        held[d, "head"] = sizes.vocabulary(tokens) + 4 * m.hidden * (tokens > 0)
        held[d, "embedding"] = 0 if m.tied_embeddings else sizes.vocabulary(size(split.embedding[d]), "embed")
        for block, name, times in distinct_blocks(split):
            if size(block.units[d]):
                held[d, BLOCKS[name]] += times * block_weight_bytes(sizes, block, name, d)
                if name == "attention":
                    held[d, "attention"] += times * sizes.cache(size(kv_span(block.units[d], m.group)))
    return held
