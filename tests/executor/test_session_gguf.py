"""GGUF checkpoints whose weights stay quantised in memory give the logits of the unsplit dequantised model.

The unsplit model is transformers', with the weights that `gguf.quants` makes of the file.
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from checkpoints import random_rows, tiny_gguf, tiny_model
from gguf import GGMLQuantizationType as Q
from plans import plan_of
from runs import PAIR, TRIO, logits_of
from splits import describe, random_split

from tpplan.executor.session import Session
from tpplan.planner.memory import device_bytes
from tpplan.planner.model_files import load_model
from tpplan.planner.stored_formats import KEPT
from tpplan.planner.weight_formats import mlp_unit

SHAPE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
WIDE = SHAPE | {"hidden_size": 256, "head_dim": 64, "intermediate_size": 512}
KINDS = [kind for kind in KEPT if kind not in (Q.F16, Q.BF16)]
IDS = torch.randint(0, 2304, (74,), generator=torch.Generator().manual_seed(7)).tolist()
PROMPT = 70


def shape_of(kind: Q) -> dict[str, Any]:
    """The smallest whose rows are whole blocks."""
    return WIDE if gguf.GGML_QUANT_SIZES[kind][0] == 256 else SHAPE


@cache
def dequantised(kind: Q, tied: bool) -> Any:
    """The model whose matrices are what the file's mean."""
    model = tiny_model("llama", tie_word_embeddings=tied, **shape_of(kind))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.copy_(torch.from_numpy(gguf.quants.dequantize(quantised(weight.numpy(), kind), kind)))
    return model


def quantised(weight: np.ndarray, kind: Q) -> np.ndarray:
    """Stored rows; for the types that the gguf package cannot quantise to, random ones that follow from the row."""
    try:
        return gguf.quants.quantize(weight, kind)
    except NotImplementedError:
        seeds = [zlib.crc32(row.tobytes()) for row in weight]
        return np.concatenate([random_rows(kind, 1, weight.shape[1], seed, exponent=1) for seed in seeds])


def written(kind: Q, tied: bool, path: Path) -> Path:
    return tiny_gguf(tiny_model("llama", tie_word_embeddings=tied, **shape_of(kind)), path, kind, quantised)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_logits(tmp_path: Path, kind: Q, seed: int) -> None:
    """Random splits (uneven, empty, inside groups and KV groups, row and column), prefill and decode."""
    path = written(kind, bool(seed % 2), tmp_path / "model.gguf")
    spec = load_model(path)
    devices = (PAIR, TRIO)[seed % 2]
    plan = plan_of(spec, devices, random_split(spec, len(devices), seed, mlp_unit(spec, "native")), "native")
    with torch.no_grad():
        want = dequantised(kind, bool(seed % 2))(torch.tensor([IDS])).logits[0][PROMPT - 1 :]
    error, allowed = float((logits_of(plan, path, IDS, PROMPT) - want).abs().max()), 2e-5 * float(want.abs().max())
    assert error <= allowed, f"off by {error:.3g}, allowed {allowed:.3g}:\n{describe(plan.split)}"


def test_what_is_not_kept_is_told(tmp_path: Path) -> None:
    """Q2_K becomes float32, gives the same numbers, and a line says so."""
    path = written(Q.Q2_K, False, tmp_path / "model.gguf")
    spec = load_model(path)
    assert spec.stored
    assert spec.stored.qkv.form == "float32"
    plan = plan_of(spec, PAIR, random_split(spec, 2, 1), "native")
    with torch.no_grad():
        want = dequantised(Q.Q2_K, False)(torch.tensor([IDS])).logits[0][PROMPT - 1 :]
    assert float((logits_of(plan, path, IDS, PROMPT) - want).abs().max()) <= 2e-5 * float(want.abs().max())
    with Session.open(plan, spec, path) as session:
        assert session.notes == ["16 matrices in Q2_K are held as float32: Q2_K is not computed with as it is"]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_memory(tmp_path: Path, kind: Q) -> None:
    """What each device holds is what the planner counts, within 2 %, where heads are whole groups and tiles."""
    path = tiny_gguf(tiny_model("llama", **WIDE), tmp_path / "model.gguf", kind, quantised)
    spec = load_model(path)
    plan = plan_of(spec, PAIR, random_split(spec, 2, 5, mlp_unit(spec, "native")), "native")
    counted = device_bytes(spec, plan.split, plan.workload, "native")
    with Session.open(plan, spec, path) as session:
        for program in session._runners["decode"].programs:
            shards = {id(shard): shard for shard in program.state.shards.values()}.values()
            got, want = sum(shard.bytes for shard in shards), counted[program.state.device].weights
            assert abs(got - want) <= 0.02 * want
