"""Constraints of the CP-SAT model: how many bytes each device holds, as `memory.device_bytes` counts them.

Knows weights, caches, buffers and slots of every choice. Knows nothing of time.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from .layer_graph import scale_table_bytes
from .memory import Sizes
from .variables import BlockVariables, Expression, Share, Variant
from .weight_formats import is_quantised


def add_memory(
    cp: Any,
    blocks: dict[tuple[str, int], BlockVariables],
    layers: Counter[int],
    used: list[Any],
    sizes: Sizes,
    sums: bool,
) -> list[Expression]:
    """Bytes of each device. Sums in parts need a buffer more, which is counted for every member of a row block."""
    several = cp.new_bool_var("several")
    cp.add(sum(used) <= 1).only_enforce_if(~several)
    return [_device_memory(cp, blocks, layers, used[d], several, sizes, sums, d) for d in range(len(used))]


def _device_memory(cp, blocks, layers, used, several, sizes, sums, d) -> Expression:  # type: ignore[no-untyped-def]
    m = sizes.model
    head = blocks["head", -1].variants[0].inputs.by_device[d]
    total = head.linear(sizes.vocabulary(1) + 4 * sizes.workload.batch) + 4 * m.hidden * head.used
    total += sizes.member_buffers * used
    if not m.tied_embeddings:
        table = blocks["embed", -1].variants[0].inputs.by_device[d]
        total += table.linear(sizes.vocabulary(1))
    widest: dict[str, list[Expression]] = {}
    for (name, layer), block in blocks.items():
        for v in block.variants if layer >= 0 else ():
            total += layers[layer] * _block_bytes(name, v, sizes, d)
            for buffer, width in _block_buffers(name, v, sizes, sums, d):
                widest.setdefault(buffer, []).append(width)
    slots = widest.pop("slots", [])
    for widths in widest.values():
        total += sizes.buffer(1) * _maximum(cp, widths)
    slot = cp.new_int_var(0, 10**9, "")
    cp.add(slot >= m.hidden * used).only_enforce_if(several)
    for width in slots:
        cp.add(slot >= width).only_enforce_if(several)
    return total + sizes.slots(1) * slot


def _maximum(cp: Any, widths: list[Expression]) -> Expression:
    largest = cp.new_int_var(0, 10**9, "")
    for width in widths:
        cp.add(largest >= width)
    return largest


def _width(name: str, sizes: Sizes) -> tuple[int, int]:
    """Output projection inputs: of one query head or MLP column, and of all."""
    m = sizes.model
    return (m.head_dim, sizes.attention_width) if name == "attention" else (1, m.mlp)


def _block_bytes(name: str, v: Variant, sizes: Sizes, d: int) -> Expression:
    m, share, attention = sizes.model, v.inputs.by_device[d], name == "attention"
    each, whole = _width(name, sizes)
    bias = 4 * (m.o_bias if attention else m.mlp_bias)
    total = share.linear(sizes.qkv(1) if attention else sizes.gate_up(1)) + sizes.norms(name) * share.used
    if attention:
        total += _per_kv_head(share, 2 * sizes.qkv(1) + sizes.cache(1), m.group)
    if v.outputs is None:
        if attention and is_quantised(sizes.dtype):
            total += scale_table_bytes(m, "attention", 1) * (share.used - share.whole) + 4 * share.linear(each)
        return total + share.linear(sizes.o_proj(each, m.hidden)) + bias * m.hidden * share.used
    out = sizes.o_proj(whole, 1) + bias
    return total + v.outputs.by_device[d].linear(out) + m.hidden * out * share.whole


def _per_kv_head(share: Share, each: int, group: int) -> Expression:
    """`each` for every KV head that is cached, rounded up to what a query head's part of it comes to."""
    part = -(-each // group)
    return share.linear(part) + part * share.spare


def _block_buffers(name: str, v: Variant, sizes: Sizes, sums: bool, d: int) -> list[tuple[str, Expression]]:
    m, share = sizes.model, v.inputs.by_device[d]
    each, whole = _width(name, sizes)
    if name == "attention":
        first = share.linear(m.head_dim) + _per_kv_head(share, 2 * m.head_dim, m.group)
        buffers = [("qkv", first), ("attention", share.linear(each))]
    else:
        buffers = [("gate_up", share.linear(2)), ("swiglu", share.linear(each))]
    if v.outputs:
        writes = v.outputs.by_device[d].used + share.whole
        buffers += [("gathered", whole * writes), ("slots", share.linear(each))]
    elif sums:
        buffers.append(("sums", m.hidden * (share.used - share.whole)))
    return buffers
