"""Constraints of the CP-SAT model: how many bytes each device holds, to the byte as `memory.device_bytes` counts them.

Knows weights, caches, buffers and slots of every choice. Knows nothing of time, and nothing of reducers, whose buffers
no split needs: whoever lets others add up sums must see that they fit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from .memory import Sizes
from .variables import BlockVariables, Expression, Share, Shares, Variant
from .weight_formats import is_quantised, ratio

MOST_WIDTH = 10**9


def add_memory(
    cp: Any, blocks: dict[tuple[str, int], BlockVariables], layers: Counter[int], used: list[Any], sizes: Sizes
) -> list[Expression]:
    """Bytes of each device, at least; a device can do with exactly these."""
    several = cp.new_bool_var("several")
    cp.add(sum(used) <= 1).only_enforce_if(~several)
    return [_DeviceMemory(cp, sizes, d).total(blocks, layers, used[d], several) for d in range(len(used))]


@dataclass(frozen=True)
class _DeviceMemory:
    """Adds what one device holds."""

    cp: Any
    sizes: Sizes
    d: int

    def total(
        self, blocks: dict[tuple[str, int], BlockVariables], layers: Counter[int], used: Any, several: Any
    ) -> Expression:
        sizes, m = self.sizes, self.sizes.model
        head = blocks["head", -1].variants[0].inputs.by_device[self.d]
        total = head.linear(sizes.vocabulary(1) + 4 * sizes.workload.batch) + 4 * m.hidden * head.used
        total += sizes.member_buffers * used
        if not m.tied_embeddings:
            total += blocks["embed", -1].variants[0].inputs.by_device[self.d].linear(sizes.vocabulary(1, "embed"))
        widest: dict[str, list[Expression]] = {}
        for (name, layer), block in blocks.items():
            for v in block.variants if layer >= 0 else ():
                total += layers[layer] * self._block_bytes(name, v)
                for buffer, width in self._buffers(name, v):
                    widest.setdefault(buffer, []).append(width)
        slots = widest.pop("slots", [])
        total += sum(sizes.buffer(1) * self._maximum(widths) for widths in widest.values())
        return total + sizes.slots(1) * self._slot(slots, used, several)

    def _slot(self, widths: list[Expression], used: Any, several: Any) -> Expression:
        """Width of a host slot; none where one device has everything."""
        slot = self.cp.new_int_var(0, MOST_WIDTH, "")
        for width in (self.sizes.model.hidden * used, *widths):
            self.cp.add(slot >= width).only_enforce_if(several)
        return slot

    def _maximum(self, widths: list[Expression]) -> Expression:
        largest = self.cp.new_int_var(0, MOST_WIDTH, "")
        for width in widths:
            self.cp.add(largest >= width)
        return largest

    def _width(self, name: str) -> tuple[int, int]:
        """Output projection inputs: of one query head or MLP column, and of all."""
        m = self.sizes.model
        return (m.head_dim, self.sizes.attention_width) if name == "attention" else (1, m.mlp)

    def _block_bytes(self, name: str, v: Variant) -> Expression:
        m, share, attention = self.sizes.model, v.inputs.by_device[self.d], name == "attention"
        each, whole = self._width(name)
        role = "o_proj" if attention else "down_proj"
        total = self.sizes.norms(name) * share.used + self._first_bytes(name, v.inputs)
        bias = 4 * (m.o_bias if attention else m.mlp_bias)
        if v.outputs is None:
            tables = self._scale_tables(share) if attention else 0
            return (
                total
                + self._matrix(role, m.hidden * each, share.linear(1), whole // each)
                + tables
                + bias * m.hidden * share.used
            )
        outputs = v.outputs.by_device[self.d].linear(1) + m.hidden * share.whole
        return total + self._matrix(role, whole, outputs, m.hidden) + bias * outputs

    def _first_bytes(self, name: str, inputs: Shares) -> Expression:
        """Projections before the output's, with their biases, and the KV cache."""
        m, values = self.sizes.model, inputs.by_device[self.d].linear(1)
        if name == "mlp":
            return self._matrix("gate_up", 2 * m.hidden, values, m.mlp) + 8 * m.mlp_bias * values
        kv, each = _kv_heads(inputs, self.d), m.head_dim * m.hidden
        projected = self._matrix("qkv", each, values, m.heads) + 2 * self._matrix("qkv", each, kv, m.kv_heads)
        return projected + 4 * m.qkv_bias * m.head_dim * (values + 2 * kv) + self.sizes.cache(1) * kv

    def _matrix(self, role: str, each: int, values: Expression, most: int) -> Expression:
        """Bytes of `each` weights for each of at most `most` values, rounded up to whole ones."""
        held, of = ratio(self.sizes.model, self.sizes.dtype, role)
        return self._divided(held * each, values, of, most, up=True)

    def _divided(self, each: int, values: Expression, divisor: int, most: int, up: bool) -> Expression:
        """`each / divisor` for each of at most `most` values, the sum rounded; a variable only where it is needed."""
        if each % divisor == 0:
            return each // divisor * values
        quotient = self.cp.new_int_var(0, -(-each * most // divisor), "")
        self.cp.add(divisor * quotient >= each * values if up else divisor * quotient <= each * values)
        return quotient

    def _scale_tables(self, share: Share) -> Expression:
        """What `scale_table_bytes` says of a share that is not everything: scales of all groups but its own."""
        m, quant = self.sizes.model, self.sizes.model.quant
        if quant is None or not quant.scattered or not is_quantised(self.sizes.dtype):
            return 0
        heads = share.linear(1) - m.heads * share.whole
        own = self._divided(m.head_dim, heads, quant.group_size, m.heads, up=False)
        groups = self.sizes.attention_width // quant.group_size * (share.used - share.whole) - own
        return 4 * m.hidden * groups + 4 * m.head_dim * heads

    def _buffers(self, name: str, v: Variant) -> list[tuple[str, Expression]]:
        share, head_dim = v.inputs.by_device[self.d], self.sizes.model.head_dim
        each, whole = self._width(name)
        own = share.linear(each)
        if name == "attention":
            buffers = [("qkv", own + 2 * head_dim * _kv_heads(v.inputs, self.d)), ("attention", own)]
        else:
            buffers = [("gate_up", share.linear(2)), ("swiglu", own)]
        if v.outputs:
            buffers += [("gathered", whole * (v.outputs.by_device[self.d].used + share.whole)), ("slots", own)]
        return buffers


def _kv_heads(attention: Shares, d: int) -> Expression:
    """KV heads that a device caches: its units, or what those of query heads round out to."""
    share = attention.by_device[d]
    return share.kv_heads if attention.group > 1 else share.units
