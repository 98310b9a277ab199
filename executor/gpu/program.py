"""A GPU device's steps bound to kernels, buffers, weights and slots: once, then launched for every pass.

Which buffer a launch reads and writes is decided here and nowhere else. A launch takes the rows of the pass; everything
else that changes between passes lies in the device's memory, so launches of one row can be captured in a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from ...kernels.gpu import argmax, attention, embed, gate_up, linear, norm, products, rope, swiglu
from ...planner.model_spec import ModelSpec
from ...planner.steps import Kind, Step
from ..weights import Shard
from . import matrices
from .exchanges import Binds, Moved
from .groups import Group, groups
from .residuals import Residuals
from .state import FEW_ROWS, GpuState

Run = Callable[[int], None]  # rows of the pass
NORM_PARTS = 4  # partial sums of squares a row, where no exchange makes them


@dataclass(frozen=True)
class Launch:
    """`steps` done together by `run`."""

    steps: Group
    run: Run


class GpuBinder:
    """Binds the steps of one device in one phase, in order."""

    def __init__(self, model: ModelSpec, state: GpuState, residuals: Residuals, exchanges: Binds) -> None:
        self.model, self.state, self.residuals, self.exchanges = model, state, residuals, exchanges
        self.result = "part"  # or "hidden", "sums": what holds this device's share of a block's output
        self.sums_lack_residual = False
        self.gathered = False  # whether the output projection reads what was gathered
        self.squares = self._new_squares(NORM_PARTS)  # that the next products read: of the norm before them

    def _new_squares(self, parts: int) -> torch.Tensor:
        """[FEW_ROWS, parts] float32."""
        return torch.zeros(FEW_ROWS, parts, device=self.state.place)

    def bind(self, steps: Iterable[Step]) -> list[Launch]:
        """In the order of a pass."""
        return [Launch(group, self._bind(group)) for group in groups(list(steps))]

    def _bind(self, group: Group) -> Run:
        first = group[0]
        if first.kind in (Kind.RESIDUAL, Kind.PUSH, Kind.PULL):
            return self._moved(group)
        bind: Callable[[Step], Run] = getattr(self, f"_{'gate_up' if len(group) > 1 else first.kind}")
        return bind(first)

    def _embed(self, step: Step) -> Run:
        s, shard, wide = self.state, self.state.shard(step), step.out_features
        self.result = "part"

        def run(rows: int) -> None:
            tokens, out = s.tokens[:rows], s.view("part", rows, wide)
            if shard.matrices:
                matrices.embed(tokens, shard.matrices, step.span[0], out)
            else:
                embed.embed(tokens, shard.weight, step.span[0], out)

        return run

    def _norm(self, step: Step) -> Run:
        """Of what this device alone produced and takes: the embedding, or sums of others' parts."""
        s, source, wide, weight = self.state, self.result, step.in_features, self.state.shard(step).weight
        added, squares = self.sums_lack_residual and source == "sums", self._new_squares(NORM_PARTS)
        self.squares = squares

        def run(rows: int) -> None:
            hidden, result = s.view("hidden", rows, wide), s.view(source, rows, wide)
            if added:
                hidden += result
            else:
                hidden.copy_(result)
            self._norm_rows(rows, weight, squares)

        return run

    def _norm_rows(self, rows: int, weight: torch.Tensor, squares: torch.Tensor) -> None:
        s, wide = self.state, self.model.hidden
        hidden, scaled = s.view("hidden", rows, wide), s.view("scaled", rows, wide)
        if rows <= FEW_ROWS:
            norm.scaled(hidden, weight, scaled, squares[:rows])
        else:
            norm.norm(hidden, weight, self.model.norm_eps, scaled)

    def _linear(self, step: Step) -> Run:
        s, shard = self.state, self.state.shard(step)
        source, target = self._linear_buffers(step)
        squares = self.squares if source == "scaled" else None

        def run(rows: int) -> None:
            x, out = s.view(source, rows, step.in_features), s.view(target, rows, step.out_features)
            self._product(x, shard, out, squares)

        chosen = torch.zeros(1, step.in_features, dtype=s.formats.weights, device=s.place)
        chosen_sums = None if squares is None else torch.zeros_like(squares[:1])

        def last(rows: int) -> None:
            x, sums, out = s.view(source, rows, step.in_features), squares, s.view(target, 1, step.out_features)
            if rows > 1:
                x = torch.index_select(x, 0, s.last_row, out=chosen)
            if rows > FEW_ROWS:
                sums = None
            elif rows > 1 and squares is not None and chosen_sums is not None:
                sums = torch.index_select(squares, 0, s.last_row, out=chosen_sums)
            self._product(x, shard, out, sums)

        return last if step.block == "head" else run

    def _product(self, x: torch.Tensor, shard: Shard, out: torch.Tensor, squares: torch.Tensor | None) -> None:
        rows = len(x)
        sums = None if squares is None or rows > FEW_ROWS else squares[:rows]
        norms = sums, self.model.hidden, self.model.norm_eps
        if shard.matrices:
            matrices.multiply(shard.matrices, x, shard.bias, out, self.state.scratch, *norms)
        elif rows <= FEW_ROWS:
            linear.linear(x, shard.weight, shard.bias, out, *norms)
        else:
            products.many_rows(x, shard.weight, shard.bias, out)

    def _linear_buffers(self, step: Step) -> tuple[str, str]:
        match step.role:
            case "o_proj":
                source = "gathered" if self.gathered else "mixed"
            case "down_proj":
                source = "gathered" if self.gathered else "activated"
            case "lm_head":
                return "scaled", "logits"
            case _:
                return "scaled", step.role
        self.result, self.gathered = "part", False
        return source, "part"

    def _gate_up(self, step: Step) -> Run:
        s, shard, columns, squares = self.state, self.state.shard(step), step.out_features // 2, self.squares

        def run(rows: int) -> None:
            x, out = s.view("scaled", rows, step.in_features), s.view("activated", rows, columns)
            both = s.view("gate_up", rows, 2 * columns)
            norms = squares[:rows] if rows <= FEW_ROWS else None, self.model.hidden, self.model.norm_eps
            if shard.matrices:
                matrices.gate_up(shard.matrices, x, shard.bias, both, out, s.scratch, *norms)
            elif rows <= FEW_ROWS:
                gate_up.gate_up(x, shard.weight, shard.bias, out, *norms)
            else:
                products.many_rows(x, shard.weight, shard.bias, both)
                swiglu.swiglu(both, out)

        return run

    def _rope(self, step: Step) -> Run:
        s, eps = self.state, self.model.norm_eps
        norms = s.shard(step) if self.model.qk_norm else None
        both = (norms.weight, norms.bias) if norms and norms.bias is not None else None
        keys, values = s.cache[step.layer]

        def run(rows: int) -> None:
            rope.rope(s.view("qkv", rows, step.in_features), s.cos, s.sin, both, eps, keys, values, s.control)

        return run

    def _attention(self, step: Step) -> Run:
        s, window, group = self.state, self.model.windows[step.layer], self.model.group
        keys, values = s.cache[step.layer]
        wide, skipped = step.out_features, step.span[0] % group
        qkv_wide = wide + 2 * step.in_features
        scratch = attention.scratch(wide // self.model.head_dim, self.model.head_dim, FEW_ROWS, len(keys), s.place)

        def run(rows: int) -> None:
            q, out = s.view("qkv", rows, qkv_wide)[:, :wide], s.view("mixed", rows, wide)
            if rows <= FEW_ROWS:
                attention.decode(q, keys, values, s.control, window, out, group, skipped, scratch)
            else:
                attention.prefill(q, keys, values, s.control, window, out, group, skipped)

        return run

    def _argmax(self, step: Step) -> Run:
        s, scratch = self.state, argmax.scratch(self.state.place)
        logits = s.buffers["logits"][: step.in_features]
        return lambda rows: argmax.argmax(logits, step.span[0], s.best_id, s.best_value, scratch)

    def _moved(self, group: Group) -> Run:
        """A block's output on its way: residual, push, pull and norm, as far as this device takes part."""
        by_kind = {step.kind: step for step in group}
        push, pull, normed = (by_kind.get(kind) for kind in (Kind.PUSH, Kind.PULL, Kind.NORM))
        weight = self.state.shard(normed).weight if normed else None
        if push is None and pull is None:
            return self._added(group[0], weight)
        moved = self._exchange(by_kind.get(Kind.RESIDUAL), push, pull, weight)
        run, squares = self.exchanges.bind(self.state, moved)
        self.squares = self.squares if squares is None else squares
        self.result = "part"
        if pull and pull.role == "pull_parts":
            self.result, self.sums_lack_residual = "sums", self.residuals.is_local(pull)
        self.gathered = self.gathered or bool(pull and pull.role == "pull_inputs")
        return run

    def _added(self, step: Step, weight: torch.Tensor | None) -> Run:
        """The residual where nobody else takes part: the block's output is the next hidden state."""
        s, wide = self.state, step.out_features
        assert wide == self.model.hidden
        squares = self._new_squares(NORM_PARTS)
        self.squares = squares

        def run(rows: int) -> None:
            hidden, part, scaled = (s.view(name, rows, wide) for name in ("hidden", "part", "scaled"))
            if rows <= FEW_ROWS and weight is not None:
                norm.scaled(hidden, weight, scaled, squares[:rows], part)
                return
            hidden += part
            if weight is not None:
                self._norm_rows(rows, weight, squares)

        return run

    def _exchange(
        self, residual: Step | None, push: Step | None, pull: Step | None, weight: torch.Tensor | None
    ) -> Moved:
        """What the exchange moves: where a push reads, where a pull writes, who adds the residual."""
        some = push or pull
        assert some is not None
        local = self.residuals.is_local(some)
        inputs = some.role.endswith("inputs")
        source = ("mixed" if some.block == "attention" else "activated") if inputs else self.result
        last = pull is not None and pull.role == "pull_hidden"
        return Moved(
            hidden=self.model.hidden,
            push=push,
            pull=pull,
            source=source,
            target="gathered" if inputs else "hidden" if last else "sums",
            own_residual=residual if not local else None,
            adds_hidden=last and local,
            norm_weight=weight,
        )
