"""What one device holds while it runs: shards, KV cache, buffers, its view of the host slots.

Knows sizes. Knows neither the order of steps nor who else takes part. Both phases run over one state, one after the
other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ..kernels import staging
from ..kernels.worker import Worker
from ..planner.model_spec import ModelSpec
from ..planner.plan import kv_span, size
from ..planner.steps import Kind, Step
from .weights import Key, Shard

WAIT_LIMIT_S = 60.0
LANE_GRACE_S = 2.0


def buffer_widths(steps: Iterable[Step], hidden: int) -> dict[str, int]:
    """Widest use of each buffer, in float32 values a row. `hidden`, `part` and `sums` swap where nothing is exchanged,
    so all are as wide as the hidden state.
    """
    widths = {"hidden": hidden, "part": hidden, "normed": hidden}
    names = {"qkv": "qkv", "gate_up": "gate_up", "attention": "mixed", "swiglu": "activated", "pull_inputs": "gathered"}
    for step in steps:
        if step.role == "pull_parts":
            widths["sums"] = hidden
        elif name := names.get(step.role):
            widths[name] = max(widths.get(name, 0), step.out_features)
    return widths


class DeviceState:
    """Made on the device's own thread, so that memory is touched first where it is used.

    `steps`: all that it will run, in any phase, none twice; `rows`: of its largest pass.
    """

    def __init__(
        self,
        worker: Worker,
        device: int,
        model: ModelSpec,
        steps: list[Step],
        shards: dict[Key, Shard],
        ropes: tuple[torch.Tensor, torch.Tensor],
        logits: torch.Tensor,
        rows: int,
        cache_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.worker, self.device, self.shards = worker, device, shards
        self.cos, self.sin = ropes
        capacity = len(self.cos)
        self.cache = {
            step.layer: torch.zeros(
                2, size(kv_span(step.span, model.group)), capacity, model.head_dim, dtype=cache_dtype
            )
            for step in steps
            if step.kind is Kind.ROPE
        }
        self.scores = torch.zeros(worker.lanes, capacity)
        self.token_words = np.zeros(rows, dtype=np.int64)
        self.best_id, self.best_logit = torch.zeros(1, dtype=torch.int64), torch.zeros(1)
        self.buffers = {name: torch.zeros(rows * wide) for name, wide in buffer_widths(steps, model.hidden).items()}
        for step in steps:
            if step.role == "lm_head":
                self.buffers["logits"] = logits[slice(*step.span)]
        scratch_floats = max((shard.parts.scratch_floats for shard in shards.values() if shard.parts), default=0)
        self.scratch = torch.zeros(worker.lanes, scratch_floats)
        self.words = np.zeros(5, dtype=np.int64)  # tape.POSITION and so on
        self.arrived = np.zeros((worker.lanes, staging.LINE_BYTES // 8), dtype=np.int64)
        self.trouble = np.zeros((worker.lanes, 3), dtype=np.int64)
        self.kept: list[Any] = []

    def shard(self, step: Step) -> Shard:
        return self.shards[step.layer, step.block, step.role]

    def view(self, name: str, rows: int, wide: int) -> torch.Tensor:
        """The first `rows * wide` values of a buffer as [rows, wide]."""
        return self.buffers[name][: rows * wide].view(rows, wide)

    def at(self, name: str) -> int:
        """Address of a buffer."""
        return self.buffers[name].data_ptr()

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Keeps `array` alive as long as instructions may point at it."""
        self.kept.append(array)
        return array

    def deadline_ns(self, lane: int = 0) -> int:
        """When a wait that begins now gives up, on the monotonic clock: lane 0 first, since it alone knows for whom."""
        return time.monotonic_ns() + int((WAIT_LIMIT_S + (LANE_GRACE_S if lane else 0.0)) * 1e9)
