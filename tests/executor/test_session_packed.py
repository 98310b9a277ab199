"""GPTQ, AWQ and compressed-tensors checkpoints give the logits of the unsplit dequantised model, however split.

The files are packed by `packers`; the unsplit model is transformers', with the weights that they mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import tiny_model
from packers import Format, packed_checkpoint
from plans import plan_by_hand, plan_of
from runs import PAIR, TRIO, logits_of
from splits import describe, random_split

from tpplan.executor.session import Session
from tpplan.planner.memory import device_bytes
from tpplan.planner.model_files import load_model
from tpplan.planner.weight_formats import mlp_unit

SHAPE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
FORMATS = {
    "gptq": Format("gptq"),
    "gptq v2": Format("gptq", v2=True),
    "gptq symmetric": Format("gptq", symmetric=True),
    "gptq 2 bits": Format("gptq", bits=2, group_size=64),
    "gptq 3 bits": Format("gptq", bits=3),
    "gptq 8 bits": Format("gptq", bits=8, group_size=64),
    "gptq one group": Format("gptq", group_size=-1),
    "gptq static groups": Format("gptq", config={"desc_act": True, "static_groups": True}),
    "awq": Format("awq"),
    "awq groups of 64": Format("awq", group_size=64),
    "compressed-tensors": Format("compressed-tensors"),
    "compressed-tensors symmetric": Format("compressed-tensors", symmetric=True),
    "compressed-tensors 8 bits": Format("compressed-tensors", bits=8),
    "compressed-tensors channels": Format("compressed-tensors", group_size=-1, symmetric=True),
    "gptq act-order": Format("gptq", order=True),
    "gptq act-order 3 bits": Format("gptq", bits=3, order=True, v2=True),
    "gptq act-order 8 bits": Format("gptq", bits=8, order=True),
    "compressed-tensors act-order": Format("compressed-tensors", order=True),
}
IDS = torch.randint(0, 2304, (74,), generator=torch.Generator().manual_seed(7)).tolist()
PROMPT = 70


def assert_logits(model: Any, path: Path, seed: int, dtype: str = "native") -> None:
    """Under a random split over two or three devices."""
    spec, devices = load_model(path), (PAIR, TRIO)[seed % 2]
    plan = plan_of(spec, devices, random_split(spec, len(devices), seed, mlp_unit(spec, "native")), dtype)
    with torch.no_grad():
        want = model(torch.tensor([IDS])).logits[0][PROMPT - 1 :]
    error, allowed = float((logits_of(plan, path, IDS, PROMPT) - want).abs().max()), 3e-5 * float(want.abs().max())
    assert error <= allowed, f"off by {error:.3g}, allowed {allowed:.3g}:\n{describe(plan.split)}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", FORMATS)
def test_logits(tmp_path: Path, form: str, seed: int) -> None:
    """Random splits: uneven, empty, row and column, inside groups; prefill and decode."""
    model = tiny_model("llama", seed, tie_word_embeddings=bool(seed % 2), **SHAPE)
    assert_logits(model, packed_checkpoint(model, tmp_path, FORMATS[form], seed), seed)


@pytest.mark.parametrize("form", FORMATS)
def test_memory(tmp_path: Path, form: str) -> None:
    """What each device holds is what the planner counts, within 2 %."""
    shape = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
    model = tiny_model("llama", **shape, intermediate_size=1024, num_hidden_layers=1)
    path = packed_checkpoint(model.half(), tmp_path, FORMATS[form])
    spec = load_model(path)
    plan = plan_by_hand(spec, PAIR, (3, 1), (256, 768), (1024, 1280), dtype="native")
    counted = device_bytes(spec, plan.split, plan.workload, "native")
    with Session.open(plan, spec, path) as session:
        for program in session._runners["decode"].programs:
            shards = {id(shard): shard for shard in program.state.shards.values()}.values()
            got, want = sum(shard.bytes for shard in shards), counted[program.state.device].weights
            assert abs(got - want) <= 0.02 * want, (got, want)


@pytest.mark.parametrize("form", ["gptq 3 bits", "awq", "compressed-tensors act-order"])
def test_dequantised_on_request(tmp_path: Path, form: str) -> None:
    """--dtype float32 reads the same weights as floats."""
    model = tiny_model("llama", **SHAPE)
    assert_logits(model, packed_checkpoint(model, tmp_path, FORMATS[form]), 1, "float32")


@pytest.mark.parametrize("seed", range(3))
def test_mixed_layers(tmp_path: Path, seed: int) -> None:
    """Matrices that stayed dense beside quantised ones, in one stack too (v beside q and k)."""
    model, form = (
        tiny_model("qwen2", seed, **SHAPE),
        Format("awq", config={"modules_to_not_convert": ["v_proj", "1.mlp"]}),
    )
    dense = lambda name: "v_proj" in name or "1.mlp" in name  # noqa: E731
    assert_logits(model, packed_checkpoint(model, tmp_path, form, seed, dense), seed)
