"""Number formats of weights: bytes a weight, what each matrix is held in, and which columns may be cut apart.

Knows formats. Knows nothing of how they are computed with.
"""

from __future__ import annotations

from math import lcm

from .model_spec import ModelSpec, Quant
from .plan import DTYPE_BYTES, MLP_UNIT, Dtype

DEFAULT_GROUP = 128  # of a model that is quantised on request


def is_quantised(dtype: Dtype) -> bool:
    return dtype not in DTYPE_BYTES


def native_dtype(model: ModelSpec, gpus: bool) -> Dtype:
    """What a model is held in unless the user says otherwise: as it is stored, else exact on CPUs and short on GPUs."""
    if model.quant is not None:
        return "int4" if model.quant.bits == 4 else "int8"
    return "bfloat16" if gpus else "float32"


def group_size(model: ModelSpec) -> int:
    """Inputs that share a scale and a minimum."""
    return model.quant.group_size if model.quant else DEFAULT_GROUP


def bytes_per_weight(model: ModelSpec, dtype: Dtype) -> float:
    """Of a block's matrices; a group of quantised weights has a 16-bit scale and a 16-bit minimum."""
    return grouped_bytes(dtype, group_size(model)) if is_quantised(dtype) else DTYPE_BYTES[dtype]


def grouped_bytes(dtype: Dtype, group: int) -> float:
    """Bytes of one quantised weight with its part of a scale and a minimum."""
    return (4 if dtype == "int4" else 8) / 8 + 4 / group


def matrix_bytes(model: ModelSpec, dtype: Dtype, weights: int) -> int:
    """Bytes of `weights` weights, rounded up."""
    if not is_quantised(dtype):
        return weights * DTYPE_BYTES[dtype]
    group, bits = group_size(model), 4 if dtype == "int4" else 8
    return -(-weights * (group * bits // 8 + 4) // group)


def vocabulary_dtype(dtype: Dtype) -> Dtype:
    """Embedding and head stay in 16 bits where the blocks are quantised."""
    return "bfloat16" if is_quantised(dtype) else dtype


def mlp_unit(model: ModelSpec, dtype: Dtype) -> int:
    """MLP columns that are not cut apart: whole kernel tiles, and whole groups of down_proj's inputs."""
    return lcm(MLP_UNIT, group_size(model)) if is_quantised(dtype) else MLP_UNIT


def check_dtype(model: ModelSpec, dtype: Dtype) -> None:
    """ValueError where quantised weights are asked for in another number of bits than they are stored in."""
    quant: Quant | None = model.quant
    if quant is not None and is_quantised(dtype) and dtype != f"int{quant.bits}":
        raise ValueError(f"the model is stored in {quant.bits} bits: use --dtype int{quant.bits} or a float format")
