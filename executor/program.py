"""A device's steps bound to its buffers, weights, cache and host slots: once, then run for every pass.

Every step becomes a tape instruction. Products and attention also become calls that take several rows (prefill), where
torch is faster than a tape. Which buffer a step reads and writes is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..kernels import attention, grouped, linear, staging, tape
from ..planner.model_spec import ModelSpec
from ..planner.plan import size
from ..planner.steps import Step
from .state import DeviceState

Call = Callable[[int, int], None]  # rows, position of the first
Instruction = tuple[int, ...]


@dataclass(frozen=True)
class Bound:
    """`call`: for more rows than `tape_rows`, None where the tape takes any. `awaited`: the devices that this step may
    wait for, in the order in which the tape numbers them.
    """

    step: Step
    instruction: Instruction
    call: Call | None = None
    tape_rows: int = 1
    awaited: tuple[int, ...] = ()


def address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _dense(weight: torch.Tensor) -> tuple[int, int]:
    """Address and the tape's number of the format."""
    return address(weight), linear.FORMATS[weight.dtype]


class StepBinder:
    """Binds the steps of one device in one phase, in order; keeps track of which buffer holds the hidden state.

    How devices exchange is left to whoever inherits: `_push` and `_pull`.
    """

    def __init__(self, model: ModelSpec, state: DeviceState) -> None:
        self.model, self.state = model, state
        self.buffers = {"hidden": "hidden", "part": "part", "sums": "sums"}  # which buffer plays which
        self.result = "part"  # or "sums": what holds this device's share of a block's output
        self.exchanged = True  # False while nobody has pushed or pulled `result`: it may be the next hidden state
        self.gathered = False

    def bind(self, steps: Iterable[Step]) -> list[Bound]:
        """In the order of a pass."""
        return [getattr(self, f"_{step.kind}")(step) for step in steps]

    def _embed(self, step: Step) -> Bound:
        s, shard = self.state, self.state.shard(step)
        part = self._new_result("part")
        where, form = (shard.parts.address, linear.PARTS) if shard.parts else _dense(shard.weight)
        sizes = (step.span[0], size(step.span), step.out_features, form)
        return Bound(step, (tape.EMBED, where, s.at(part), *sizes, s.token_words.ctypes.data))

    def _norm(self, step: Step) -> Bound:
        if not self.exchanged:
            names = self.buffers
            names["hidden"], names[self.result], self.exchanged = names[self.result], names["hidden"], True
        self.gathered = False
        s, weight = self.state, self.state.shard(step).weight
        where = (s.at(self.buffers["hidden"]), address(weight), s.at("normed"))
        last_row_only = int(step.block == "head")
        return Bound(step, (tape.NORM, *where, step.in_features, tape.bits(self.model.norm_eps), last_row_only))

    def _linear(self, step: Step) -> Bound:
        s, shard, head = self.state, self.state.shard(step), step.block == "head"
        source, target = self._linear_buffers(step)
        parts, bias, sizes = shard.parts, shard.bias, (step.in_features, step.out_features)

        def call(rows: int, position: int) -> None:
            x, out = s.view(source, rows, step.in_features), s.view(target, rows, step.out_features)
            if parts:
                grouped.reference(x, parts.table, bias, out)
            else:
                linear.reference(x, shard.weight, bias, out)

        where, form = (parts.address, linear.PARTS) if parts else _dense(shard.weight)
        instruction: Instruction = (tape.LINEAR, s.at(source), where, address(bias), s.at(target), *sizes, form)
        if parts:
            instruction += (len(parts.parts), address(s.scratch), s.scratch.shape[1], int(head))
        return Bound(step, instruction, None if head else call, tape_rows=grouped.MOST_ROWS if parts else 1)

    def _linear_buffers(self, step: Step) -> tuple[str, str]:
        match step.role:
            case "o_proj":
                return "gathered" if self.gathered else "mixed", self._new_result("part")
            case "down_proj":
                return "gathered" if self.gathered else "activated", self._new_result("part")
            case "lm_head":
                return "normed", "logits"
        return "normed", step.role

    def _new_result(self, name: str) -> str:
        """The buffer that this device's share of a block's output goes to."""
        self.result, self.exchanged = name, False
        return self.buffers[name]

    def _rope(self, step: Step) -> Bound:
        s, model = self.state, self.model
        norms = s.shard(step) if model.qk_norm else None
        keys, values = s.cache[step.layer]
        kv_heads, capacity, head_dim = keys.shape
        heads = step.in_features // head_dim - 2 * kv_heads
        where = (s.at("qkv"), address(s.cos), address(s.sin), address(keys), address(values))
        norm_at = (address(norms.weight), address(norms.bias)) if norms else (0, 0)
        sizes = (heads, kv_heads, head_dim, capacity)
        form = linear.FORMATS[keys.dtype]
        return Bound(step, (tape.ROPE, *where, *sizes, *norm_at, tape.bits(model.norm_eps), form))

    def _attention(self, step: Step) -> Bound:
        s, window, group = self.state, self.model.windows[step.layer], self.model.group
        keys, values = s.cache[step.layer]
        kv_heads, capacity, head_dim = keys.shape
        qkv_wide, skipped = step.out_features + 2 * step.in_features, step.span[0] % group

        def call(rows: int, position: int) -> None:
            q, out = s.view("qkv", rows, qkv_wide)[:, : step.out_features], s.view("mixed", rows, step.out_features)
            attention.reference(q, keys, values, position, window, out, group, skipped)

        where = (s.at("qkv"), address(keys), address(values), s.at("mixed"), address(s.scores))
        sizes = (step.out_features // head_dim, kv_heads, head_dim, capacity)
        heads = (group, skipped, linear.FORMATS[keys.dtype])
        return Bound(step, (tape.ATTENTION, *where, *sizes, window, *heads), call)

    def _swiglu(self, step: Step) -> Bound:
        return Bound(step, (tape.SWIGLU, self.state.at("gate_up"), self.state.at("activated"), step.out_features))

    def _residual(self, step: Step) -> Bound:
        s, (begin, end) = self.state, step.span
        where = (s.at(self.buffers["part"]), s.at(self.buffers["hidden"]) + 4 * begin)
        return Bound(step, (tape.RESIDUAL, *where, end - begin, self.model.hidden))

    def _argmax(self, step: Step) -> Bound:
        s = self.state
        best = (address(s.best_id), address(s.best_logit))
        return Bound(step, (tape.ARGMAX, s.at("logits"), step.in_features, step.span[0], *best))

    def _produced(self, step: Step) -> str:
        """The buffer whose content an exchange moves."""
        if step.role.endswith("inputs"):
            return "mixed" if step.block == "attention" else "activated"
        return self.buffers[self.result]

    def _pull_target(self, step: Step) -> str:
        match step.role:
            case "pull_parts":
                return self._new_result("sums")
            case "pull_inputs":
                self.gathered = self.exchanged = True
                return "gathered"
        self.exchanged = True
        return self.buffers["hidden"]


class Binder(StepBinder):
    """Binds steps whose exchanges go through the slots of `shared`."""

    def __init__(self, model: ModelSpec, state: DeviceState, shared: staging.Staging) -> None:
        super().__init__(model, state)
        self.staging = shared
        self.used_slots: dict[int, Step] = {}  # ring index -> this device's last push there

    def _push(self, step: Step) -> Bound:
        s, site = self.state, step.collective
        ring = site % staging.SLOT_RING
        earlier = self.used_slots.get(ring)
        self.used_slots[ring] = step
        self.exchanged = True
        readers = tuple(p for p in earlier.peers if p != s.device) if earlier else ()
        pulled = s.keep(np.array([self.staging.pulled_address(p) for p in readers], dtype=np.int64))
        where = (s.at(self._produced(step)), address(self.staging.slot(site, s.device)), step.in_features)
        before = earlier.collective if earlier else -1
        waits = (before, pulled.ctypes.data, len(readers))
        return Bound(step, (tape.PUSH, *where, site, self.staging.pushed_address(s.device), *waits), awaited=readers)

    def _pull(self, step: Step) -> Bound:
        s, site, mine = self.state, step.collective, self._produced(step)
        target = self._pull_target(step)
        begin, stride = (step.span[0], self.model.hidden) if step.role == "pull_parts" else (0, 0)
        parts = [(*self._part(site, p, mine, begin), wide) for p, wide in zip(step.peers, step.widths, strict=True)]
        table = s.keep(np.array(parts, dtype=np.int64))
        how = tape.CONCAT if step.combine == "concat" else tape.SUM
        where = (s.at(target), site, table.ctypes.data, len(parts), how)
        instruction = (tape.PULL, *where, self.staging.pulled_address(s.device), step.out_features, stride)
        return Bound(step, instruction, awaited=step.peers)

    def _part(self, site: int, producer: int, mine: str, begin: int) -> tuple[int, int]:
        """Pushed word (0 for this device) and address of a producer's part, from value `begin` on."""
        if producer == self.state.device:
            return 0, self.state.at(mine) + 4 * begin
        return self.staging.pushed_address(producer), address(self.staging.slot(site, producer)) + 4 * begin
