"""What an exchange of a GPU device moves, in terms of its buffers, and the exchanges of a plan bound to host memory.

Few rows go by cells that carry their pass's number, many rows in chunks with flags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ...kernels.gpu import norm
from ...kernels.gpu.bulk import Bulk
from ...kernels.gpu.exchange import Exchange
from ...kernels.gpu.host_memory import Layout, Rank
from ...kernels.gpu.slots import Site, new_site
from ...planner.plan import size
from ...planner.steps import Kind, Step
from .residuals import Residuals
from .state import FEW_ROWS, GpuState

Run = Callable[[int], None]  # rows of the pass


class Binds(Protocol):
    def bind(self, state: GpuState, moved: Moved) -> tuple[Run, torch.Tensor | None]:
        """One device's side as a launch, and the sums of squares that it leaves for the norm after it."""
        ...


@dataclass(frozen=True)
class Moved:
    """One device's side of one collective, in a model `hidden` wide.

    `source`: buffer that is pushed; `target`: buffer that is pulled into. `own_residual`: the step that adds the hidden
    state to what is pushed, where this device does so for all. `adds_hidden`: the device adds its own hidden state to
    what it pulls. `norm_weight`: [hidden] of the norm that follows, None where none does.
    """

    hidden: int
    push: Step | None
    pull: Step | None
    source: str
    target: str
    own_residual: Step | None
    adds_hidden: bool
    norm_weight: torch.Tensor | None

    @property
    def width(self) -> int:
        """Values a row of this device's own part, pushed or not: a sole consumer keeps its part; 0 if it has none."""
        if self.push is not None:
            return self.push.out_features
        assert self.pull is not None
        if self.pull.device not in self.pull.peers:
            return 0
        if self.pull.role == "pull_parts":
            return self.hidden
        return self.pull.widths[self.pull.peers.index(self.pull.device)]

    @property
    def site(self) -> int:
        step = self.push or self.pull
        assert step is not None
        return step.collective


def make_sites(
    layout: Layout, steps: Sequence[Step], first: int, hidden: int, residuals: Residuals, form: torch.dtype
) -> dict[int, Site]:
    """Call-sites of all collectives of a phase, by collective; they are numbered from `first` on."""
    moves: dict[int, list[Step]] = {}
    for step in steps:
        if step.kind is Kind.PULL:
            moves.setdefault(step.collective, []).append(step)
    sites = {}
    for collective, pulls in moves.items():
        one = pulls[0]
        widths = dict(zip(one.peers, one.widths, strict=True)) if one.combine == "concat" else {}
        widths = widths or dict.fromkeys(one.peers, hidden)
        spans = {p.device: p.span for p in pulls if p.role == "pull_parts"}
        wire = torch.float32 if residuals.exact(one) else form
        consumers = [p.device for p in pulls]
        number = first + collective
        sites[collective] = new_site(layout, number, widths, consumers, one.combine, wire, FEW_ROWS, spans or None)  # type: ignore[arg-type]
    return sites


@dataclass
class PhaseExchanges:
    """Binds the exchanges of one phase for one device."""

    sites: dict[int, Site]
    rank: Rank
    bulk: Bulk
    eps: float

    def bind(self, state: GpuState, moved: Moved) -> tuple[Run, torch.Tensor | None]:
        site = self.sites[moved.site]
        exchange = Exchange(site, self.rank)
        squares = None
        if moved.norm_weight is not None:
            squares = torch.zeros(FEW_ROWS, exchange.programs, device=state.place)

        def run(rows: int) -> None:
            tensors = _Tensors(state, moved, rows)
            if rows <= FEW_ROWS:
                sums = None if squares is None else squares[:rows]
                exchange(
                    state.control, tensors.part, tensors.out, tensors.residual, tensors.carry, moved.norm_weight,
                    tensors.scaled, sums, rows,
                )  # fmt: skip
            else:
                self._bulk(site, moved, tensors, rows)

        return run, squares

    def _bulk(self, site: Site, moved: Moved, t: _Tensors, rows: int) -> None:
        widths = dict(zip(site.producers, site.widths, strict=True))
        if t.part is not None and t.carry is not None:
            t.part += t.carry  # not in the kernel: what it pulls may overwrite what it has yet to push
        span = moved.pull.span if moved.pull is not None and size(moved.pull.span) else None
        self.bulk(
            moved.site, widths, site.consumers, site.combine, site.wire, rows, t.part, t.out, t.residual, span=span,
            told=site.number,
        )  # fmt: skip
        if moved.norm_weight is not None and t.out is not None and t.scaled is not None:
            norm.norm(t.out, moved.norm_weight, self.eps, t.scaled)


class _Tensors:
    """What an exchange reads and writes in a pass of `rows` rows."""

    def __init__(self, s: GpuState, moved: Moved, rows: int) -> None:
        hidden = s.view("hidden", rows, moved.hidden)
        own = moved.own_residual
        self.part = s.view(moved.source, rows, moved.width) if moved.width else None
        self.carry = hidden[:, slice(*own.span)] if own is not None else None
        self.out = s.view(moved.target, rows, moved.pull.out_features) if moved.pull else None
        self.residual = hidden if moved.adds_hidden else None
        self.scaled = s.view("scaled", rows, moved.hidden) if moved.norm_weight is not None else None
