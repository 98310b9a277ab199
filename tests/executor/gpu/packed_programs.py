"""Programs of GPUs over quantised matrices in Triton's interpreter: `python packed_programs.py FOLDER NAME...`, with
TRITON_INTERPRET=1. The truth is the unsplit model of the floats that the files mean.
"""

from __future__ import annotations

import sys
from pathlib import Path

import interpreting  # noqa: F401
import torch
from gpu_models import unsplit_logits
from gpu_programs import Devices, use_torch_kernels
from quantised_checkpoints import NAMES, checkpoint
from splits import describe, random_split

from tpplan.executor.gpu.matrices import MatrixKeeper
from tpplan.executor.weight_files import WeightFiles, open_weights
from tpplan.executor.weights import HOST
from tpplan.planner.model_files import load_model
from tpplan.planner.weight_formats import mlp_unit

TOKENS = [5, 299, 17, 200, 3, 64, 348, 323, 77, 150, 12, 13, 14, 15, 16, 170, 18, 19]


class Meant:
    """The floats of a checkpoint, as `unsplit_logits` asks for them."""

    place = HOST

    def __init__(self, files: WeightFiles) -> None:
        self.whole = files.read


def check(folder: Path, name: str, seed: int) -> None:
    """A prompt of more rows than a kernel takes, then a token, under a random split."""
    path = checkpoint(folder, name, seed)
    model = load_model(path)
    split = random_split(model, 1 + seed % 3, seed, mlp_unit(model, "native"))
    with open_weights(path, model) as files:
        devices = Devices(model, files, split, torch.float32, MatrixKeeper(HOST))
        truth = unsplit_logits(model, Meant(files), TOKENS, torch.float32)  # type: ignore[arg-type]
    held = [shard.matrices for state in devices.states for shard in state.shards.values() if shard.matrices]
    assert held, f"{name}: nothing stayed quantised"
    found = {16: devices.run(TOKENS[:17], 0, "prefill"), 17: devices.run(TOKENS[17:], 17, "decode")}
    for at, logits in found.items():
        error = float((logits - truth[at]).abs().max() / truth.abs().max())
        assert error <= 2e-5, f"{name}: token {at} is off by {error:.2g}\n{describe(split)}"


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    use_torch_kernels()
    for name in names:
        check(folder, name, NAMES.index(name))
        print("ok", name, flush=True)


if __name__ == "__main__":
    main()
