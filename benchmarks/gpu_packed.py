"""Random models whose layers are int4 in groups of 128 with zero points, for GPUs, as GPTQ stores them.

Drawn on the GPU by name, so every split sees the same model; handed over as `executor.weight_files` does it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
from gpu_models import RandomWeights, tensor_shape

from tpplan.executor.grouped import Array, Columns, Form, Grouped, Layout
from tpplan.planner.plan import Range

GROUP = 128
FORM = Form(4, zeros=True)


@dataclass(frozen=True)
class Drawn:
    """One matrix: codes uint8 [out, in], scales float16 and zeros uint8 [out, groups], group of each input."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    group: torch.Tensor

    def floats(self) -> torch.Tensor:
        return (self.codes.float() - self.zeros.float()[:, self.group]) * self.scales.float()[:, self.group]


@dataclass(frozen=True)
class Rows:
    """Columns of a matrix, as `GroupedRows`."""

    drawn: Drawn
    columns: torch.Tensor
    layout: Layout
    groups: torch.Tensor
    form: Form = FORM

    def read(self, rows: Range) -> Grouped:
        some, order = slice(*rows), torch.from_numpy(self.layout.order).to(self.columns.device).long()
        codes = self.drawn.codes[some][:, self.columns[order.clamp(min=0)]] * (order >= 0)
        packed = codes[:, 0::2] | codes[:, 1::2] << 4
        tables = (table[some][:, self.groups].cpu().numpy() for table in (self.drawn.scales, self.drawn.zeros))
        scales, zeros = tables
        return Grouped(FORM, self.layout, packed.cpu().numpy(), scales, None, zeros)


@dataclass(frozen=True)
class RandomPacked(RandomWeights):
    """`act_order`: inputs belong to groups at random, one order for matrices with the same inputs."""

    act_order: bool = False
    _drawn: dict[str, Drawn] = field(default_factory=dict)

    def is_packed(self, name: str) -> bool:
        return "_proj.weight" in name

    def drawn(self, name: str) -> Drawn:
        """The last one is kept."""
        if name not in self._drawn:
            self._drawn.clear()
            N, K = tensor_shape(self.model, name)
            generator = torch.Generator(self.place).manual_seed(zlib.crc32(name.encode()))
            codes = torch.randint(0, 16, (N, K), generator=generator, device=self.place, dtype=torch.uint8)
            zeros = torch.randint(5, 11, (N, K // GROUP), generator=generator, device=self.place, dtype=torch.uint8)
            scales = torch.rand(N, K // GROUP, generator=generator, device=self.place) * 0.4 + 0.8
            group = self.group_of_input(name, K)
            self._drawn[name] = Drawn(codes, (scales * (0.14 / K**0.5)).half(), zeros, group)
        return self._drawn[name]

    def group_of_input(self, name: str, inputs: int) -> torch.Tensor:
        group = torch.arange(inputs, device=self.place) // GROUP
        if not self.act_order:
            return group
        layer, kind = name.rsplit(".", 3)[0], name.split(".")[-2]
        seed = zlib.crc32(f"{layer} {kind if kind in ('o_proj', 'down_proj') else ''}".encode())
        return group[torch.randperm(inputs, generator=torch.Generator().manual_seed(seed)).to(self.place)]

    def whole(self, name: str) -> torch.Tensor:
        return self.drawn(name).floats() if self.is_packed(name) else super().whole(name)

    def grouped(self, name: str, columns: Columns) -> Rows | None:
        if not self.is_packed(name):
            return None
        drawn = self.drawn(name)
        numbers = np.arange(*columns) if isinstance(columns, tuple) else columns
        here = torch.from_numpy(numbers).to(self.place)
        layout, groups = Layout.of(drawn.group[here].cpu().numpy(), FORM.bits)
        return Rows(drawn, here, layout, torch.from_numpy(groups).to(self.place))

    def orders(self, *names: str) -> Array | None:
        if not self.act_order:
            return None
        group = self.group_of_input(names[-1], tensor_shape(self.model, names[-1])[1])
        return np.argsort(group.cpu().numpy(), kind="stable")

    def dtype(self, name: str) -> torch.dtype:
        return torch.bfloat16
