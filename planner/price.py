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
from .model_spec import ModelSpec
from .plan import CacheDtype, Dtype, LayerPlan, Phase, Predicted, Split, Workload, devices_used
from .stage_sums import StageSums
from .weight_formats import group_size, native_formats

CHUNK_GROUPS = 8


@dataclass(frozen=True)
class Chunk:
    """`count` equal passes over `rows` tokens that see `context` positions on average; `logits` rows get logits."""

    rows: int
    context: int
    count: int
    logits: int


def prefill_chunks(prompt_tokens: int, size: int) -> list[Chunk]:
    """The passes of one prompt in chunks of `size`; many full ones are priced in at most `CHUNK_GROUPS` groups at their
    mean context.
    """
    full, rest = divmod(prompt_tokens, size)
    last = rest or size
    inner = full if rest else full - 1
    cuts = sorted({inner * i // CHUNK_GROUPS for i in range(CHUNK_GROUPS + 1)})
    chunks = [Chunk(size, (begin * size + end * size + 1) // 2, end - begin, 0) for begin, end in pairwise(cuts)]
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
        return CostModel(self.profile, self.dtype, self.cache_dtype, group_size(self.model), native_formats(self.model))

    @cached_property
    def _stages(self) -> StageSums:
        return StageSums(self.model, self.cost)

    @property
    def decode_context(self) -> int:
        """Positions that a decode step attends to, at the middle of generation."""
        return max(1, self.workload.prompt_tokens + self.workload.new_tokens // 2)

    @cached_property
    def chunks(self) -> list[Chunk]:
        return prefill_chunks(self.workload.prompt_tokens, self.workload.prefill_chunk)

    def pass_s(self, split: Split, rows: int, context: int, logits: int = 1, phase: Phase = "decode") -> float:
        """One pass: the sum of its stages, plus the largest fixed cost of a device in use."""
        return self._stages.pass_s(split, (rows, context, logits, phase)) + self.overhead_s(split)

    def phase_chunks(self, phase: Phase) -> list[Chunk]:
        """The passes of one decode step, or of one prompt."""
        batch = self.workload.batch
        return [Chunk(batch, self.decode_context, 1, batch)] if phase == "decode" else self.chunks

    def phase_s(self, split: Split, phase: Phase) -> float:
        """A decode step of the whole batch, or the prefill of one prompt."""
        return sum(c.count * self.pass_s(split, c.rows, c.context, c.logits, phase) for c in self.phase_chunks(phase))

    def prefill_s(self, split: Split) -> float:
        """Every sequence of the batch, one after the other."""
        return self.workload.batch * self.phase_s(split, "prefill")

    def predict(self, split: Split) -> Predicted:
        """Prefill of each sequence, and decode at the mean context of the workload; tokens/s count the whole batch."""
        batch, decode_s = self.workload.batch, self.phase_s(split, "decode")
        return Predicted(self.prefill_s(split), decode_s, batch / decode_s)

    def objective_s(self, predicted: Predicted) -> float:
        """What plans are compared by: prefill plus all new tokens."""
        return predicted.prefill_s + self.workload.new_tokens * predicted.decode_s_per_token

    def split_s(self, split: Split) -> float:
        """The objective of a split."""
        return self.objective_s(self.predict(split))

    def overhead_s(self, split: Split) -> float:
        """The fixed cost of a pass: the largest among the devices in use."""
        return max(self.profile.devices[d].step_overhead_s for d in devices_used(split))


def shortened(model: ModelSpec, split: Split) -> tuple[ModelSpec, Split, dict[tuple[int, str], int]]:
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
