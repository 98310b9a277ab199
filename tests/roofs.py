"""Shapes of well-known models, single steps and a whole model on one device, for tests of prices."""

from __future__ import annotations

from pathlib import Path

from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import BlockPlan, LayerPlan, Split
from tpplan.planner.steps import Kind, Step

EXAMPLES = Path(__file__).parent.parent / "examples"
LLAMA_8B = load_model(EXAMPLES / "llama-3.1-8b.json")
LLAMA_70B = load_model(EXAMPLES / "llama-3.1-70b.json")


def step(kind: Kind, rows: int, wide_in: int, wide_out: int, device: int = 0, **more: object) -> Step:
    """A step of no layer in particular."""
    return Step("s", kind, device, 0, "mlp", "r", rows, wide_in, wide_out, **more)  # type: ignore[arg-type]


def shapes(model: ModelSpec) -> list[list[tuple[int, int]]]:
    """(inputs, outputs) of eight growing shares of qkv, o_proj, gate and up, and down_proj."""
    eighths, attention = range(1, 9), model.heads * model.head_dim
    qkv = attention + 2 * model.kv_heads * model.head_dim
    return [
        [(model.hidden, qkv * share // 8) for share in eighths],
        [(attention * share // 8, model.hidden) for share in eighths],
        [(model.hidden, 2 * model.mlp * share // 8) for share in eighths],
        [(model.mlp * share // 8, model.hidden) for share in eighths],
    ]


def whole(model: ModelSpec) -> Split:
    """Everything on the only device."""
    vocabulary = ((0, model.vocab),)
    layer = LayerPlan(BlockPlan("row", ((0, model.heads),)), BlockPlan("row", ((0, model.mlp),)))
    return Split(vocabulary, (layer,) * model.layers, vocabulary)
