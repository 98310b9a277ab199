"""Bytes that a split needs on each device, and the bytes there are.

Knows what the executor keeps: weights, KV cache, buffers of a prefill chunk, host slots. Knows nothing of time.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..hwprofiles.profile import HardwareProfile
from .layer_graph import scale_table_bytes
from .model_spec import ModelSpec
from .plan import (
    DTYPE_BYTES,
    BlockPlan,
    CacheDtype,
    Dtype,
    Phase,
    Split,
    Workload,
    devices_used,
    distinct_layers,
    kv_span,
    size,
)
from .weight_formats import is_quantised, matrix_bytes

FREE_PERCENT = 95
PHASES: tuple[Phase, Phase] = ("decode", "prefill")
SLOTS = 2  # of the ring each producer writes, so that a slow reader is never overrun


@dataclass(frozen=True)
class DeviceBytes:
    """Weights, KV cache and workspace of one device, in bytes."""

    weights: int
    cache: int
    workspace: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.workspace


@dataclass(frozen=True)
class Sizes:
    """Bytes per unit of everything that grows with a share; norms and hidden states come with being a member."""

    model: ModelSpec
    workload: Workload
    dtype: Dtype
    cache_dtype: CacheDtype = "float32"

    @property
    def rows(self) -> int:
        """Rows of the largest pass."""
        return max(self.workload.chunk_rows, self.workload.batch)

    def matrix(self, weights: int, role: str) -> int:
        """A matrix of the step `role`, or the part of one, of so many weights."""
        return matrix_bytes(self.model, self.dtype, weights, role)

    @property
    def attention_width(self) -> int:
        return self.model.heads * self.model.head_dim

    def qkv(self, heads: int) -> int:
        """q, k or v projection of so many heads, with its bias (float32)."""
        columns = heads * self.model.head_dim
        return self.matrix(columns * self.model.hidden, "qkv") + 4 * columns * self.model.qkv_bias

    def output(self, block: str, inputs: int, outputs: int) -> int:
        """The output projection of a block."""
        return self.matrix(inputs * outputs, "o_proj" if block == "attention" else "down_proj")

    def cache(self, heads: int) -> int:
        """K and V of one layer, [2, KV heads, context, head_dim] a sequence."""
        positions = self.workload.context * self.workload.batch
        return 2 * DTYPE_BYTES[self.cache_dtype] * heads * self.model.head_dim * positions

    def gate_up(self, columns: int) -> int:
        return self.matrix(2 * columns * self.model.hidden, "gate_up") + 8 * columns * self.model.mlp_bias

    def norms(self, block: str) -> int:
        """Float32 norm weights every member of a block holds."""
        m = self.model
        return 4 * (m.hidden + 2 * m.head_dim * (m.qk_norm and block == "attention"))

    def vocabulary(self, tokens: int, role: str = "lm_head") -> int:
        return self.matrix(tokens * self.model.hidden, role)

    def buffer(self, width: int) -> int:
        """A float32 buffer of `width` values a row."""
        return 4 * self.rows * width

    @property
    def member_buffers(self) -> int:
        """Hidden state, its normed copy and a full-width part, of a device with any share."""
        return 3 * self.buffer(self.model.hidden)

    def slots(self, width: int) -> int:
        """Host slots of a producer of `width` values a row."""
        return SLOTS * self.buffer(width)


def device_bytes(
    model: ModelSpec, split: Split, workload: Workload, dtype: Dtype, cache_dtype: CacheDtype = "float32"
) -> tuple[DeviceBytes, ...]:
    """What each device of the split holds."""
    sizes, blocks = Sizes(model, workload, dtype, cache_dtype), distinct_blocks(split)
    several = len(devices_used(split)) > 1
    return tuple(_one_device(sizes, split, blocks, several, d) for d in range(len(split.head)))


def _one_device(
    sizes: Sizes, split: Split, blocks: list[tuple[BlockPlan, str, int]], several: bool, d: int
) -> DeviceBytes:
    weights = cache = 0
    widest: dict[str, int] = {}
    for block, name, times in blocks:
        if any(size(block.sums(phase)[d]) for phase in PHASES if block.sums(phase)):
            widest.setdefault("sums", sizes.model.hidden)
        if not size(block.units[d]):
            continue
        weights += times * block_weight_bytes(sizes, block, name, d)
        if name == "attention":
            cache += times * sizes.cache(size(kv_span(block.units[d], sizes.model.group)))
        for buffer, width in _buffers(sizes, block, name, d).items():
            widest[buffer] = max(widest.get(buffer, 0), width)
    tokens, table = size(split.head[d]), size(split.embedding[d])
    weights += sizes.vocabulary(tokens) + 4 * sizes.model.hidden * (tokens > 0)
    weights += 0 if sizes.model.tied_embeddings else sizes.vocabulary(table, "embed")
    if not (widest or tokens or table):
        return DeviceBytes(weights, cache, 0)
    slot = max(widest.pop("slots", 0), sizes.model.hidden)
    slots = sizes.slots(slot) if several else 0
    logits = 4 * tokens * sizes.workload.batch
    workspace = sizes.member_buffers + sum(map(sizes.buffer, widest.values())) + logits + slots
    return DeviceBytes(weights, cache, workspace)


def distinct_blocks(split: Split) -> list[tuple[BlockPlan, str, int]]:
    """Distinct blocks with how many layers have them."""
    counts: dict[tuple[BlockPlan, str], int] = {}
    for layer, times in distinct_layers(split).items():
        for block, name in ((layer.attention, "attention"), (layer.mlp, "mlp")):
            counts[block, name] = counts.get((block, name), 0) + times
    return [(block, name, times) for (block, name), times in counts.items()]


def block_weight_bytes(sizes: Sizes, block: BlockPlan, name: str, d: int) -> int:
    """Weights of a block, its norms and scale tables included, on a device with a share of it."""
    m, share = sizes.model, size(block.units[d])
    attention = name == "attention"
    inputs = share * m.head_dim if attention else share
    outputs = m.hidden
    tables = scale_table_bytes(m, name, inputs) if block.strategy == "row" and is_quantised(sizes.dtype) else 0  # type: ignore[arg-type]
    if block.strategy == "column":
        inputs, outputs = sizes.attention_width if attention else m.mlp, size(block.outputs[d])
    bias = (m.o_bias if attention else m.mlp_bias) and outputs
    kv_heads = size(kv_span(block.units[d], m.group)) if attention else 0
    first = sizes.qkv(share) + 2 * sizes.qkv(kv_heads) if attention else sizes.gate_up(share)
    return sizes.norms(name) + first + sizes.output(name, inputs, outputs) + tables + 4 * bias


def _buffers(sizes: Sizes, block: BlockPlan, name: str, d: int) -> dict[str, int]:
    """Widths of the buffers of one block; under column a device with outputs holds the whole gathered input."""
    m, share, column = sizes.model, size(block.units[d]), block.strategy == "column"
    whole = sizes.attention_width if name == "attention" else m.mlp
    own = share * m.head_dim if name == "attention" else share
    widths = {"qkv": own + 2 * size(kv_span(block.units[d], m.group)) * m.head_dim, "attention": own}
    if name == "mlp":
        widths = {"gate_up": 2 * share, "swiglu": own}
    if column:
        widths |= {"slots": own, "gathered": whole if size(block.outputs[d]) else 0}
    return widths


def device_caps(profile: HardwareProfile, caps: dict[str, int]) -> tuple[int, ...]:
    """Bytes each device may use: its free memory less a margin, or less where the user says so.

    ValueError on an unknown name.
    """
    for name in caps:
        profile.device(name)
    free = (d.free_bytes * FREE_PERCENT // 100 for d in profile.devices)
    return tuple(min(caps.get(d.name, f), f) for d, f in zip(profile.devices, free))


def host_cap(profile: HardwareProfile) -> int:
    """Bytes that all CPU devices may use together."""
    return profile.host.memory_bytes * FREE_PERCENT // 100


def fits(needed: tuple[DeviceBytes, ...], profile: HardwareProfile, caps: tuple[int, ...]) -> bool:
    """Whether every device stays within its cap, and the CPU devices together within the host's memory."""
    on_host = sum(n.total for n, d in zip(needed, profile.devices) if d.kind == "cpu")
    return on_host <= host_cap(profile) and all(n.total <= cap for n, cap in zip(needed, caps))
