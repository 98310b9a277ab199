"""What checkpoints whose config names exceptions are held in, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from profiles import make_model

from tpplan.planner.mixed_layers import mixed_formats
from tpplan.planner.model_spec import Held, Quant

FOUR, EIGHT, DENSE = 512 + 1024 * 3 // 32, 1024 + 1024 * 3 // 64, 2048
MODEL = make_model(layers=4, quant=Quant(4, 32, mixed=True))


def mean(parts: list[tuple[int, int]]) -> int:
    """Bytes of 1,024 weights, rounded up, of (weights, bytes of 1,024)."""
    return -(-sum(count * each for count, each in parts) // sum(count for count, _ in parts))


@pytest.mark.parametrize(
    ("config", "role", "held"),
    [
        ({}, "qkv", Held("int4", 32, FOUR)),
        ({}, "lm_head", Held("bfloat16", 1, DENSE)),
        ({"modules_to_not_convert": ["down_proj"]}, "down_proj", Held("bfloat16", 1, DENSE)),
        ({"modules_to_not_convert": ["down_proj"]}, "o_proj", Held("int4", 32, FOUR)),
        ({"modules_to_not_convert": ["layers.0."]}, "o_proj", Held("int4", 32, mean([(1, DENSE), (3, FOUR)]))),
        ({"ignore": ["lm_head", "re:.*v_proj"]}, "qkv", Held("int4", 32, mean([(9 + 3, FOUR), (3, DENSE)]))),
        ({"ignore": ["model.layers.2.mlp.up_proj"]}, "gate_up", Held("int4", 32, mean([(7, FOUR), (1, DENSE)]))),
        ({"dynamic": {"-:.*down.*": {}}}, "down_proj", Held("bfloat16", 1, DENSE)),
        ({"dynamic": {"+:.*down.*": {"bits": 8, "group_size": 64}}}, "down_proj", Held("int8", 64, EIGHT)),
        ({"dynamic": {".*[.]0[.].*o_proj": {"bits": 8, "group_size": 64}}}, "o_proj",
         Held("int4", 64, mean([(1, EIGHT), (3, FOUR)]))),
        ({"modules_in_block_to_quantize": [["mlp.up_proj", "mlp.gate_proj"]]}, "o_proj", Held("bfloat16", 1, DENSE)),
        ({"modules_in_block_to_quantize": [["mlp.up_proj", "mlp.gate_proj"]]}, "gate_up", Held("int4", 32, FOUR)),
    ],
)  # fmt: skip
def test_exceptions(config: dict[str, Any], role: str, held: Held) -> None:
    """Lists of names, of patterns, and settings of single matrices: the mean over layers, the form of most."""
    assert mixed_formats(MODEL, config).of(role) == held
