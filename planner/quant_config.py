"""`quantization_config` of a Hugging Face checkpoint as a `Quant`: GPTQ and AWQ, in the fields their tools write.

Knows the two methods and what of them changes how weights are laid out. A field that is set and not listed here is
refused: it may leave some layers in another format.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from .config_fields import convert, refuse_unknown
from .model_spec import ModelSpec, Quant

FIELD = "quantization_config"
METHODS = ("gptq", "awq")
DEFAULT_GROUP = 128  # of both methods, in transformers
Group = Annotated[int, msgspec.Meta(ge=-1, le=1 << 16)]
# fmt: off
_NEUTRAL = {  # how the weights were found, or which kernels read them
    "act_group_aware", "backend", "batch_size", "block_name_to_quantize", "cache_block_outputs", "checkpoint_format",
    "damp_auto_increment", "damp_percent", "dataset", "do_fuse", "exllama_config", "format", "fuse_max_seq_len",
    "max_input_length", "meta", "model_file_base_name", "model_name_or_path", "model_seqlen",
    "module_name_preceding_first_block", "pad_token_id", "quant_method", "sym", "tokenizer", "true_sequential",
    "use_cuda_fp16", "use_exllama", "version", "zero_point",
}
# fmt: on


class _HfQuant(msgspec.Struct):
    bits: int | None = None
    w_bit: int | None = None
    group_size: Group | None = None
    q_group_size: Group | None = None
    desc_act: bool | None = None
    static_groups: bool | None = None
    modules_to_not_convert: list[str] | None = None


class _Config(msgspec.Struct):
    quantization_config: _HfQuant


def quant_from_config(fields: Any) -> Quant:
    """What `fields`, the value of `quantization_config`, say; ValueError in one line names the field and the fix."""
    if not isinstance(fields, dict):
        raise ValueError(f"field {FIELD!r} is {repr(fields)[:80]}; it must be an object")
    method = fields.get("quant_method")
    if method not in METHODS:
        raise ValueError(
            f"field '{FIELD}.quant_method' is {repr(method)[:80]}; {' and '.join(METHODS)} are understood: "
            "use such a checkpoint, an unquantised one or a GGUF file"
        )
    named = {f"{FIELD}.{name}": value for name, value in fields.items()}
    known = {f"{FIELD}.{name}" for name in _NEUTRAL | set(_HfQuant.__struct_fields__)}
    refuse_unknown(named, known, "remove it from the file if every layer but the head is quantised alike")
    quant: _HfQuant = convert({FIELD: fields}, _Config).quantization_config
    if set(quant.modules_to_not_convert or ()) - {"lm_head"}:
        raise ValueError(f"field '{FIELD}.modules_to_not_convert' names layers; all must be quantised alike")
    return _quant(method, quant)


def _quant(method: str, quant: _HfQuant) -> Quant:
    bits = quant.bits or quant.w_bit
    group = quant.group_size or quant.q_group_size or DEFAULT_GROUP
    if bits != 4 and (bits != 8 or method == "awq"):
        raise ValueError(
            f"field '{FIELD}.bits' is {bits}; 4 is understood, and 8 of gptq: use a checkpoint in as many bits"
        )
    if group < 8 or group % 8:
        found = "-1 (one group a row)" if group == -1 else group
        raise ValueError(
            f"field '{FIELD}.group_size' is {found}; multiples of 8 are understood: use a checkpoint with such groups"
        )
    # With static groups the order of inputs is only one of computing; groups lie where they would lie without.
    scattered = method == "gptq" and bool(quant.desc_act) and not quant.static_groups
    return Quant(4 if bits == 4 else 8, group, act_order=scattered)


def check_groups(spec: ModelSpec) -> None:
    """ValueError where a group of quantised weights does not divide the inputs of a matrix."""
    if spec.quant is None:
        return
    for name, width in (("hidden", spec.hidden), ("attention", spec.heads * spec.head_dim), ("mlp", spec.mlp)):
        if width % spec.quant.group_size:
            raise ValueError(
                f"field '{FIELD}.group_size' is {spec.quant.group_size}, which does not divide the {name} width "
                f"{width}: use a checkpoint with smaller groups"
            )
