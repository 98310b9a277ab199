"""Tiny random checkpoints: as transformers saves them, and as llama.cpp's converter would write them to GGUF."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
TINY: dict[str, Any] = {
    "hidden_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "vocab_size": 2304,
    "max_position_embeddings": 512,
}
GGUF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def random_rows(kind: Q, rows: int, columns: int, seed: int = 0, exponent: int = 4) -> np.ndarray:
    """Random stored rows of any type, uint8 [rows, bytes]; float16 scales of 2^(exponent - 15) to 2^(exponent - 7)."""
    rng = np.random.default_rng(seed)
    if kind in (Q.F32, Q.F16, Q.BF16):
        return gguf.quants.quantize(rng.standard_normal((rows, columns), np.float32), kind).view(np.uint8)
    values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // values, block_bytes), np.uint8)
    at = {Q.Q6_K: [208], Q.Q2_K: [80, 82], Q.Q3_K: [108]}.get(
        kind, [0, 2] if "_1" in kind.name or "_K" in kind.name else [0]
    )
    for offset in at:
        blocks[:, offset + 1] = blocks[:, offset + 1] % 32 + 4 * exponent
    return blocks.reshape(rows, -1)


SMALL = {
    "token_embd.weight": (64, 32),
    "output_norm.weight": (32,),
    "blk.0.attn_norm.weight": (32,),
    "blk.0.ffn_norm.weight": (32,),
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (32, 32),
    "blk.0.attn_v.weight": (32, 32),
    "blk.0.attn_output.weight": (32, 32),
    "blk.0.ffn_gate.weight": (64, 32),
    "blk.0.ffn_up.weight": (64, 32),
    "blk.0.ffn_down.weight": (32, 64),
}
SMALL_METADATA: dict[str, Any] = {
    "llama.block_count": 1,
    "llama.context_length": 128,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def tiny_model(architecture: str, seed: int = 0, **overrides: Any) -> Any:
    """A random transformers model in float32, every parameter (norms and biases too) away from its trivial value."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(architecture, **(TINY | overrides))
    model = AutoModelForCausalLM.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre, spread = (1.0, 0.2) if "norm" in name else (0.0, 0.1)
            weight.copy_(centre + spread * torch.randn(weight.shape, generator=generator))
    return model


def tiny_checkpoint(architecture: str, folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """Saves a `tiny_model` as a Hugging Face directory (float32 safetensors, no tokenizer) and returns it."""
    tiny_model(architecture, seed, **overrides).save_pretrained(folder)
    return folder


def tiny_gguf(
    model: Any, path: Path, kind: Q = Q.F32, quantise: Callable[[np.ndarray, Q], np.ndarray] = gguf.quants.quantize
) -> Path:
    """Writes a transformers model to GGUF as llama.cpp's converter does, linear weights quantised to `kind`."""
    config = model.config
    architecture = "llama" if config.model_type == "mistral" else config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_rope(writer, config)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weight.numpy()
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            values = permuted(values, len(values) // config.head_dim)
        stored = kind if values.ndim == 2 else Q.F32
        data = values if stored == Q.F32 else quantise(values, stored)
        writer.add_tensor(gguf_name(name), data, raw_dtype=stored)
    _write(writer)
    return path


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """q or k as llama.cpp stores it, from its converter's `LlamaModel.permute`."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def gguf_name(name: str) -> str:
    """What llama.cpp calls a Hugging Face tensor."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    part, suffix = rest.rsplit(".", 1)
    return f"blk.{layer}.{GGUF_LAYER[part]}.{suffix}"


def _add_rope(writer: gguf.GGUFWriter, config: Any) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config.rope_parameters
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "llama3":
        plain = rope["rope_theta"] ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        writer.add_tensor("rope_freqs.weight", (plain / scaled).numpy().astype(np.float32))
    elif rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def small_gguf(
    path: Path,
    architecture: str = "llama",
    tensors: dict[str, tuple[np.ndarray, Q] | None] | None = None,
    **metadata: Any,
) -> Path:
    """A one-layer llama of zeros, 32 wide, of `SMALL` shapes, with tensors added, replaced or (None) left out.

    Tensors are float32 arrays with `Q.F32`, or uint8 rows of a quantised type.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (SMALL_METADATA | metadata).items():
        adders = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, list: writer.add_array}
        adders[type(value)](key, value)
    zeros = {name: (np.zeros(shape, np.float32), Q.F32) for name, shape in SMALL.items()}
    for name, stored in (zeros | (tensors or {})).items():
        if stored is not None:
            writer.add_tensor(name, stored[0], raw_dtype=stored[1])
    _write(writer)
    return path
