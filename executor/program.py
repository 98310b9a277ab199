"""A device's steps bound to its buffers, weights, cache and host slots: once, then run for every pass.

Each step is bound in two forms: a call for any number of rows (prefill), and a tape instruction for one row (decode).
Which buffer a step reads and writes is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..kernels import attention, embed, linear, norm, rope, staging, swiglu, tape
from ..planner.model_spec import ModelSpec
from ..planner.steps import Kind, Step
from .state import DeviceState

Call = Callable[[int, int], None]  # rows, position of the first
Instruction = tuple[int, ...]


@dataclass(frozen=True)
class Bound:
    """`awaited`: the devices that this step may wait for, in the order in which the tape numbers them."""

    step: Step
    call: Call
    instruction: Instruction
    awaited: tuple[int, ...] = ()


def address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


class Binder:
    """Binds the steps of one device in order; keeps track of which buffer holds the hidden state."""

    def __init__(self, model: ModelSpec, state: DeviceState) -> None:
        self.model, self.state = model, state
        self.hidden, self.part = "hidden", "part"
        self.part_is_next = False  # a block's result is still in `part`: nobody exchanges it
        self.used_slots: dict[int, Step] = {}  # ring index -> this device's last push there
        self.gathered = False

    def bind(self, steps: Iterable[Step]) -> list[Bound]:
        return [Bound(step, *getattr(self, f"_{step.kind}")(step)) for step in steps]

    def _embed(self, step: Step) -> tuple[Call, Instruction]:
        s, part = self.state, self.part
        table = s.shard(step).weight
        self.part_is_next = True

        def call(rows: int, position: int) -> None:
            embed.reference(s.tokens[:rows], table, step.span[0], s.view(part, rows, step.out_features))

        form = linear.FORMATS[table.dtype]
        return call, (tape.EMBED, address(table), s.at(part), step.span[0], len(table), step.out_features, form)

    def _norm(self, step: Step) -> tuple[Call, Instruction]:
        if self.part_is_next:
            self.hidden, self.part, self.part_is_next = self.part, self.hidden, False
        self.gathered = False
        s, source, eps, wide = self.state, self.hidden, self.model.norm_eps, step.in_features
        weight = s.shard(step).weight

        def call(rows: int, position: int) -> None:
            x = s.view(source, rows, wide)[-rows if step.block != "head" else -1 :]
            norm.reference(x, weight, eps, s.view("normed", len(x), wide))

        return call, (tape.NORM, s.at(source), address(weight), s.at("normed"), wide, tape.bits(eps))

    def _linear(self, step: Step) -> tuple[Call, Instruction]:
        s, shard = self.state, self.state.shard(step)
        source, target = self._linear_buffers(step)

        def call(rows: int, position: int) -> None:
            rows = 1 if step.block == "head" else rows
            x, out = s.view(source, rows, step.in_features), s.view(target, rows, step.out_features)
            linear.reference(x, shard.weight, shard.bias, out)

        form = linear.FORMATS[shard.weight.dtype]
        where = (s.at(source), address(shard.weight), address(shard.bias), s.at(target))
        return call, (tape.LINEAR, *where, step.in_features, step.out_features, form)

    def _linear_buffers(self, step: Step) -> tuple[str, str]:
        match step.role:
            case "o_proj":
                return "gathered" if self.gathered else "mixed", self.part
            case "down_proj":
                return "gathered" if self.gathered else "activated", self.part
            case "lm_head":
                return "normed", "logits"
        return "normed", step.role

    def _rope(self, step: Step) -> tuple[Call, Instruction]:
        s, model = self.state, self.model
        norms = s.shard(step) if model.qk_norm else None
        weights = (norms.weight, norms.bias) if norms and norms.bias is not None else None
        keys, values = s.cache[step.layer]

        def call(rows: int, position: int) -> None:
            qkv = s.view("qkv", rows, step.in_features)
            rope.reference(qkv, s.cos, s.sin, weights, model.norm_eps, keys, values, position)

        kv_heads, capacity, head_dim = keys.shape
        heads = step.in_features // head_dim - 2 * kv_heads
        where = (s.at("qkv"), address(s.cos), address(s.sin), address(keys), address(values))
        norm_at = (address(weights[0]), address(weights[1])) if weights else (0, 0)
        return call, (tape.ROPE, *where, heads, kv_heads, head_dim, capacity, *norm_at, tape.bits(model.norm_eps))

    def _attention(self, step: Step) -> tuple[Call, Instruction]:
        s, window = self.state, self.model.windows[step.layer]
        keys, values = s.cache[step.layer]
        kv_heads, capacity, head_dim = keys.shape
        qkv_wide = step.out_features + 2 * step.in_features

        def call(rows: int, position: int) -> None:
            q = s.view("qkv", rows, qkv_wide)[:, : step.out_features]
            attention.reference(q, keys, values, position, window, s.view("mixed", rows, step.out_features))

        where = (s.at("qkv"), address(keys), address(values), s.at("mixed"), address(s.scores))
        return call, (tape.ATTENTION, *where, step.out_features // head_dim, kv_heads, head_dim, capacity, window)

    def _swiglu(self, step: Step) -> tuple[Call, Instruction]:
        s, columns = self.state, step.out_features

        def call(rows: int, position: int) -> None:
            swiglu.reference(s.view("gate_up", rows, 2 * columns), s.view("activated", rows, columns))

        return call, (tape.SWIGLU, s.at("gate_up"), s.at("activated"), columns)

    def _residual(self, step: Step) -> tuple[Call, Instruction]:
        s, part, hidden, (begin, end) = self.state, self.part, self.hidden, step.span
        self.part_is_next = True

        def call(rows: int, position: int) -> None:
            s.view(part, rows, end - begin).add_(s.view(hidden, rows, self.model.hidden)[:, begin:end])

        return call, (tape.RESIDUAL, s.at(part), s.at(hidden) + 4 * begin, end - begin)

    def _argmax(self, step: Step) -> tuple[Call, Instruction]:
        s, begin = self.state, step.span[0]

        def call(rows: int, position: int) -> None:
            best = s.view("logits", 1, step.in_features)[0].max(dim=0)
            s.best_id.fill_(best.indices + begin)
            s.best_logit.fill_(best.values)

        return call, (tape.ARGMAX, s.at("logits"), step.in_features, begin, address(s.best_id), address(s.best_logit))

    def _produced(self, role: str, block: str) -> str:
        """The buffer whose content an exchange moves."""
        if role.endswith("hidden"):
            return self.part
        return "mixed" if block == "attention" else "activated"

    def _push(self, step: Step) -> tuple[Call, Instruction, tuple[int, ...]]:
        s, wide, site = self.state, step.in_features, step.collective
        source, slot = self._produced(step.role, step.block), s.staging.slot(site, s.device)
        ring = site % staging.SLOT_RING
        earlier = self.used_slots.get(ring)
        self.used_slots[ring] = step
        self.part_is_next = False
        readers = tuple(p for p in earlier.peers if p != s.device) if earlier else ()
        words = s.keep(np.array([s.staging.pulled_address(p) for p in readers], dtype=np.int64))
        before = earlier.collective if earlier else -1

        def call(rows: int, position: int) -> None:
            for peer, word in zip(readers, words, strict=True):
                s.wait(int(word), before, peer)
            slot[: rows * wide].view(rows, wide).copy_(s.view(source, rows, wide))
            s.signal(s.staging.pushed_address(s.device), site)

        where = (s.at(source), address(slot), wide, site, s.staging.pushed_address(s.device))
        return call, (tape.PUSH, *where, before, words.ctypes.data, len(readers)), readers

    def _pull(self, step: Step) -> tuple[Call, Instruction, tuple[int, ...]]:
        s, site, total = self.state, step.collective, step.out_features
        mine = self._produced(step.role, step.block)
        target = self.hidden if step.role.endswith("hidden") else "gathered"
        self.gathered = target == "gathered"
        self.part_is_next = False
        pushed = [0 if p == s.device else s.staging.pushed_address(p) for p in step.peers]
        slots = [s.staging.slot(site, p) for p in step.peers]
        producers = list(zip(step.peers, step.widths, pushed, slots, strict=True))
        rows_of_table = [(word, address(slot) if word else s.at(mine), wide) for _, wide, word, slot in producers]
        parts = s.keep(np.array(rows_of_table, dtype=np.int64))

        def call(rows: int, position: int) -> None:
            out, at = s.view(target, rows, total), 0
            for n, (peer, wide, word, slot) in enumerate(producers):
                if word:
                    s.wait(word, site, peer)
                part = slot[: rows * wide].view(rows, wide) if word else s.view(mine, rows, wide)
                if step.combine == "concat":
                    out[:, at : (at := at + wide)] = part
                else:
                    out.copy_(part) if n == 0 else out.add_(part)
            s.signal(s.staging.pulled_address(s.device), site)

        how = tape.CONCAT if step.combine == "concat" else tape.SUM
        where = (s.at(target), site, parts.ctypes.data, len(producers), how, s.staging.pulled_address(s.device))
        return call, (tape.PULL, *where), step.peers
