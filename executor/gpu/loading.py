"""Loads what the GPU devices of a plan hold, all at once, and binds, warms and captures their programs.

Knows the order in which devices come to life: nothing may wait for a peer before all kernels of all devices are loaded,
since loading a kernel waits for kernels that wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...planner.model_spec import ModelSpec
from ...planner.plan import Plan
from ..weights import WeightFiles
from .workers import GpuWorker

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class GpuLoader:
    """`files_of`: how a device reads the checkpoint, called on its thread."""

    plan: Plan
    model: ModelSpec
    workers: dict[int, GpuWorker]
    files_of: Callable[[int], WeightFiles]
