"""A Hugging Face `config.json` as a `ModelSpec`, with the defaults and meanings of transformers' own config classes.

Knows the fields of llama, mistral, qwen2 and qwen3, in the spelling of transformers 4 (`rope_scaling`) and 5
(`rope_parameters`). A field that is set and not listed here is refused: it may change the arithmetic.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import msgspec

from .config_fields import Layers, NotNegative, Positive, Size, Tokens, checked, convert, head_dim, refuse_unknown
from .mixed_layers import mixed_formats
from .model_spec import Architecture, ModelSpec, Rope, Stored
from .quant_config import check_groups, quant_from_config

_CAUSAL_LM = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_WINDOW_FIELDS = {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}
_ARCHITECTURE_FIELDS = {
    "llama": {"attention_bias", "mlp_bias"},
    "mistral": {"sliding_window"},
    "qwen2": _WINDOW_FIELDS,
    "qwen3": _WINDOW_FIELDS | {"attention_bias"},
}
_ABSENT: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
# fmt: off
_NEUTRAL = {  # do not change what a forward pass computes
    "_attn_implementation", "_name_or_path", "architectures", "attention_dropout", "attn_implementation",
    "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label", "initializer_range", "is_decoder",
    "is_llama_config", "label2id", "model_max_length", "neftune_noise_alpha", "pad_token_id", "pretraining_tp",
    "problem_type", "return_dict", "task_specific_params", "tokenizer_class", "torch_dtype", "transformers.js_config",
    "transformers_version", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_cache",
}
# fmt: on


class _HfRope(msgspec.Struct, forbid_unknown_fields=True):
    rope_type: str | None = None
    type: str | None = None
    rope_theta: Positive | None = None
    factor: Positive | None = None
    original_max_position_embeddings: Tokens | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    attention_factor: Positive | None = None
    mscale: NotNegative | None = None
    mscale_all_dim: NotNegative | None = None
    truncate: bool = True
    partial_rotary_factor: float | None = None


class _HfConfig(msgspec.Struct):
    model_type: Architecture
    hidden_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    intermediate_size: Size
    vocab_size: Size
    max_position_embeddings: Tokens
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    hidden_act: str = "silu"
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive | None = None
    rope_scaling: _HfRope | None = None
    rope_parameters: _HfRope | None = None
    original_max_position_embeddings: Tokens | None = None
    partial_rotary_factor: float | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: Tokens | None = 4096
    max_window_layers: int = 28
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None


def spec_from_config(fields: dict[str, Any]) -> ModelSpec:
    """The model that `fields` describe; ValueError in one line names the field that is wrong or not understood."""
    config = _understood(fields)
    heads, attention_bias = config.num_attention_heads, config.attention_bias
    stored = fields.get("quantization_config")
    spec = checked(
        ModelSpec(
            architecture=config.model_type,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            kv_heads=config.num_key_value_heads or heads,
            head_dim=head_dim(config.head_dim, config.hidden_size, heads),
            mlp=config.intermediate_size,
            vocab=config.vocab_size,
            context=config.max_position_embeddings,
            norm_eps=config.rms_norm_eps,
            rope=_rope(config),
            tied_embeddings=config.tie_word_embeddings,
            qkv_bias=config.model_type == "qwen2" or attention_bias,
            o_bias=attention_bias,
            mlp_bias=config.mlp_bias,
            qk_norm=config.model_type == "qwen3",
            windows=_windows(config),
            quant=quant_from_config(stored) if stored is not None else None,
        )
    )
    check_groups(spec)
    if stored and spec.quant and spec.quant.mixed:
        return msgspec.structs.replace(spec, stored=_stored(spec, stored))
    return spec


def _stored(spec: ModelSpec, quantization: dict[str, Any]) -> Stored:
    try:
        return mixed_formats(spec, quantization)
    except (re.error, TypeError, AttributeError) as error:
        raise ValueError(
            f"field 'quantization_config' names matrices in a way that is not understood: {error}"
        ) from None


def _understood(fields: dict[str, Any]) -> _HfConfig:
    architecture = fields.get("model_type")
    if not isinstance(architecture, str) or architecture not in _CAUSAL_LM:
        raise ValueError(f"field 'model_type' is {_shown(architecture)}; {', '.join(_CAUSAL_LM)} are understood")
    names = fields.get("architectures")
    if names and names != [_CAUSAL_LM[architecture]]:
        raise ValueError(f"field 'architectures' is {_shown(names)}; ['{_CAUSAL_LM[architecture]}'] is understood")
    other = set().union(*_ARCHITECTURE_FIELDS.values()) - _ARCHITECTURE_FIELDS[architecture]
    known = _NEUTRAL | {"quantization_config"} | (set(_HfConfig.__struct_fields__) - other)
    refuse_unknown(fields, known, "remove it from the file if it does not change the arithmetic")
    config: _HfConfig = convert(_ABSENT[architecture] | fields, _HfConfig)
    if config.hidden_act != "silu":
        raise ValueError(f"field 'hidden_act' is {_shown(config.hidden_act)}; only 'silu' is understood")
    return config


def _windows(config: _HfConfig) -> tuple[int, ...]:
    """Sliding window of each layer in tokens, 0 for full attention."""
    layers, window = config.num_hidden_layers, config.sliding_window or 0
    if config.model_type == "llama":
        return (0,) * layers
    if config.model_type == "mistral":
        return (window,) * layers
    full = config.max_window_layers
    kinds = config.layer_types or ["full_attention" if n < full else "sliding_attention" for n in range(layers)]
    if len(kinds) != layers:
        raise ValueError(f"field 'layer_types' lists {len(kinds)} layers, num_hidden_layers is {layers}")
    if not config.use_sliding_window:
        window = 0
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _rope(config: _HfConfig) -> Rope:
    """Rotary parameters as `transformers.modeling_rope_utils` derives them, defaults filled in."""
    given = config.rope_parameters or config.rope_scaling or _HfRope()
    if config.rope_parameters and config.rope_scaling and config.rope_parameters != config.rope_scaling:
        raise ValueError("fields 'rope_scaling' and 'rope_parameters' differ; keep one")
    if {given.partial_rotary_factor, config.partial_rotary_factor} - {None, 1.0}:
        raise ValueError("field 'partial_rotary_factor' is not 1; partial rotary embedding is not supported")
    theta = given.rope_theta or config.rope_theta or 10_000.0
    kind = given.rope_type or given.type or "default"
    original = config.original_max_position_embeddings or given.original_max_position_embeddings
    original = original or config.max_position_embeddings
    if kind == "default":
        return Rope(theta=theta)
    if kind == "linear":
        return Rope(theta=theta, scaling="linear", factor=_required(given, "factor"))
    if kind == "llama3":
        low, high = _required(given, "low_freq_factor"), _required(given, "high_freq_factor")
        return Rope(theta, "llama3", _required(given, "factor"), original, low_freq_factor=low, high_freq_factor=high)
    if kind == "yarn":
        return _yarn(given, theta, original, config.max_position_embeddings)
    raise ValueError(f"field 'rope_type' is {_shown(kind)}; default, linear, llama3 and yarn are understood")


def _yarn(given: _HfRope, theta: float, original: int, context: int) -> Rope:
    factor = given.factor or context / original
    return Rope(
        theta=theta,
        scaling="yarn",
        factor=factor,
        original_context=original,
        beta_fast=given.beta_fast or 32.0,
        beta_slow=given.beta_slow or 1.0,
        attention_factor=given.attention_factor or _yarn_attention_factor(factor, given.mscale, given.mscale_all_dim),
        truncate=given.truncate,
    )


def _yarn_attention_factor(factor: float, mscale: float | None, mscale_all_dim: float | None) -> float:
    """What cos and sin are multiplied by: 0.1 ln(factor) + 1 (YaRN, https://arxiv.org/abs/2309.00071, section 3.4)."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    return scale(mscale) / scale(mscale_all_dim) if mscale and mscale_all_dim else scale(1.0)


def _required(given: _HfRope, name: str) -> float:
    value: float | None = getattr(given, name)
    if value is None:
        raise ValueError(f"field 'rope_scaling' lacks {name!r}, which its rope_type needs; add it")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:80]
