"""What an open session holds on each device is what the planner counts: weights, cache, buffers and slots, to the byte.

Not counted by the planner, since its margin covers them: tables of angles, scores of one token, the tapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import tiny_checkpoint
from plans import plan_of
from runs import TRIO
from splits import describe, random_split

from tpplan.executor.session import Session
from tpplan.planner.memory import DeviceBytes, device_bytes
from tpplan.planner.model_files import load_model
from tpplan.planner.plan import BlockPlan, Split, members

SHAPE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "llama", **SHAPE},
    "tied": {"architecture": "llama", "tie_word_embeddings": True, **SHAPE},
    "norms": {"architecture": "qwen3", **SHAPE},
    "biases": {"architecture": "qwen2", **SHAPE},
}


def held(session: Session) -> dict[int, DeviceBytes]:
    """Bytes of the tensors of every device that has a thread."""
    runners = session._runners.values()
    states = {p.state.device: p.state for runner in runners for p in runner.programs}
    slots = session._runners["decode"].staging.slots
    return {
        d: DeviceBytes(
            sum(shard.bytes for shard in {id(s): s for s in state.shards.values()}.values()),
            sum(cache.nbytes for cache in state.cache.values()),
            sum(buffer.nbytes for buffer in state.buffers.values()) + slots[d].nbytes,
        )
        for d, state in states.items()
    }


def gathers_alone(split: Split) -> bool:
    """Whether a block of one device goes by column: the planner then counts a gathered copy that is never made."""
    blocks = {block for layer in split.layers for block in (layer.attention, layer.mlp)}
    return any(block.strategy == "column" and len(members(block.units)) == 1 for block in blocks)


@pytest.mark.parametrize("seed", range(24))
def test_session_holds_what_the_planner_counts(tmp_path: Path, seed: int) -> None:
    """Mixtures, shared KV heads, sums in one phase or both, either cache format, either weight format."""
    settings = dict(list(VARIANTS.values())[seed % 4])
    path = tiny_checkpoint(settings.pop("architecture"), tmp_path, **settings)
    model = load_model(path)
    split = random_split(model, 3, seed)
    dtype, cache_dtype = ("float32", "bfloat16")[seed % 2], ("float32", "bfloat16")[seed // 2 % 2]
    plan = plan_of(model, TRIO, split, dtype, cache_dtype, context=(300, 40)[seed % 3 > 0])
    counted = device_bytes(model, split, plan.workload, plan.dtype, plan.cache_dtype)
    with Session.open(plan, model, path) as session:
        got = held(session)
    for d, want in enumerate(counted):
        mine = got.get(d, DeviceBytes(0, 0, 0))
        assert (mine.weights, mine.cache) == (want.weights, want.cache), describe(split)
        if gathers_alone(split):
            assert mine.workspace <= want.workspace, describe(split)
        else:
            assert mine.workspace == want.workspace, describe(split)


def test_few_splits_gather_alone(tmp_path: Path) -> None:
    """Most of the splits above are counted to the byte."""
    model = load_model(tiny_checkpoint("llama", tmp_path, **SHAPE))
    assert sum(gathers_alone(random_split(model, 3, seed)) for seed in range(24)) < 12
    assert BlockPlan("row", ((0, 1),)).sums("decode") == ()
