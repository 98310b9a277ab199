"""Every architecture, split every way, against the unsplit model in transformers."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import tiny_checkpoint, tiny_gguf, tiny_model
from plans import plan_by_hand
from runs import PAIR, TRIO, logits_of

from tpplan.planner.model_files import load_model
from tpplan.planner.plan import Plan

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 10000.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "llama"},
    "llama tied": {"architecture": "llama", "tie_word_embeddings": True},
    "llama biases, wide heads": {"architecture": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 32},
    "llama linear": {
        "architecture": "llama",
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    },
    "llama llama3": {"architecture": "llama", "rope_parameters": LLAMA3},
    "llama yarn": {"architecture": "llama", "rope_parameters": YARN},
    "mistral window": {"architecture": "mistral", "sliding_window": 6},
    "qwen2 window": {
        "architecture": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3": {"architecture": "qwen3"},
}
IDS = torch.randint(0, 2304, (24,), generator=torch.Generator().manual_seed(7)).tolist()
PROMPT = 20
STRATEGIES = list(product(("row", "column"), repeat=2))


@cache
def expected(variant: str) -> torch.Tensor:
    """[tokens, vocab] float32 logits of the unsplit model."""
    settings = dict(VARIANTS[variant])
    model = tiny_model(settings.pop("architecture"), **settings)
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


def assert_same_numbers(plan: Plan, path: Path, variant: str) -> None:
    want = expected(variant)[PROMPT - 1 :]
    got = logits_of(plan, path, IDS, PROMPT)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * float(want.abs().max()))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every variant saved as a Hugging Face directory."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for name, settings in VARIANTS.items():
        settings = dict(settings)
        paths[name] = tiny_checkpoint(settings.pop("architecture"), folder / name.replace(" ", "_"), **settings)
    return paths


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("attention", "mlp"), STRATEGIES)
def test_uneven_pair(checkpoints: dict[str, Path], variant: str, attention: str, mlp: str) -> None:
    """Two uneven devices give the unsplit model's logits, in prefill and in decode, whatever the strategies."""
    path = checkpoints[variant]
    plan = plan_by_hand(load_model(path), PAIR, (2, 1), (64, 128), (1024, 1280), attention, mlp)
    assert_same_numbers(plan, path, variant)


@pytest.mark.parametrize(
    ("kv_heads", "mlp", "vocab"),
    [
        ((1, 2), (32, 160), (2304, 0)),
        ((3, 0), (192, 0), (2304, 0)),
        ((0, 3), (0, 192), (0, 2304)),
        ((3, 0), (0, 192), (1024, 1280)),
        ((0, 3), (64, 128), (2048, 256)),
        ((1, 2), (192, 0), (0, 2304)),
    ],
)
@pytest.mark.parametrize(("attention", "mlp_strategy"), STRATEGIES)
def test_lopsided_pairs(
    checkpoints: dict[str, Path],
    kv_heads: tuple[int, ...],
    mlp: tuple[int, ...],
    vocab: tuple[int, ...],
    attention: str,
    mlp_strategy: str,
) -> None:
    """Empty shares, blocks on different device sets and an output device that is not the first change no number."""
    variant = "llama biases, wide heads"
    path = checkpoints[variant]
    plan = plan_by_hand(load_model(path), PAIR, kv_heads, mlp, vocab, attention, mlp_strategy)
    assert_same_numbers(plan, path, variant)


@pytest.mark.parametrize(
    ("kv_heads", "mlp", "vocab", "embedding"),
    [
        ((2, 0, 1), (64, 0, 128), (1024, 0, 1280), (0, 0, 2304)),
        ((1, 1, 1), (32, 96, 64), (1024, 1024, 256), (2304, 0, 0)),
        ((0, 2, 1), (160, 32, 0), (0, 0, 2304), (0, 2304, 0)),
    ],
)
@pytest.mark.parametrize(("attention", "mlp_strategy"), STRATEGIES)
def test_three_devices(
    checkpoints: dict[str, Path],
    kv_heads: tuple[int, ...],
    mlp: tuple[int, ...],
    vocab: tuple[int, ...],
    embedding: tuple[int, ...],
    attention: str,
    mlp_strategy: str,
) -> None:
    """Three devices, one of them empty, or holding only some blocks, or with two cores of its own."""
    path = checkpoints["qwen3"]
    model = load_model(path)
    plan = plan_by_hand(
        model,
        TRIO,
        kv_heads,
        mlp,
        vocab,
        attention,
        mlp_strategy,
        embedding=embedding,
    )
    assert_same_numbers(plan, path, "qwen3")


def test_chunked_prefill(checkpoints: dict[str, Path]) -> None:
    """A prompt prefilled in chunks of 7 gives the same logits as one pass, sliding window included."""
    for variant in ("mistral window", "qwen2 window", "llama"):
        path = checkpoints[variant]
        plan = plan_by_hand(load_model(path), PAIR, (1, 2), (128, 64), (1024, 1280), "row", "column", chunk=7)
        assert_same_numbers(plan, path, variant)


def test_one_device_with_all_cores(checkpoints: dict[str, Path]) -> None:
    """A device of several cores shares out its steps and gives the same logits."""
    path = checkpoints["llama"]
    assert_same_numbers(plan_by_hand(load_model(path), ["cpu"], (3,), (192,), (2304,)), path, "llama")


def test_gguf_runs_like_safetensors(tmp_path: Path) -> None:
    """The same weights from a GGUF file, q and k permuted as llama.cpp stores them, give the same logits."""
    path = tiny_gguf(tiny_model("llama"), tmp_path / "tiny.gguf")
    plan = plan_by_hand(load_model(path), PAIR, (2, 1), (64, 128), (1024, 1280))
    assert_same_numbers(plan, path, "llama")


def test_bfloat16_stays_near(checkpoints: dict[str, Path]) -> None:
    """bfloat16 shards are at most twice as far from float32 as the unsplit bfloat16 model of transformers."""
    want = expected("llama")[PROMPT - 1 :]
    model = tiny_model("llama").bfloat16()
    with torch.no_grad():
        theirs = model(torch.tensor([IDS])).logits[0][PROMPT - 1 :].float()
    path = checkpoints["llama"]
    plan = plan_by_hand(load_model(path), PAIR, (2, 1), (64, 128), (1024, 1280), dtype="bfloat16")
    ours = logits_of(plan, path, IDS, PROMPT)
    assert (ours - want).abs().max() <= 2 * (theirs - want).abs().max()
