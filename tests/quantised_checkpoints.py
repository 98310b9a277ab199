"""Tiny random checkpoints by the name of how they are quantised: packed ones, and GGUF types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from checkpoints import random_rows, tiny_gguf, tiny_model
from gguf import GGMLQuantizationType as Q
from packers import Format, packed_checkpoint

SHAPE: dict[str, Any] = {
    "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 384,
    "num_hidden_layers": 1,
}  # fmt: skip
WIDE = SHAPE | {"hidden_size": 256, "head_dim": 64, "intermediate_size": 256}
FORMATS = {
    "gptq": Format("gptq"),
    "gptq-act-order": Format("gptq", order=True),
    "gptq-act-order-8-bits": Format("gptq", bits=8, order=True),
    "awq-mixed": Format("awq", config={"modules_to_not_convert": ["v_proj", "0.mlp"]}),
    "compressed-tensors-channels": Format("compressed-tensors", group_size=-1, symmetric=True),
}
KINDS = (Q.Q4_0, Q.Q4_1, Q.Q8_0, Q.Q4_K, Q.Q6_K)
NAMES = (*FORMATS, *(kind.name for kind in KINDS))


def checkpoint(folder: Path, name: str, seed: int, **shape: Any) -> Path:
    """Tables and heads of GGUF files have the type of the matrices; half of the models are tied."""
    tied = bool(seed % 2)
    if name in FORMATS:
        model = tiny_model(
            "qwen2" if name == "awq-mixed" else "llama", seed, tie_word_embeddings=tied, **(SHAPE | shape)
        )
        dense = (lambda n: "v_proj" in n or "0.mlp" in n) if name == "awq-mixed" else lambda n: False
        return packed_checkpoint(model, folder / name, FORMATS[name], seed, dense)
    kind = Q[name]
    least = WIDE if gguf.GGML_QUANT_SIZES[kind][0] > 32 else SHAPE
    model = tiny_model("llama", seed, tie_word_embeddings=tied, **(least | shape))
    rows = lambda weight, kind: random_rows(kind, *weight.shape, seed, exponent=1)  # noqa: E731
    return tiny_gguf(model, folder / f"{name}.gguf", kind, rows)
