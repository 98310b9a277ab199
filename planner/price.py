"""What a whole split costs: passes priced over the layer graph, summed into prefill and decode.

Knows the workload and the graph's steps. Knows nothing of how splits are found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import msgspec

from ..hwprofiles.profile import HardwareProfile
from .cost import CostModel
from .layer_graph import pass_steps
from .model_spec import ModelSpec
from .plan import PREFILL_CHUNK, CacheDtype, Dtype, LayerPlan, Phase, Predicted, Split, Workload, devices_used
from .steps import Kind, Step
from .weight_formats import group_size

CHUNK_GROUPS = 8


@dataclass(frozen=True)
class Chunk:
    """`count` equal passes over `rows` tokens that see `context` positions on average; `logits` rows get logits."""

    rows: int
    context: int
    count: int
    logits: int


def prefill_chunks(prompt_tokens: int) -> list[Chunk]:
    """The passes of one prompt; many full chunks are priced in at most `CHUNK_GROUPS` groups at their mean context."""
    full, rest = divmod(prompt_tokens, PREFILL_CHUNK)
    last = rest or PREFILL_CHUNK
    inner = full if rest else full - 1
    cuts = sorted({inner * i // CHUNK_GROUPS for i in range(CHUNK_GROUPS + 1)})
    chunks = [
        Chunk(PREFILL_CHUNK, (begin * PREFILL_CHUNK + end * PREFILL_CHUNK + 1) // 2, end - begin, 0)
        for begin, end in pairwise(cuts)
    ]
    return [*chunks, Chunk(last, (2 * prompt_tokens - last + 1) // 2, 1, 1)]


@dataclass(frozen=True)
class Pricer:
    """Prices splits of one model on one machine. Times in seconds."""

    model: ModelSpec
    profile: HardwareProfile
    dtype: Dtype
    workload: Workload
    cache_dtype: CacheDtype = "float32"

    @cached_property
    def cost(self) -> CostModel:
        return CostModel(self.profile, self.dtype, self.cache_dtype, group_size(self.model))

    @property
    def decode_context(self) -> int:
        """Positions that a decode step attends to, at the middle of generation."""
        return max(1, self.workload.prompt_tokens + self.workload.new_tokens // 2)

    @cached_property
    def chunks(self) -> list[Chunk]:
        return prefill_chunks(self.workload.prompt_tokens)

    def pass_s(self, split: Split, rows: int, context: int, logits: int = 1, phase: Phase = "decode") -> float:
        """One pass: the longest path through its graph, plus the largest fixed cost of a device in use."""
        model, short, weights = shorten(self.model, split)
        steps = pass_steps(model, short, rows, context, logits, phase)
        return self._longest_path_s(steps, weights) + self._overhead_s(split)

    def prefill_s(self, split: Split) -> float:
        """All chunks of a prompt, for each sequence of the batch."""
        chunks = sum(c.count * self.pass_s(split, c.rows, c.context, c.logits, "prefill") for c in self.chunks)
        return self.workload.batch * chunks

    def predict(self, split: Split) -> Predicted:
        """Prefill and decode at the mean context of the workload; tokens/s count the whole batch."""
        batch = self.workload.batch
        decode_s = self.pass_s(split, batch, self.decode_context, batch)
        return Predicted(self.prefill_s(split), decode_s, batch / decode_s)

    def objective_s(self, predicted: Predicted) -> float:
        """What plans are compared by: prefill plus all new tokens."""
        return predicted.prefill_s + self.workload.new_tokens * predicted.decode_s_per_token

    def split_s(self, split: Split) -> float:
        """The objective of a split."""
        return self.objective_s(self.predict(split))

    def _overhead_s(self, split: Split) -> float:
        return max(self.profile.devices[d].step_overhead_s for d in devices_used(split))

    def _longest_path_s(self, steps: list[Step], weights: dict[tuple[int, str], int]) -> float:
        """Every consumer of an exchange waits for every producer, so the longest path is the sum over the stages
        between exchanges of the busiest device's time; a layer that stands for a run of equal ones counts as often.
        """
        total, busy, weight = 0.0, dict[int, float](), 1
        site, where, pulling = -1, (-1, "embed"), False
        for step in steps:
            pull, here = step.kind is Kind.PULL, (step.layer, step.block)
            if (pull and step.collective != site) or (not pull and here != where and not pulling):
                total, busy = total + weight * max(busy.values(), default=0.0), {}
            if pull:
                site = step.collective
            else:
                where, weight = here, weights.get(here, 1)
            pulling = pull
            busy[step.device] = busy.get(step.device, 0.0) + self.cost.step_s(step)
        return total + weight * max(busy.values(), default=0.0)


def shorten(model: ModelSpec, split: Split) -> tuple[ModelSpec, Split, dict[tuple[int, str], int]]:
    """The same model with every run of equal layers cut to two, and how often each block's stages then count.

    A run's first attention block follows, and its last MLP block precedes, something else; all others are alike.
    """
    layers: list[LayerPlan] = []
    windows: list[int] = []
    weights: dict[tuple[int, str], int] = {}
    for (window, layer), run in groupby(zip(model.windows, split.layers, strict=True)):
        length = sum(1 for _ in run)
        if length > 1:
            weights[len(layers), "mlp"] = weights[len(layers) + 1, "attention"] = length - 1
        layers += [layer] * min(length, 2)
        windows += [window] * min(length, 2)
    short = msgspec.structs.replace(model, layers=len(layers), windows=tuple(windows))
    return short, Split(split.embedding, tuple(layers), split.head), weights
