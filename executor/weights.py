"""The weights that one device holds, sliced while they are read: the steps of its program say which.

Knows which tensors a step needs and which way they are cut. Knows nothing of file formats (see `weight_files`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..planner.model_spec import ModelSpec
from ..planner.plan import Range, Split, kv_span, members, size
from ..planner.steps import Kind, Step
from ..planner.strategy import OUTPUT_PROJECTION
from .grouped import Array, Columns, GroupedRows
from .tiles import Parts

if TYPE_CHECKING:
    from .gpu.matrices import Matrices

Key = tuple[int, str, str]  # layer, block, role of the step
HOST = torch.device("cpu")


class WeightFiles(Protocol):
    """Reads slices of a checkpoint: `[out, in]` matrices by rows and columns."""

    def read(self, name: str, rows: Range | None = None, columns: Range | None = None) -> torch.Tensor: ...

    def grouped(self, name: str, columns: Columns) -> GroupedRows | None: ...

    def orders(self, *names: str) -> Array | None: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def read_into(
        self, out: torch.Tensor, name: str, rows: Range | None = None, columns: Range | None = None
    ) -> None: ...


@dataclass(frozen=True)
class Shard:
    """What one step holds. weight: matrix `[out, in]` in the plan's dtype, or norm `[width]` float32; bias: float32.

    `parts`, or on a GPU `matrices`: the matrix instead, where it stays in the formats of the checkpoint; `weight` is
    empty then.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    parts: Parts | None = None
    matrices: Matrices | None = None

    @property
    def bytes(self) -> int:
        dense = sum(t.numel() * t.element_size() for t in (self.weight, self.bias) if t is not None)
        return dense + sum(held.bytes for held in (self.parts, self.matrices) if held is not None)


class Keeper(Protocol):
    """Makes of matrices that stay as they are stored what a kind of device computes with."""

    def part(self, source: GroupedRows, rows: Columns) -> Any:
        """Rows of a quantised matrix, in their order."""
        ...

    def shard(self, role: str, parts: Sequence[Any], bias: torch.Tensor | None) -> Shard:
        """Of the step `role`. `parts`: what `part` made, or dense matrices, below each other."""
        ...


@dataclass(frozen=True)
class ShardReader:
    """Reads the shards of device `device` under `split`, to `place`; tells `progress` the bytes of each.

    `dtype`: of dense matrices; None for that of the checkpoint. `keeper`: of matrices that stay as they are stored;
    without one all become dense.
    """

    files: WeightFiles
    model: ModelSpec
    split: Split
    dtype: torch.dtype | None
    device: int
    place: torch.device = HOST
    progress: Callable[[int], None] = lambda loaded_bytes: None
    keeper: Keeper | None = None

    def read_all(self, steps: Iterable[Step]) -> dict[Key, Shard]:
        """Shards of all steps that hold weights; a tied head shares the embedding's tensor."""
        shards: dict[Key, Shard] = {}
        for step in steps:
            key = (step.layer, step.block, step.role)
            if step.role == "lm_head" and self.model.tied_embeddings:
                shards[key] = shards.get((-1, "embed", "embed")) or self._read(step)
            elif step.kind in (Kind.EMBED, Kind.NORM, Kind.LINEAR) or (step.kind is Kind.ROPE and self.model.qk_norm):
                shards[key] = self._read(step)
        return shards

    def _read(self, step: Step) -> Shard:
        shard = self._shard(step)
        self.progress(shard.bytes)
        return shard

    def _shard(self, step: Step) -> Shard:
        model, prefix = self.model, f"model.layers.{step.layer}."
        match step.role:
            case "embed":
                return self._stacked(step, ["model.embed_tokens"], [step.span])
            case "lm_head":
                return self._stacked(step, ["model.embed_tokens" if model.tied_embeddings else "lm_head"], [step.span])
            case "norm":
                return Shard(self._vector(_norm_name(step)))
            case "rope":
                q_norm, k_norm = (self._vector(f"{prefix}self_attn.{which}_norm.weight") for which in "qk")
                return Shard(q_norm, k_norm)
            case "qkv":
                queries, keys = (_scaled(s, model.head_dim) for s in (step.span, kv_span(step.span, model.group)))
                names = [f"{prefix}self_attn.{which}_proj" for which in "qkv"]
                return self._stacked(step, names, [queries, keys, keys], model.qkv_bias)
            case "gate_up":
                names = [f"{prefix}mlp.{which}_proj" for which in ("gate", "up")]
                return self._stacked(step, names, [step.span, step.span], model.mlp_bias)
            case "o_proj":
                inputs = _scaled(step.span, model.head_dim)
                return self._output(step, f"{prefix}self_attn.o_proj", inputs, model.o_bias)
            case "down_proj":
                return self._output(step, f"{prefix}mlp.down_proj", step.span, model.mlp_bias)
        raise AssertionError(step.role)

    def _output(self, step: Step, name: str, inputs: Range, has_bias: bool) -> Shard:
        """The output projection, cut as the strategy says; under row its bias goes to the first member only."""
        layer = self.split.layers[step.layer]
        block = layer.attention if step.block == "attention" else layer.mlp
        if OUTPUT_PROJECTION[block.strategy].sliced == "out":
            return self._stacked(step, [name], [step.span], has_bias)
        has_bias = has_bias and members(block.units)[0] == self.device
        return self._stacked(step, [name], [(0, self.model.hidden)], has_bias, inputs)

    def _stacked(
        self, step: Step, names: list[str], rows: list[Range], has_bias: bool = False, columns: Range | None = None
    ) -> Shard:
        """The row ranges of several matrices below each other, read into place one after the other."""
        if self.keeper is not None:
            return self._as_stored(self.keeper, step, names, rows, has_bias, columns or (0, step.in_features))
        assert self.dtype is not None, "matrices that are not kept as they are stored have a format"
        total, at = sum(map(size, rows)), 0
        bias = torch.empty(total, device=self.place) if has_bias else None
        if bias is not None:
            for name, span in zip(names, rows, strict=True):
                self.files.read_into(bias[at : (at := at + size(span))], f"{name}.bias", span)
        weight, at = torch.empty(total, step.in_features, dtype=self.dtype, device=self.place), 0
        for name, span in zip(names, rows, strict=True):
            self.files.read_into(weight[at : (at := at + size(span))], f"{name}.weight", span, columns)
        return Shard(weight, bias)

    def _as_stored(
        self, keeper: Keeper, step: Step, names: list[str], rows: list[Range], has_bias: bool, columns: Range
    ) -> Shard:
        """As `_stacked`, each matrix in its own format."""
        order = self._mlp_order(step.layer) if step.block == "mlp" else None
        taken: list[Columns] = list(rows)
        inputs: Columns = columns
        if order is not None and step.role == "gate_up":
            taken = [order[slice(*span)] for span in rows]
        elif order is not None:
            inputs = order[slice(*columns)]
        parts = [self._part(keeper, f"{name}.weight", some, inputs) for name, some in zip(names, taken, strict=True)]
        bias = None
        if has_bias:
            biases = [(self.files.read(f"{name}.bias"), some) for name, some in zip(names, taken, strict=True)]
            bias = torch.cat([b[slice(*some)] if isinstance(some, tuple) else b[some] for b, some in biases])
        return keeper.shard(step.role, parts, bias)

    def _mlp_order(self, layer: int) -> Array | None:
        """The order that a layer's MLP columns stand in: that of down_proj's groups, so that a device's share has whole
        groups. None for their own.
        """
        prefix = f"model.layers.{layer}.mlp."
        return self.files.orders(*(f"{prefix}{which}_proj.weight" for which in ("gate", "up", "down")))

    def _part(self, keeper: Keeper, name: str, rows: Columns, columns: Columns) -> Any:
        """Part of a matrix as it is stored."""
        grouped = self.files.grouped(name, columns)
        if grouped is not None:
            return keeper.part(grouped, rows)
        assert isinstance(rows, tuple), "only quantised rows have an order"
        assert isinstance(columns, tuple), "only quantised columns have an order"
        dtype = self.dtype or self.files.dtype(name)
        part = torch.empty(size(rows), size(columns), dtype=dtype, device=self.place)
        self.files.read_into(part, name, rows, columns)
        return part

    def _vector(self, name: str) -> torch.Tensor:
        """A norm's weights, float32."""
        return self.files.read(name).to(self.place, torch.float32)


def _scaled(span: Range, wide: int) -> Range:
    return span[0] * wide, span[1] * wide


def _norm_name(step: Step) -> str:
    if step.layer < 0:
        return "model.norm.weight"
    which = "input_layernorm" if step.block == "attention" else "post_attention_layernorm"
    return f"model.layers.{step.layer}.{which}.weight"
