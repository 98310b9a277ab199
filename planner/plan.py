"""What runs where: the frozen `Plan` behind `plan.json`, ending in explicit ranges so that the executor only slices.

Knows ranges, predictions and reasons. Knows nothing of how they were found or how they run.
"""

from __future__ import annotations

from itertools import groupby
from typing import Literal

import msgspec

SCHEMA_VERSION = 2
MLP_UNIT = 32
HIDDEN_UNIT = 32
VOCAB_UNIT = 1024
PREFILL_CHUNK = 256  # rows of a pass over a prompt where a CPU takes part, and where nothing is said
GPU_PREFILL_CHUNK = 512  # enough for a GPU to be busy with sums rather than with reading weights

Range = tuple[int, int]
Strategy = Literal["row", "column"]
Dtype = Literal["float32", "bfloat16", "int8", "int4", "native"]
CacheDtype = Literal["float32", "bfloat16"]
Phase = Literal["decode", "prefill"]
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


def size(span: Range) -> int:
    """Length of a half-open range."""
    return span[1] - span[0]


def kv_span(queries: Range, group: int) -> Range:
    """The KV heads that query heads `queries` read, `group` to a KV head: rounded outwards, since a device caches every
    head that it reads; one that two devices read is held by both. (0, 0) for none.
    """
    return (queries[0] // group, -(-queries[1] // group)) if size(queries) else (0, 0)


def members(spans: tuple[Range, ...]) -> tuple[int, ...]:
    """Indices of the devices whose range is not empty."""
    return tuple(d for d, span in enumerate(spans) if size(span))


class BlockPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One attention or MLP block: a `[begin, end)` range per device, in plan order, covering the whole without overlap.

    `units`: query heads (attention; `kv_span` says which KV heads that takes) or MLP columns (MLP).
    `outputs`: hidden columns of the output projection under the column strategy, () under row. Devices with outputs are
    among those with units.
    `decode_sums`, `prefill_sums` (row): hidden columns whose partial sums a device adds up for all others, by phase;
    () where every consumer adds up all of them itself. All members: reduce-scatter and all-gather. One CPU device:
    a sum on the CPU, whether or not it is a member.
    """

    strategy: Strategy
    units: tuple[Range, ...]
    outputs: tuple[Range, ...] = ()
    decode_sums: tuple[Range, ...] = ()
    prefill_sums: tuple[Range, ...] = ()

    def sums(self, phase: Phase) -> tuple[Range, ...]:
        """Who adds up which hidden columns in `phase`; () where every consumer does, or with one member."""
        sums = self.decode_sums if phase == "decode" else self.prefill_sums
        return sums if len(members(self.units)) > 1 else ()


class LayerPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attention: BlockPlan
    mlp: BlockPlan


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who holds what: vocabulary rows of embedding and head (equal when tied), and every layer's blocks."""

    embedding: tuple[Range, ...]
    layers: tuple[LayerPlan, ...]
    head: tuple[Range, ...]


def distinct_layers(split: Split) -> dict[LayerPlan, int]:
    """Every way in which layers are cut, in order of appearance, with how many layers are."""
    counts: dict[LayerPlan, int] = {}
    for layer, run in groupby(split.layers):  # compares neighbours, which is faster than hashing all
        counts[layer] = counts.get(layer, 0) + sum(1 for _ in run)
    return counts


def devices_used(split: Split) -> set[int]:
    """Indices of the devices that hold anything."""
    blocks = [block for layer in distinct_layers(split) for block in (layer.attention, layer.mlp)]
    spans = [split.embedding, split.head]
    for block in blocks:
        spans += [block.units, block.sums("decode"), block.sums("prefill")]
    return {d for span in spans for d in members(span)}


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the plan is best for: tokens per sequence, sequences at once, and the context the KV cache must hold.

    `prefill_chunk`: tokens of a prompt that are taken at once.
    """

    prompt_tokens: int = 512
    new_tokens: int = 128
    batch: int = 1
    context: int = 4096
    prefill_chunk: int = PREFILL_CHUNK

    @property
    def chunk_rows(self) -> int:
        """Rows of the largest pass over a prompt."""
        return min(self.prefill_chunk, self.context)


class Predicted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prefill_s: float
    decode_s_per_token: float
    decode_tokens_per_s: float


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A split that needs no solver, priced like the plan. None where it does not fit."""

    feasible: bool
    objective_s: float | None
    decode_tokens_per_s: float | None


class DeviceUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one device holds. Units: KV heads (query heads over the group) and MLP columns summed over layers,
    vocabulary rows.

    `bytes` is the sum of its parts.
    """

    name: str
    attention_units: int | float
    mlp_units: int
    head_units: int
    bytes: int
    cap_bytes: int
    weight_bytes: int
    cache_bytes: int
    workspace_bytes: int


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: int
    tpplan_version: str
    model: str
    model_fingerprint: str
    profile_fingerprint: str
    devices: tuple[str, ...]
    dtype: Dtype
    cache_dtype: CacheDtype
    workload: Workload
    embedding: tuple[Range, ...]
    layers: tuple[LayerPlan, ...]
    head: tuple[Range, ...]
    status: str
    objective_s: float
    bound_s: float
    gap: float
    space: str
    solve_s: float
    predicted: Predicted
    baselines: dict[str, Baseline]
    device_use: tuple[DeviceUse, ...]
    reasons: tuple[str, ...]

    @property
    def split(self) -> Split:
        """The ranges alone, as the graph builder takes them."""
        return Split(self.embedding, self.layers, self.head)
