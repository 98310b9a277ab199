"""`quantization_config` of a Hugging Face checkpoint as a `Quant`: GPTQ, AWQ and compressed-tensors, in the fields
their tools write.

Knows the methods and what of them changes how weights are laid out. Which matrices are quantised, files say better than
lists of names. A field that is set and not listed here is refused: it may change what the numbers mean.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from .config_fields import convert, refuse_unknown
from .model_spec import ModelSpec, Quant

FIELD = "quantization_config"
METHODS = ("gptq", "awq", "compressed-tensors")
BITS = {"gptq": (2, 3, 4, 8), "awq": (4,), "compressed-tensors": (4, 8)}
DEFAULT_GROUP = 128  # of GPTQ and AWQ, in transformers
Group = Annotated[int, msgspec.Meta(ge=-1, le=1 << 16)]
# fmt: off
_NEUTRAL = {  # how the weights were found, or which kernels read them
    "act_group_aware", "backend", "batch_size", "block_name_to_quantize", "cache_block_outputs", "damp_auto_increment",
    "damp_percent", "dataset", "do_fuse", "exllama_config", "fuse_max_seq_len", "global_compression_ratio",
    "max_input_length", "meta", "model_file_base_name", "model_name_or_path", "model_seqlen",
    "module_name_preceding_first_block", "pack_dtype", "pad_token_id", "quant_method", "quantization_status", "sym",
    "tokenizer", "true_sequential", "use_cuda_fp16", "use_exllama", "zero_point",
}
# fmt: on


class _Scheme(msgspec.Struct):
    """How compressed-tensors quantises the weights of a group of matrices."""

    num_bits: int
    type: str = "int"
    strategy: Literal["group", "channel"] = "group"
    group_size: Group | None = None
    actorder: str | bool | None = None
    dynamic: bool | str = False


class _ConfigGroup(msgspec.Struct):
    weights: _Scheme
    input_activations: dict[str, Any] | None = None
    output_activations: dict[str, Any] | None = None


class _HfQuant(msgspec.Struct):
    bits: int | None = None
    w_bit: int | None = None
    group_size: Group | None = None
    q_group_size: Group | None = None
    desc_act: bool | None = None
    static_groups: bool | None = None
    checkpoint_format: str | None = None
    format: str | None = None
    version: str | None = None
    lm_head: bool = False
    dynamic: dict[str, Any] | None = None
    modules_to_not_convert: list[str] | None = None
    modules_in_block_to_quantize: list[Any] | None = None
    ignore: list[str] | None = None
    config_groups: dict[str, _ConfigGroup] | None = None


class _Config(msgspec.Struct):
    quantization_config: _HfQuant


def quant_from_config(fields: Any) -> Quant:
    """What `fields`, the value of `quantization_config`, say; ValueError in one line names the field and the fix."""
    if not isinstance(fields, dict):
        raise ValueError(f"field {FIELD!r} is {repr(fields)[:80]}; it must be an object")
    method = fields.get("quant_method")
    if method not in METHODS:
        raise ValueError(
            f"field '{FIELD}.quant_method' is {repr(method)[:80]}; {', '.join(METHODS)} are understood: "
            "use such a checkpoint, an unquantised one or a GGUF file"
        )
    named = {f"{FIELD}.{name}": value for name, value in fields.items()}
    known = {f"{FIELD}.{name}" for name in _NEUTRAL | set(_HfQuant.__struct_fields__)}
    refuse_unknown(named, known, "remove it from the file if it does not change what the weights mean")
    quant: _HfQuant = convert({FIELD: fields}, _Config).quantization_config
    return _compressed(quant) if method == "compressed-tensors" else _quant(method, quant)


def _quant(method: str, quant: _HfQuant) -> Quant:
    sizes = (size for size in (quant.group_size, quant.q_group_size) if size is not None)
    group = next(sizes, DEFAULT_GROUP)
    bits = _bits(method, quant.bits or quant.w_bit, "bits")
    version = quant.version if method == "awq" and not quant.format else quant.checkpoint_format or quant.format
    known = ("gptq", "gptq_v2") if method == "gptq" else ("gemm",)
    if (version or known[0]).lower() not in known:
        name = "version" if method == "awq" and not quant.format else "checkpoint_format"
        raise ValueError(f"field '{FIELD}.{name}' is {repr(version)[:40]}; {' and '.join(known)} are understood")
    left_out = set(quant.modules_to_not_convert or ()) - {"lm_head"}
    mixed = bool(left_out or quant.dynamic or quant.modules_in_block_to_quantize or quant.lm_head)
    # With static groups the order of inputs is only one of computing; groups lie where they would lie without.
    scattered = method == "gptq" and bool(quant.desc_act) and not quant.static_groups
    named = "gptq_v2" if version == "gptq_v2" else method
    return Quant(bits, _group(group), scattered, named, mixed)  # type: ignore[arg-type]


def _compressed(quant: _HfQuant) -> Quant:
    """compressed-tensors: integers packed into words, the weights only."""
    if quant.format != "pack-quantized":
        raise ValueError(
            f"field '{FIELD}.format' is {repr(quant.format)[:40]}; pack-quantized is understood: use such a checkpoint"
        )
    groups = list((quant.config_groups or {}).values())
    if not groups:
        raise ValueError(f"field '{FIELD}.config_groups' is empty; it must say how weights are quantised")
    for each in groups:
        if each.input_activations or each.output_activations or each.weights.type != "int" or each.weights.dynamic:
            raise ValueError(
                f"field '{FIELD}.config_groups' asks for more than weights in integers: use a checkpoint without "
                "quantised activations"
            )
    scheme = groups[0].weights
    bits = _bits("compressed-tensors", scheme.num_bits, "config_groups.weights.num_bits")
    size = (scheme.group_size or -1) if scheme.strategy == "group" else -1
    mixed = len(groups) > 1 or bool(set(quant.ignore or ()) - {"lm_head"})
    return Quant(bits, _group(size), scheme.actorder in ("group", True), "compressed-tensors", mixed)  # type: ignore[arg-type]


def _bits(method: str, bits: int | None, name: str) -> int:
    if bits not in BITS[method]:
        *most, last = map(str, BITS[method])
        known = f"{', '.join(most)} and {last}" if most else last
        raise ValueError(
            f"field '{FIELD}.{name}' is {bits}; {known} of {method} are understood: use a checkpoint in as many bits"
        )
    return bits


def _group(group: int) -> int:
    """-1 stands for one group an output."""
    if group != -1 and (group < 8 or group % 8):
        raise ValueError(
            f"field '{FIELD}.group_size' is {group}; -1 and multiples of 8 are understood: use a checkpoint with such "
            "groups"
        )
    return group


def check_groups(spec: ModelSpec) -> None:
    """ValueError where a group of quantised weights does not divide the inputs of a matrix."""
    if spec.quant is None or spec.quant.group_size == -1:
        return
    for name, width in (("hidden", spec.hidden), ("attention", spec.heads * spec.head_dim), ("mlp", spec.mlp)):
        if width % spec.quant.group_size:
            raise ValueError(
                f"field '{FIELD}.group_size' is {spec.quant.group_size}, which does not divide the {name} width "
                f"{width}: use a checkpoint with smaller groups"
            )
