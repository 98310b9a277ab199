"""The tensors of a GGUF file under their Hugging Face names.

Knows which tensors llama.cpp's converter permutes. Knows nothing of decoding.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..planner.gguf_header import read_header
from ..planner.model_spec import ModelSpec
from ..planner.weight_names import ROPE_FREQS, hf_name
from .dequantise import READABLE
from .stored import Stored

_PERMUTED = re.compile(r"\.self_attn\.[qk]_proj\.")


def gguf_tensors(path: Path, spec: ModelSpec) -> dict[str, Stored]:
    """Every tensor by its Hugging Face name; ValueError for a type that is not read."""
    header = read_header(path)
    permutes = header.metadata["general.architecture"] == "llama"
    tensors = {}
    for name, tensor in header.tensors.items():
        if tensor.type not in READABLE:
            known = ", ".join(kind.name for kind in READABLE)
            raise ValueError(f"{path}: tensor {name!r} has the type {tensor.type.name}; {known} are read")
        known_as = hf_name(name)
        if name != ROPE_FREQS:  # already part of the spec
            head_rows = spec.head_dim if permutes and _PERMUTED.search(known_as) else 0
            tensors[known_as] = Stored(path, tensor.offset, tensor.shape, tensor.type, head_rows)
    return tensors
