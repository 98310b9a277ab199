"""The tensors a model consists of: their Hugging Face names and shapes, and what llama.cpp calls them in a GGUF file.

Knows names and shapes. Knows nothing of files or data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .model_spec import ModelSpec

ROPE_FREQS = "rope_freqs.weight"

_GGUF_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(gguf_name: str) -> str:
    """The Hugging Face name of a GGUF tensor, or the name itself when it is none of ours."""
    match = re.fullmatch(r"blk\.(0|[1-9][0-9]{0,3})\.([a-z_]+)\.(weight|bias)", gguf_name)
    if match and match[2] in _GGUF_LAYER:
        return f"model.layers.{match[1]}.{_GGUF_LAYER[match[2]]}.{match[3]}"
    return _GGUF_WHOLE.get(gguf_name, gguf_name)


def weight_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model; linear weights are [outputs, inputs]."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab, spec.hidden)}
    for layer in range(spec.layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer_shapes(spec).items()}
    shapes["model.norm.weight"] = (spec.hidden,)
    if not spec.tied_embeddings:
        shapes["lm_head.weight"] = (spec.vocab, spec.hidden)
    return shapes


def _layer_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    hidden, q, kv = spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    linears = {
        "self_attn.q_proj": (q, hidden, spec.qkv_bias),
        "self_attn.k_proj": (kv, hidden, spec.qkv_bias),
        "self_attn.v_proj": (kv, hidden, spec.qkv_bias),
        "self_attn.o_proj": (hidden, q, spec.o_bias),
        "mlp.gate_proj": (spec.mlp, hidden, spec.mlp_bias),
        "mlp.up_proj": (spec.mlp, hidden, spec.mlp_bias),
        "mlp.down_proj": (hidden, spec.mlp, spec.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if spec.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (spec.head_dim,), "self_attn.k_norm.weight": (spec.head_dim,)}
    for name, (outputs, inputs, bias) in linears.items():
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)
    return shapes


def check_shapes(found: Mapping[str, tuple[int, ...]], spec: ModelSpec) -> None:
    """ValueError for the first tensor that is missing, of another shape, or not part of the model.

    `rotary_emb.inv_freq`, a buffer that old checkpoints carry, is let pass: it follows from the config.
    """
    expected = weight_shapes(spec)
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"tensor {name!r} is missing; the file is incomplete or of another model than its config")
        if found[name] != shape:
            raise ValueError(f"tensor {name!r} has shape {list(found[name])}, the config asks for {list(shape)}")
    for name in found:
        if name not in expected and not name.endswith("rotary_emb.inv_freq"):
            tied = name == "lm_head.weight"
            fix = "set tie_word_embeddings to false" if tied else "this architecture has no use for it"
            raise ValueError(f"tensor {name[:120]!r} is not part of the model that the config describes; {fix}")
