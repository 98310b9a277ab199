"""Programs of GPUs over quantised matrices in Triton's interpreter: `python packed_programs.py FOLDER NAME...`, with
TRITON_INTERPRET=1. The truth is the unsplit model of the floats that the files mean.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import interpreting  # noqa: F401
import torch
from checkpoints import random_rows, tiny_gguf, tiny_model
from gguf import GGMLQuantizationType as Q
from gpu_models import unsplit_logits
from gpu_programs import Devices, use_torch_kernels
from packers import Format, packed_checkpoint
from splits import describe, random_split

from tpplan.executor.gpu.matrices import MatrixKeeper
from tpplan.executor.weight_files import WeightFiles, open_weights
from tpplan.executor.weights import HOST
from tpplan.planner.model_files import load_model
from tpplan.planner.weight_formats import mlp_unit

TOKENS = [5, 999, 17, 2000, 3, 64, 2048, 1023, 77, 1500, 12, 13, 14, 15, 16, 170, 18, 19, 20, 2001, 22]
SHAPE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
WIDE = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
}
FORMATS = {
    "gptq": Format("gptq"),
    "gptq-3-bits": Format("gptq", bits=3),
    "gptq-act-order": Format("gptq", order=True),
    "gptq-act-order-8-bits": Format("gptq", bits=8, order=True),
    "awq-mixed": Format("awq", config={"modules_to_not_convert": ["v_proj", "1.mlp"]}),
    "compressed-tensors-channels": Format("compressed-tensors", group_size=-1, symmetric=True),
}
KINDS = (Q.Q4_0, Q.Q4_1, Q.Q5_1, Q.Q8_0, Q.Q4_K, Q.Q5_K, Q.Q6_K)
NAMES = (*FORMATS, *(kind.name for kind in KINDS))


class Meant:
    """The floats of a checkpoint, as `unsplit_logits` asks for them."""

    place = HOST

    def __init__(self, files: WeightFiles) -> None:
        self.whole = files.read


def checkpoint(folder: Path, name: str, seed: int) -> Path:
    """Heads of `Q5_K` and such come out as the file's type too; half of the models are tied."""
    tied = bool(seed % 2)
    if name in FORMATS:
        model = tiny_model("qwen2" if name == "awq-mixed" else "llama", seed, tie_word_embeddings=tied, **SHAPE)
        dense = (lambda n: "v_proj" in n or "1.mlp" in n) if name == "awq-mixed" else lambda n: False
        return packed_checkpoint(model, folder / name, FORMATS[name], seed, dense)
    kind = Q[name]
    model = tiny_model(
        "llama", seed, tie_word_embeddings=tied, **(WIDE if gguf.GGML_QUANT_SIZES[kind][0] > 32 else SHAPE)
    )
    rows = lambda weight, kind: random_rows(kind, *weight.shape, seed, exponent=1)  # noqa: E731
    return tiny_gguf(model, folder / f"{name}.gguf", kind, rows)


def check(folder: Path, name: str, seed: int) -> None:
    """A prompt in two pieces, of few rows and of many, then tokens, under a random split."""
    path = checkpoint(folder, name, seed)
    model = load_model(path)
    split = random_split(model, 1 + seed % 3, seed, mlp_unit(model, "native"))
    with open_weights(path, model) as files:
        devices = Devices(model, files, split, torch.float32, MatrixKeeper(HOST))
        truth = unsplit_logits(model, Meant(files), TOKENS, torch.float32)  # type: ignore[arg-type]
    held = [shard.matrices for state in devices.states for shard in state.shards.values() if shard.matrices]
    assert held, f"{name}: nothing stayed quantised"
    devices.run(TOKENS[:3], 0, "prefill")
    found = {19: devices.run(TOKENS[3:20], 3, "prefill"), 20: devices.run(TOKENS[20:], 20, "decode")}
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
