"""The header of a GGUF file as a `ModelSpec`, checked against the shapes of its tensors.

Knows llama.cpp's metadata keys for the architectures llama (Mistral's files say llama too), qwen2 and qwen3, and how
its converter stores rope scaling (https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gguf.constants import GGMLQuantizationType

from .config_fields import Layers, Positive, Size, Tokens, checked, convert, head_dim, refuse_unknown
from .gguf_header import GgufHeader, read_header
from .model_spec import ModelSpec, Rope
from .stored_formats import stored_formats
from .weight_names import ROPE_FREQS, check_shapes, hf_name

ARCHITECTURES = ("llama", "qwen2", "qwen3")


class _GgufConfig(msgspec.Struct):
    """Metadata under `<architecture>.`, by their names there."""

    layers: Layers = msgspec.field(name="block_count")
    context: Tokens = msgspec.field(name="context_length")
    hidden: Size = msgspec.field(name="embedding_length")
    mlp: Size = msgspec.field(name="feed_forward_length")
    heads: Size = msgspec.field(name="attention.head_count")
    norm_eps: Positive = msgspec.field(name="attention.layer_norm_rms_epsilon")
    kv_heads: Size | None = msgspec.field(name="attention.head_count_kv", default=None)
    key_dim: Size | None = msgspec.field(name="attention.key_length", default=None)
    value_dim: Size | None = msgspec.field(name="attention.value_length", default=None)
    rope_dim: Size | None = msgspec.field(name="rope.dimension_count", default=None)
    vocab: Size | None = msgspec.field(name="vocab_size", default=None)
    theta: Positive = msgspec.field(name="rope.freq_base", default=10_000.0)
    scaling: str = msgspec.field(name="rope.scaling.type", default="linear")
    factor: Positive = msgspec.field(name="rope.scaling.factor", default=1.0)
    original_context: Tokens | None = msgspec.field(name="rope.scaling.original_context_length", default=None)
    beta_fast: Positive = msgspec.field(name="rope.scaling.yarn_beta_fast", default=32.0)
    beta_slow: Positive = msgspec.field(name="rope.scaling.yarn_beta_slow", default=1.0)
    finetuned: bool = msgspec.field(name="rope.scaling.finetuned", default=False)


def load_gguf(path: str | Path) -> ModelSpec:
    """The model in the GGUF file at `path`; ValueError in one line names the file and the field or tensor at fault."""
    header = read_header(path)
    try:
        spec = _spec(header, Path(path))
        found = {hf_name(name): tensor.shape for name, tensor in header.tensors.items() if name != ROPE_FREQS}
        check_shapes(found, spec)
        return spec
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _spec(header: GgufHeader, path: Path) -> ModelSpec:
    architecture, config = _understood(header.metadata)
    width = head_dim(config.key_dim, config.hidden, config.heads)
    if config.rope_dim not in (None, width) or config.value_dim not in (None, width):
        raise ValueError(f"rope.dimension_count and attention.value_length must equal the head dimension {width}")
    if "token_embd.weight" not in header.tensors:
        raise ValueError("tensor 'token_embd.weight' is missing; the file holds no whole model")
    biases = {name.split(".")[2] for name in header.tensors if name.startswith("blk.0.") and name.endswith(".bias")}
    return checked(
        ModelSpec(
            architecture=architecture,
            layers=config.layers,
            hidden=config.hidden,
            heads=config.heads,
            kv_heads=config.kv_heads or config.heads,
            head_dim=width,
            mlp=config.mlp,
            vocab=config.vocab or header.tensors["token_embd.weight"].shape[0],
            context=config.context,
            norm_eps=config.norm_eps,
            rope=_rope(config, header, path),
            tied_embeddings="output.weight" not in header.tensors,
            qkv_bias="attn_q" in biases,
            o_bias="attn_output" in biases,
            mlp_bias="ffn_gate" in biases,
            qk_norm=architecture == "qwen3",
            windows=(0,) * config.layers,
            stored=stored_formats({name: (tensor.shape, tensor.type) for name, tensor in header.tensors.items()}),
        )
    )


def _understood(metadata: dict[str, Any]) -> tuple[Any, _GgufConfig]:
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        shown = repr(architecture)[:80]
        raise ValueError(f"field 'general.architecture' is {shown}; {', '.join(ARCHITECTURES)} are understood")
    if metadata.get("split.count", 0) not in (0, 1):
        raise ValueError("one part of a split GGUF; merge the parts with llama.cpp's `gguf-split --merge`")
    prefix = f"{architecture}."
    fields = {key.removeprefix(prefix): _short(value) for key, value in metadata.items() if key.startswith(prefix)}
    known = [field.encode_name for field in msgspec.structs.fields(_GgufConfig)]
    refuse_unknown(fields, known, "this model needs arithmetic that is not supported")
    return architecture, convert(fields, _GgufConfig)


def _short(value: Any) -> Any:
    """A float32 as the shortest decimal that means it, as the original config had it: 1e-05, not 9.99999974737e-06."""
    if not isinstance(value, float):
        return value
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def _rope(config: _GgufConfig, header: GgufHeader, path: Path) -> Rope:
    scaled = config.scaling != "none" and config.factor != 1
    if ROPE_FREQS in header.tensors:
        if scaled:
            raise ValueError(f"holds both 'rope.scaling.factor' and {ROPE_FREQS!r}; only one can be meant")
        return _llama3(config, header, path)
    if not scaled:
        return Rope(theta=config.theta)
    if config.scaling == "linear":
        return Rope(theta=config.theta, scaling="linear", factor=config.factor)
    if config.scaling == "yarn":
        return Rope(
            theta=config.theta,
            scaling="yarn",
            factor=config.factor,
            original_context=config.original_context or config.context,
            beta_fast=config.beta_fast,
            beta_slow=config.beta_slow,
            attention_factor=0.1 * math.log(config.factor) + 1 if config.factor > 1 else 1.0,
        )
    raise ValueError(f"field 'rope.scaling.type' is {config.scaling[:80]!r}; none, linear and yarn are understood")


def _llama3(config: _GgufConfig, header: GgufHeader, path: Path) -> Rope:
    """The llama3 parameters behind the divisors of `rope_freqs.weight`.

    llama.cpp stores only the divisors. Every published llama3 model has low_freq_factor 1, high_freq_factor 4 and
    an original context of 8,192; other ones are refused rather than guessed.
    """
    width = head_dim(config.key_dim, config.hidden, config.heads)
    tensor = header.tensors[ROPE_FREQS]
    if tensor.type != GGMLQuantizationType.F32 or tensor.shape != (width // 2,):
        raise ValueError(f"tensor {ROPE_FREQS!r} is not {width // 2} float32 values")
    with open(path, "rb") as file:
        file.seek(tensor.offset)
        divisors = np.frombuffer(file.read(tensor.bytes), np.float32)
    if np.all(divisors == 1):
        return Rope(theta=config.theta)
    rope = Rope(config.theta, "llama3", round(float(divisors.max()), 3), config.original_context or 8192)
    with np.errstate(all="ignore"):
        follows = np.allclose(divisors, _llama3_divisors(rope, width), rtol=1e-4)
    if not follows:
        raise ValueError(f"tensor {ROPE_FREQS!r} does not follow llama3 rope scaling over an original context of 8,192")
    return rope


def _llama3_divisors(rope: Rope, width: int) -> np.ndarray[Any, Any]:
    """What llama3 scaling divides each of the `width / 2` rotary frequencies by (as transformers' `llama3` does)."""
    turns = rope.original_context * rope.theta ** (-np.arange(0, width, 2) / width) / (2 * math.pi)
    smooth = np.clip((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0, 1)
    divisors: np.ndarray[Any, Any] = 1 / ((1 - smooth) / rope.factor + smooth)
    return divisors
