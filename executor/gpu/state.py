"""What a GPU device holds while it runs: shards, KV cache, buffers. Knows sizes, neither steps' order nor peers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ...kernels.gpu.linear import ROWS
from ...planner.model_spec import ModelSpec
from ...planner.plan import kv_span, size
from ...planner.steps import Kind, Step
from ..weights import Key, Shard
from .matrices import Scratch

FEW_ROWS = ROWS  # what the kernels of decode take at once
POSITION, EPOCH, PASS_ROWS, BULK, BULK_BEFORE = range(5)  # words of `control`
CONTROL_WORDS = 8
_WIDTH_OF = {"qkv": "qkv", "gate_up": "gate_up", "attention": "mixed", "swiglu": "activated", "pull_inputs": "gathered"}


@dataclass(frozen=True)
class Formats:
    """`weights`: of weights and of the activations that meet them; `cache`: of keys and values."""

    weights: torch.dtype
    cache: torch.dtype


class GpuState:
    """Made on the device's own thread and stream. `steps`: all that it will run, in any phase, none twice; `rows`: of
    its largest pass.

    `hidden`, `part`, `sums`: float32 [rows, hidden]; `scaled`, `qkv`, `mixed`, `activated`, `gathered`: in the format
    of the weights. `control`: int32, read by kernels, so that a captured graph never changes. `tokens`: int64 [rows].
    """

    def __init__(
        self,
        device: int,
        place: torch.device,
        model: ModelSpec,
        steps: list[Step],
        shards: dict[Key, Shard],
        formats: Formats,
        ropes: tuple[torch.Tensor, torch.Tensor],
        rows: int,
    ) -> None:
        self.device, self.place, self.model, self.formats, self.shards = device, place, model, formats, shards
        self.cos, self.sin = (table.to(place) for table in ropes)
        self.capacity = len(self.cos)
        self.rows = rows
        self.cache = {step.layer: self._cache(step) for step in steps if step.kind is Kind.ROPE}
        self.buffers = {name: self._buffer(name, wide) for name, wide in _widths(steps, model.hidden).items()}
        self.control = torch.zeros(CONTROL_WORDS, dtype=torch.int32, device=place)
        self.scratch = Scratch(shards.values(), rows, formats.weights, place)
        self.tokens = torch.zeros(self.rows, dtype=torch.int64, device=place)
        self.last_row = torch.zeros(1, dtype=torch.int64, device=place)
        self.best_id = torch.zeros(1, dtype=torch.int64, device=place)
        self.best_value = torch.zeros(1, device=place)

    def _cache(self, step: Step) -> torch.Tensor:
        """[2, KV heads, capacity, head_dim]: keys, then values."""
        kv_heads = size(kv_span(step.span, self.model.group))
        shape = 2, kv_heads, self.capacity, self.model.head_dim
        return torch.zeros(shape, dtype=self.formats.cache, device=self.place)

    def _buffer(self, name: str, wide: int) -> torch.Tensor:
        rows = 1 if name == "logits" else self.rows
        exact = name in ("hidden", "part", "sums", "logits")
        return torch.zeros(rows * wide, dtype=torch.float32 if exact else self.formats.weights, device=self.place)

    def upload(
        self, tokens: Sequence[int], rows: int, position: int, epoch: int, bulk: tuple[int, int] = (0, 0)
    ) -> None:
        """Says what the next pass is of: `tokens`, of which the first `rows` count. `bulk`: where the numbers of its
        large exchanges begin, and those of the pass before it that had any.
        """
        self.last_row.fill_(rows - 1)
        self.control[:5].copy_(torch.tensor([position, epoch, rows, *bulk], dtype=torch.int32))
        self.tokens[: len(tokens)].copy_(torch.tensor(tokens, dtype=torch.int64))

    def best(self) -> tuple[float, int]:
        """The largest logit of the last pass on this device, and its id."""
        return float(self.best_value.item()), int(self.best_id.item())

    def shard(self, step: Step) -> Shard:
        return self.shards[step.layer, step.block, step.role]

    def view(self, name: str, rows: int, wide: int) -> torch.Tensor:
        """The first `rows * wide` values of a buffer as [rows, wide]."""
        return self.buffers[name][: rows * wide].view(rows, wide)

    @property
    def bytes(self) -> int:
        """Held on the device: distinct tensors, counted once."""
        shards = [t for shard in self.shards.values() for t in (shard.weight, shard.bias) if t is not None]
        held = [*shards, *self.cache.values(), *self.buffers.values(), self.cos, self.sin, *self.scratch.tensors]
        kept = {id(shard.matrices): shard.matrices.bytes for shard in self.shards.values() if shard.matrices}
        dense = {t.data_ptr(): t.numel() * t.element_size() for t in held if t.numel()}
        return sum(dense.values()) + sum(kept.values())


def _widths(steps: Iterable[Step], hidden: int) -> dict[str, int]:
    """Widest use of each buffer, in values a row."""
    widths = {"hidden": hidden, "part": hidden, "scaled": hidden}
    for step in steps:
        if step.role == "pull_parts":
            widths["sums"] = hidden
        elif step.role == "lm_head":
            widths["logits"] = step.out_features
        elif name := _WIDTH_OF.get(step.role):
            widths[name] = max(widths.get(name, 0), step.out_features)
    return widths
