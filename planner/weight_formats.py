"""Number formats of weights: bytes a weight, what each matrix is held in, and which columns may be cut apart.

Knows formats. Knows nothing of how they are computed with.
"""

from __future__ import annotations

from collections import Counter
from math import lcm
from typing import Literal

from .model_spec import Held, ModelSpec, Quant, Stored
from .plan import DTYPE_BYTES, MLP_UNIT, Dtype

Form = Literal["float32", "bfloat16", "int8", "int4"]
ROLES = ("embed", "qkv", "o_proj", "gate_up", "down_proj", "lm_head")  # of the steps that hold matrices
SHORT = Held("bfloat16", 1, 2048)
DEFAULT_GROUP = 128  # of a model that is quantised on request


def is_quantised(dtype: Dtype) -> bool:
    return dtype not in DTYPE_BYTES


def native_dtype(model: ModelSpec, gpus: bool) -> Dtype:
    """What a model is held in unless the user says otherwise: as it is stored, else exact on CPUs and short on GPUs,
    whose tables have 32 bits a group for the zero points of a packed checkpoint too.
    """
    if model.quant is not None and gpus:
        return "int4" if model.quant.held_bits == 4 else "int8"
    if model.quant is not None or model.stored is not None:
        return "native"
    return "bfloat16" if gpus else "float32"


def group_size(model: ModelSpec) -> int:
    """Inputs that share a scale and a minimum."""
    if model.quant is None:
        return DEFAULT_GROUP
    return model.quant.group_size if model.quant.group_size > 0 else model.hidden


def held_as(model: ModelSpec, dtype: Dtype, role: str) -> Held:
    """How the matrix of the step `role` is held. ValueError for native weights of a model that is not stored so."""
    if dtype == "native":
        return _native(model, role)
    if role in ("embed", "lm_head"):
        dtype = vocabulary_dtype(dtype)
    if dtype in ("float32", "bfloat16"):
        return Held(dtype, 1, 1024 * DTYPE_BYTES[dtype])  # type: ignore[arg-type]
    group = group_size(model)
    return Held(dtype, group, -(-int(1024 * grouped_bytes(dtype, group) * group) // group))  # type: ignore[arg-type]


def _native(model: ModelSpec, role: str) -> Held:
    if model.stored is not None:
        return model.stored.of(role)
    if model.quant is None:
        raise ValueError("the model has no weights in formats of their own: use another --dtype than native")
    if role in ("embed", "lm_head"):
        return SHORT
    wide = {"o_proj": model.heads * model.head_dim, "down_proj": model.mlp}.get(role, model.hidden)
    return packed_held(model.quant.bits, model.quant.group_size, wide)


def native_formats(model: ModelSpec) -> Stored | None:
    """How every matrix is held as it is stored; None for a model of plain floats."""
    if model.quant is None:
        return model.stored
    return Stored(**{role: _native(model, role) for role in ROLES})


def packed_held(bits: int, group_size: int, inputs: int) -> Held:
    """How a matrix of GPTQ, AWQ or compressed-tensors is held: a 16-bit scale and an 8-bit zero point a group, codes of
    up to four bits in four. Where an output has one group only, its inputs may be cut anywhere.
    """
    group = inputs if group_size == -1 else group_size
    held_bits, form = (8, "int8") if bits == 8 else (4, "int4")
    return Held(form, 1 if group_size == -1 else group, 128 * held_bits + -(-1024 * 3 // group))  # type: ignore[arg-type]


def mean_held(matrices: list[tuple[int, Held]]) -> Held:
    """How matrices of so many weights are held on average: the form of most, groups that suit all."""
    total = sum(weights for weights, _ in matrices)
    forms: Counter[Form] = Counter()
    for weights, each in matrices:
        forms[each.form] += weights
    size = -(-sum(weights * each.bytes_per_1024 for weights, each in matrices) // total)
    return Held(forms.most_common(1)[0][0], lcm(*(each.group_size for _, each in matrices)), size)


def bytes_per_weight(model: ModelSpec, dtype: Dtype) -> float:
    """Of a block's matrices; a group of quantised weights has a 16-bit scale and a 16-bit minimum."""
    if dtype == "native":
        return held_as(model, dtype, "gate_up").bytes_per_1024 / 1024
    return grouped_bytes(dtype, group_size(model)) if is_quantised(dtype) else DTYPE_BYTES[dtype]


def grouped_bytes(dtype: Dtype, group: int) -> float:
    """Bytes of one quantised weight with its part of a scale and a minimum."""
    return (4 if dtype == "int4" else 8) / 8 + 4 / group


def ratio(model: ModelSpec, dtype: Dtype, role: str) -> tuple[int, int]:
    """Bytes of how many weights of the matrix `role`: the second number of weights takes the first number of bytes."""
    if dtype == "native":
        return held_as(model, dtype, role).bytes_per_1024, 1024
    if role in ("embed", "lm_head"):
        dtype = vocabulary_dtype(dtype)
    if not is_quantised(dtype):
        return DTYPE_BYTES[dtype], 1
    group, bits = group_size(model), 4 if dtype == "int4" else 8
    return group * bits // 8 + 4, group


def matrix_bytes(model: ModelSpec, dtype: Dtype, weights: int, role: str = "gate_up") -> int:
    """Bytes of `weights` weights, rounded up."""
    held, of = ratio(model, dtype, role)
    return -(-weights * held // of)


def vocabulary_dtype(dtype: Dtype) -> Dtype:
    """Embedding and head stay in 16 bits where the blocks are quantised on request."""
    return "bfloat16" if dtype in ("int8", "int4") else dtype


def mlp_unit(model: ModelSpec, dtype: Dtype) -> int:
    """MLP columns that are not cut apart: whole kernel tiles, and whole groups of down_proj's inputs."""
    if dtype == "native":
        return lcm(MLP_UNIT, held_as(model, dtype, "down_proj").group_size)
    return lcm(MLP_UNIT, group_size(model)) if is_quantised(dtype) else MLP_UNIT


def check_dtype(model: ModelSpec, dtype: Dtype) -> None:
    """ValueError where weights are asked for in a way they are not stored in."""
    quant: Quant | None = model.quant
    if dtype == "native":
        held_as(model, dtype, "gate_up")
    elif quant is not None and is_quantised(dtype) and dtype != f"int{quant.held_bits}":
        held = quant.held_bits
        raise ValueError(f"the model is stored in {quant.bits} bits: use --dtype native, int{held} or a float format")
