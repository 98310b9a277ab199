"""Decode and prefill of a model at real shapes on GPUs or parts of one: python benchmarks/gpu_decode.py

Weights are random; correctness comes first: logits after a prompt and some steps against an unsplit float32 model, beside
what the unsplit model loses in the format of the weights. Then each rig: planned, even and layer split, with and without
collectives. Needs torch, triton, msgspec, networkx; and cuda-bindings for parts of a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import median

import torch
from gpu_models import RandomWeights, unsplit_logits

from tpplan.executor.gpu.devices import open_devices
from tpplan.executor.gpu.loading import GpuLoader
from tpplan.planner.hf_config import read_config
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import HIDDEN_UNIT, VOCAB_UNIT, BlockPlan, LayerPlan, Range, Split
from tpplan.planner.units import Units, proportional

PROMPT = 512


def split_by(model: ModelSpec, weights: Sequence[float], strategy: str = "row") -> Split:
    """Every block in proportion to `weights`: query heads, MLP columns, vocabulary rows."""

    def spans(total: int, unit: int) -> tuple[Range, ...]:
        units = Units(total, unit)
        return units.spans(proportional(units.count, weights))

    def block(total: int, unit: int) -> BlockPlan:
        outputs = spans(model.hidden, HIDDEN_UNIT) if strategy == "column" and len(weights) > 1 else ()
        return BlockPlan("column" if outputs else "row", spans(total, unit), outputs)

    layer = LayerPlan(block(model.heads, 1), block(model.mlp, 128))
    table = spans(model.vocab, VOCAB_UNIT)
    return Split(table, (layer,) * model.layers, table)
