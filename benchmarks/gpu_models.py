"""Models at real shapes with random weights, for GPUs: slices for a split, and an unsplit model to compare with.

Weights are drawn on the GPU by name, so every split sees the same model. The unsplit model is plain torch, in the
format asked for; in float32 it is the truth that splits are judged by.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from tpplan.executor.rope_tables import rope_tables
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import Range


def tensor_shape(model: ModelSpec, name: str) -> tuple[int, ...]:
    """Shape of a tensor by its Hugging Face name."""
    kind = name.split(".")[-2]
    queries, keys, hidden = model.heads * model.head_dim, model.kv_heads * model.head_dim, model.hidden
    matrices = {
        "embed_tokens": (model.vocab, hidden),
        "lm_head": (model.vocab, hidden),
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (model.mlp, hidden),
        "up_proj": (model.mlp, hidden),
        "down_proj": (hidden, model.mlp),
        "q_norm": (model.head_dim,),
        "k_norm": (model.head_dim,),
    }
    shape = matrices.get(kind, (hidden,))
    return shape[:1] if name.endswith(".bias") else shape


@dataclass(frozen=True)
class RandomWeights:
    """`read` as of `executor.weight_files.WeightFiles`, but drawn on `place`: matrices with a spread that keeps hidden
    states near 1, norms near 1; all values are exact in `dtype`.
    """

    model: ModelSpec
    place: torch.device
    dtype: torch.dtype = torch.bfloat16
    _last: dict[str, torch.Tensor] = field(default_factory=dict)

    def whole(self, name: str) -> torch.Tensor:
        """The tensor in `dtype`; the last one is kept, since its slices follow each other."""
        if name not in self._last:
            self._last.clear()
            shape = tensor_shape(self.model, name)
            generator = torch.Generator(self.place).manual_seed(zlib.crc32(name.encode()))
            drawn = torch.randn(shape, generator=generator, device=self.place, dtype=torch.float32)
            spread = 0.1 if len(shape) == 1 else 0.7 / shape[-1] ** 0.5
            drawn = drawn.mul_(spread).add_(1.0 if name.endswith("norm.weight") else 0.0)
            self._last[name] = drawn.to(self.dtype)
        return self._last[name]

    def read(self, name: str, rows: Range | None = None, columns: Range | None = None) -> torch.Tensor:
        found = self.whole(name)
        if rows is not None:
            found = found[slice(*rows)]
        return found[:, slice(*columns)] if columns is not None else found

    def read_into(self, out: torch.Tensor, name: str, rows: Range | None = None, columns: Range | None = None) -> None:
        out.copy_(self.read(name, rows, columns))


@torch.inference_mode()
def unsplit_logits(model: ModelSpec, weights: RandomWeights, tokens: list[int], dtype: torch.dtype) -> torch.Tensor:
    """[tokens, vocab] float32: a plain decoder in `dtype`, each weight drawn when it is needed."""
    place, d = weights.place, model.head_dim

    def tensor(name: str) -> torch.Tensor:
        return weights.whole(name).to(dtype)

    def project(x: torch.Tensor, name: str, biased: bool) -> torch.Tensor:
        return F.linear(x, tensor(f"{name}.weight"), tensor(f"{name}.bias") if biased else None)

    def turned(x: torch.Tensor) -> torch.Tensor:
        low, high = x.float().chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(dtype)

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], tensor(name).float(), model.norm_eps).to(dtype)

    cos, sin = (table.to(place).unsqueeze(0) for table in rope_tables(model.rope, d, len(tokens)))
    at = torch.arange(len(tokens), device=place)
    age = at[:, None] - at[None, :]
    x = F.embedding(torch.tensor(tokens, device=place), tensor("model.embed_tokens.weight"))
    for layer in range(model.layers):
        name = f"model.layers.{layer}"
        h = normed(x, f"{name}.input_layernorm.weight")
        q, k, v = (
            project(h, f"{name}.self_attn.{which}_proj", model.qkv_bias).view(len(tokens), -1, d).transpose(0, 1)
            for which in "qkv"
        )
        if model.qk_norm:
            q, k = normed(q, f"{name}.self_attn.q_norm.weight"), normed(k, f"{name}.self_attn.k_norm.weight")
        mixed = F.scaled_dot_product_attention(
            turned(q).unsqueeze(0),
            turned(k).unsqueeze(0),
            v.unsqueeze(0),
            attn_mask=(age >= 0) & (age < model.windows[layer]) if model.windows[layer] else None,
            is_causal=not model.windows[layer],
            enable_gqa=True,
        )[0]
        x = x + project(mixed.transpose(0, 1).reshape(len(tokens), -1), f"{name}.self_attn.o_proj", model.o_bias)
        h = normed(x, f"{name}.post_attention_layernorm.weight")
        gate, up = (project(h, f"{name}.mlp.{which}_proj", model.mlp_bias) for which in ("gate", "up"))
        x = x + project(F.silu(gate) * up, f"{name}.mlp.down_proj", model.mlp_bias)
    head = "model.embed_tokens" if model.tied_embeddings else "lm_head"
    return F.linear(normed(x, "model.norm.weight"), tensor(f"{head}.weight")).float()
