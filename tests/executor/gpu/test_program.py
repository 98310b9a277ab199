"""A GPU's program computes the unsplit model, whatever the split: buffers, fusions, residuals, exchanges.

Kernels are plain torch here (`torch_kernels`), so that this needs no GPU; the real ones are tested beside them.
"""

from __future__ import annotations

import msgspec
import pytest
import torch
from gpu_models import RandomWeights, unsplit_logits
from gpu_programs import Devices
from splits import describe, random_split
from torch_kernels import KERNELS

from tpplan.executor.gpu import program
from tpplan.planner.model_spec import ModelSpec, Rope

HOST = torch.device("cpu")
TOKENS = [5, 999, 17, 4000, 3, 64, 2048, 1023, 77, 1500, 12, 13, 14, 15, 16, 170, 18, 19, 20, 2001, 22]
MODEL = ModelSpec(
    architecture="llama", layers=3, hidden=96, heads=6, kv_heads=2, head_dim=16, mlp=160, vocab=4096, context=64,
    norm_eps=1e-5, rope=Rope(), tied_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False, qk_norm=False,
    windows=(0, 0, 0),
)  # fmt: skip
MODELS = {
    "llama": MODEL,
    "biased": msgspec.structs.replace(MODEL, qkv_bias=True, o_bias=True, mlp_bias=True),
    "qwen3": msgspec.structs.replace(MODEL, qk_norm=True, tied_embeddings=True),
    "windowed": msgspec.structs.replace(MODEL, windows=(8, 0, 5)),
}


@pytest.fixture(autouse=True)
def _torch_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, functions in KERNELS.items():
        monkeypatch.setattr(program, name, functions)


def worst(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest difference, relative to the largest logit."""
    return float((found - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", MODELS)
def test_random_splits_compute_the_unsplit_model(name: str, seed: int) -> None:
    """A prompt in two chunks and three tokens more, in float32, give the unsplit model's logits."""
    model = MODELS[name]
    split = random_split(model, 1 + seed % 3, seed)
    devices, truth = (
        Devices(model, RandomWeights(model, HOST, torch.float32), split, torch.float32),
        unsplit_logits(model, RandomWeights(model, HOST, torch.float32), TOKENS, torch.float32),
    )
    found = {}
    devices.run(TOKENS[:3], 0, "prefill")
    found[17] = devices.run(TOKENS[3:18], 3, "prefill")
    for at in (18, 19, 20):
        found[at] = devices.run([TOKENS[at]], at, "decode")
    for at, logits in found.items():
        assert worst(logits, truth[at]) < 2e-5, describe(split)


@pytest.mark.parametrize("seed", range(8))
def test_many_rows_compute_the_same(seed: int) -> None:
    """More rows than the kernels of decode take, padded, then a token: the unsplit model's logits."""
    split = random_split(MODEL, 3, 100 + seed)
    devices = Devices(MODEL, RandomWeights(MODEL, HOST, torch.float32), split, torch.float32)
    truth = unsplit_logits(MODEL, RandomWeights(MODEL, HOST, torch.float32), TOKENS, torch.float32)
    assert worst(devices.run(TOKENS[:20], 0, "prefill"), truth[19]) < 2e-5, describe(split)
    assert worst(devices.run(TOKENS[20:], 20, "decode"), truth[20]) < 2e-5, describe(split)


@pytest.mark.parametrize("seed", range(6))
def test_splitting_costs_no_precision(seed: int) -> None:
    """In bfloat16 a split is no further from float32 than twice what the unsplit model is."""
    weights = RandomWeights(MODEL, HOST, torch.bfloat16)
    truth = unsplit_logits(MODEL, weights, TOKENS, torch.float32)
    unsplit = unsplit_logits(MODEL, weights, TOKENS, torch.bfloat16)
    split = random_split(MODEL, 3, 200 + seed)
    devices = Devices(MODEL, RandomWeights(MODEL, HOST, torch.bfloat16), split, torch.bfloat16)
    devices.run(TOKENS[:20], 0, "prefill")
    found = devices.run(TOKENS[20:], 20, "decode")
    assert worst(found, truth[20]) < 2 * max(worst(unsplit[at], truth[at]) for at in range(21)), describe(split)


@pytest.mark.parametrize("seed", range(6))
def test_members_hold_the_same_bits(seed: int) -> None:
    """Two devices that took part in the last block hold bit-identical hidden states, in bfloat16 too."""
    split = random_split(MODEL, 3, 300 + seed)
    devices = Devices(MODEL, RandomWeights(MODEL, HOST, torch.bfloat16), split, torch.bfloat16)
    devices.run(TOKENS[:5], 0, "prefill")
    heads = [s for s, span in zip(devices.states, split.head, strict=True) if span[1] > span[0]]
    for other in heads[1:]:
        assert torch.equal(other.buffers["hidden"][:96], heads[0].buffers["hidden"][:96])
