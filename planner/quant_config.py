"""`quantization_config` of a Hugging Face checkpoint as a `Quant`: GPTQ and AWQ, in the fields their tools write.

Knows the two methods and what of them changes how weights are laid out. A field that is set and not listed here is
refused: it may leave some layers in another format.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from .config_fields import convert, refuse_unknown
from .model_spec import ModelSpec, Quant

FIELD = "quantization_config"
METHODS = ("gptq", "awq")
Group = Annotated[int, msgspec.Meta(ge=-1, le=1 << 16)]
# fmt: off
_NEUTRAL = {  # how the weights were found, or which kernels read them
    "batch_size", "block_name_to_quantize", "cache_block_outputs", "checkpoint_format", "damp_percent", "dataset",
    "do_fuse", "exllama_config", "fuse_max_seq_len", "max_input_length", "meta", "model_file_base_name",
    "model_name_or_path", "model_seqlen", "module_name_preceding_first_block", "pad_token_id", "sym", "tokenizer",
    "true_sequential", "use_cuda_fp16", "use_exllama", "version", "zero_point", "quant_method", "backend",
}
# fmt: on


class _HfQuant(msgspec.Struct):
    bits: Literal[4, 8] | None = None
    w_bit: Literal[4, 8] | None = None
    group_size: Group | None = None
    q_group_size: Group | None = None
    desc_act: bool | None = None
    static_groups: bool | None = None
    modules_to_not_convert: list[str] | None = None


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
    quant: _HfQuant = convert(fields, _HfQuant)
    if set(quant.modules_to_not_convert or ()) - {"lm_head"}:
        raise ValueError(f"field '{FIELD}.modules_to_not_convert' names layers; all must be quantised alike")
    return _quant(method, quant)


def _quant(method: str, quant: _HfQuant) -> Quant:
    bits = quant.bits or quant.w_bit
    group = quant.group_size if quant.group_size is not None else quant.q_group_size
    if bits is None or (method == "awq" and bits != 4):
        raise ValueError(f"field '{FIELD}.bits' is {bits}; {'4' if method == 'awq' else '4 or 8'} is understood")
    if group is None or group < 8 or group % 8:
        why = " (one group a row)" if group == -1 else ""
        raise ValueError(
            f"field '{FIELD}.group_size' is {group}{why}; a multiple of 8 is understood: use a checkpoint with such groups"
        )
    # With static groups the order of inputs is only one of computing; groups lie where they would lie without.
    scattered = method == "gptq" and bool(quant.desc_act) and not quant.static_groups
    return Quant(bits, group, act_order=scattered)


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
