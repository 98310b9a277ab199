"""Random checkpoints at any shape, without transformers: a Hugging Face directory as its tools would write it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec
import torch

from tpplan.planner.model_files import load_model
from tpplan.planner.weight_names import weight_shapes

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def random_checkpoint(folder: Path, config: dict[str, Any], dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Writes `config.json` and `model.safetensors` into `folder`, which it gives back."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(msgspec.json.encode(config))
    generator, header, at, data = torch.Generator().manual_seed(seed), {}, 0, []
    for name, shape in weight_shapes(load_model(folder)).items():
        spread, middle = (
            (0.1, float(name.endswith("norm.weight"))) if len(shape) == 1 else (0.7 / shape[-1] ** 0.5, 0.0)
        )
        values = (torch.randn(shape, generator=generator) * spread + middle).to(dtype)
        raw = values.view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, at := at + len(raw)]}
        data.append(raw)
    head = msgspec.json.encode(header)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"".join(data))
    return folder
