"""How the tensors of a GGUF file are held where they stay as stored, averaged over layers.

Knows which types are computed with as they are, and what else becomes. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from gguf.constants import GGMLQuantizationType as Q

from .model_spec import Held, Stored
from .weight_formats import mean_held

KEPT: dict[Q, Held] = {
    Q.F16: Held("bfloat16", 1, 2048),
    Q.BF16: Held("bfloat16", 1, 2048),
    Q.Q4_0: Held("int4", 32, 512 + 32 * 2),
    Q.Q4_1: Held("int4", 32, 512 + 32 * 4),
    Q.Q5_0: Held("int8", 32, 1024 + 32 * 2),
    Q.Q5_1: Held("int8", 32, 1024 + 32 * 4),
    Q.Q8_0: Held("int8", 32, 1024 + 32 * 2),
    Q.Q4_K: Held("int4", 32, 512 + 32 * 2 + 4 * 4),
    Q.Q5_K: Held("int8", 32, 1024 + 32 * 2 + 4 * 4),
    Q.Q6_K: Held("int8", 16, 1024 + 64 * 1 + 4 * 2),
}
"""Codes, then what groups and blocks have beside them. Codes of 5 and 6 bits take a byte."""
WIDENED = Held("float32", 1, 4096)
"""What any other type becomes."""
_ROLES = {
    "token_embd": "embed",
    "output": "lm_head",
    "attn_q": "qkv",
    "attn_k": "qkv",
    "attn_v": "qkv",
    "attn_output": "o_proj",
    "ffn_gate": "gate_up",
    "ffn_up": "gate_up",
    "ffn_down": "down_proj",
}


def stored_formats(tensors: Mapping[str, tuple[tuple[int, ...], Q]]) -> Stored | None:
    """`tensors`: shape and type by GGUF name. None where all matrices are float32 or bfloat16, which `--dtype` says."""
    kinds: dict[str, list[tuple[int, Q]]] = {}
    for name, (shape, kind) in tensors.items():
        role = _ROLES.get(name.split(".")[2 if name.startswith("blk.") else 0])
        if role and len(shape) == 2:
            kinds.setdefault(role, []).append((prod(shape), kind))
    if all(kind is Q.F32 for each in kinds.values() for _, kind in each):
        return None
    kinds.setdefault("lm_head", kinds["embed"])
    held = {role: [(weights, KEPT.get(kind, WIDENED)) for weights, kind in each] for role, each in kinds.items()}
    return Stored(**{role: mean_held(each) for role, each in held.items()})
