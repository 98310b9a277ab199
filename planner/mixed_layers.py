"""Which matrices of a Hugging Face checkpoint are quantised how, where its config names some that differ.

Knows the lists of names and patterns of GPTQModel, AutoAWQ and compressed-tensors. Knows nothing of files.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

from .model_spec import Held, ModelSpec, Quant, Stored
from .weight_formats import SHORT, mean_held, packed_held
from .weight_names import weight_shapes

_ROLES = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "o_proj", "gate": "gate_up", "up": "gate_up", "down": "down_proj"}


def mixed_formats(spec: ModelSpec, config: dict[str, Any]) -> Stored:
    """`config`: the checkpoint's `quantization_config`. Averages over layers, as of a GGUF file."""
    assert spec.quant
    kinds: dict[str, list[tuple[int, Held]]] = {"embed": [(1, SHORT)], "lm_head": [(1, SHORT)]}
    for name, shape in weight_shapes(spec).items():
        if name.endswith("_proj.weight"):
            module = name.removesuffix(".weight")
            role = _ROLES[module.rpartition(".")[2].removesuffix("_proj")]
            kinds.setdefault(role, []).append((prod(shape), _held(module, shape[1], spec.quant, config)))
    return Stored(**{role: mean_held(each) for role, each in kinds.items()})


def _held(module: str, inputs: int, quant: Quant, config: dict[str, Any]) -> Held:
    left_out, own = _exception(module, config)
    return (
        SHORT if left_out else packed_held(own.get("bits", quant.bits), own.get("group_size", quant.group_size), inputs)
    )


def _exception(module: str, config: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether the matrix is left as it was, and what is said of it alone."""
    if any(part in module for part in config.get("modules_to_not_convert") or ()):
        return True, {}
    if any(_ignores(pattern, module) for pattern in config.get("ignore") or ()):
        return True, {}
    inside = [name for names in config.get("modules_in_block_to_quantize") or () for name in names]
    if inside and not any(module.endswith(name) for name in inside):
        return True, {}
    for pattern, own in (config.get("dynamic") or {}).items():
        if re.match(pattern.lstrip("+-:"), module):
            return pattern.startswith("-"), own if isinstance(own, dict) else {}
    return False, {}


def _ignores(pattern: str, module: str) -> bool:
    return bool(re.match(pattern[3:], module)) if pattern.startswith("re:") else pattern == module
