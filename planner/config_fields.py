"""What the two readers of model descriptions share: bounded field types, refusing what is not understood, final checks.

Knows limits and the relations between dimensions. Knows nothing of either file format.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec

from .model_spec import ModelSpec

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
Layers = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
MAX_WEIGHTS = 1 << 44  # larger than any model there is; their bytes still fit the solver's integers


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str], hint: str) -> None:
    """ValueError for the first field that is neither known nor plainly off (null, false, 0, empty)."""
    for name, value in fields.items():
        if name not in known and value:
            raise ValueError(f"field {name[:80]!r} is not understood; {hint}")


def convert(fields: Mapping[str, Any], kind: type[msgspec.Struct]) -> Any:
    """`fields` as a `kind`; ValueError in one line names the field that is missing, mistyped or out of range."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        message = str(error).replace("Object missing required field", "missing the field").replace("$.", "")
        raise ValueError(f"{message[:1].lower()}{message[1:]}; correct this field") from None


def head_dim(explicit: int | None, hidden: int, heads: int) -> int:
    """Head width: as given, else hidden / heads."""
    if explicit is None and hidden % heads:
        raise ValueError(f"hidden size {hidden} is not a multiple of {heads} attention heads; give the head dimension")
    return explicit or hidden // heads


def checked(spec: ModelSpec) -> ModelSpec:
    """`spec` itself; ValueError where its numbers contradict each other."""
    if spec.heads % spec.kv_heads:
        raise ValueError(f"{spec.heads} attention heads are not a multiple of {spec.kv_heads} key/value heads")
    if spec.weights > MAX_WEIGHTS:
        raise ValueError(f"{spec.weights:.3g} weights are more than the {MAX_WEIGHTS:.3g} that can be planned for")
    if spec.head_dim % 2:
        raise ValueError(f"head dimension {spec.head_dim} is odd; rotary embedding needs pairs")
    rope = spec.rope
    if rope.scaling == "llama3" and not rope.low_freq_factor < rope.high_freq_factor:
        raise ValueError(f"llama3 rope: low_freq_factor {rope.low_freq_factor} is not below high_freq_factor")
    if rope.scaling == "yarn" and not rope.beta_slow < rope.beta_fast:
        raise ValueError(f"yarn rope: beta_slow {rope.beta_slow} is not below beta_fast {rope.beta_fast}")
    numbers = (spec.norm_eps, rope.theta, rope.factor, rope.attention_factor, rope.beta_fast, rope.beta_slow)
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError("norm epsilon and rope parameters must be positive, finite numbers")
    return spec
