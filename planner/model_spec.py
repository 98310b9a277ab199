"""What a model is, as far as planning and running need to know: a frozen `ModelSpec`.

Knows shapes and the few numbers that change the arithmetic. Knows nothing of files (see `model_files`) or devices.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

Architecture = Literal["llama", "mistral", "qwen2", "qwen3"]


class Rope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rotary embedding parameters, named as in Hugging Face `rope_scaling`; positions in tokens."""

    theta: float = 10_000.0
    scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


class Quant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Grouped affine weights: `bits` a weight, a 16-bit scale and minimum for each `group_size` inputs of an output.

    `act_order`: groups follow the order of activation sizes, not of inputs (GPTQ `desc_act`). Embedding, head and norms
    are not quantised. `group_size`: -1 for one group an output. `mixed`: the config names matrices that differ, so
    that files decide.
    """

    bits: Literal[2, 3, 4, 8]
    group_size: int
    act_order: bool = False
    method: Literal["gptq", "gptq_v2", "awq", "compressed-tensors"] = "gptq"
    mixed: bool = False

    @property
    def scattered(self) -> bool:
        """Whether inputs that are neighbours may be of different groups."""
        return self.act_order and self.group_size != -1

    @property
    def held_bits(self) -> Literal[4, 8]:
        """Of a code in memory."""
        return 8 if self.bits == 8 else 4


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How matrices of one kind are held where they stay as stored; the mean over layers where those differ.

    `form`: of most of their weights; 16-bit floats of either kind count as bfloat16. `group_size`: inputs of a group,
    1 for floats. `bytes_per_1024`: of so many weights, with their part of scales, minimums and zero points.
    """

    form: Literal["float32", "bfloat16", "int8", "int4"]
    group_size: int
    bytes_per_1024: int


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How each kind of matrix of a checkpoint is held if nothing is rounded, by the role of the step that reads it."""

    embed: Held
    qkv: Held
    o_proj: Held
    gate_up: Held
    down_proj: Held
    lm_head: Held

    def of(self, role: str) -> Held:
        held: Held = getattr(self, role)
        return held


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One decoder-only model. `windows[l]` is layer l's sliding window in tokens, 0 for full attention."""

    architecture: Architecture
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    context: int
    norm_eps: float
    rope: Rope
    tied_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int, ...]
    quant: Quant | None = None
    stored: Stored | None = None

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.heads // self.kv_heads

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: equal for models that one plan fits alike."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]

    @property
    def weights(self) -> int:
        """Number of weights, tied embeddings counted once."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp) + self.vocab * self.hidden * (
            2 - self.tied_embeddings
        )
