"""The real model, split every way: greedy ids equal the unsplit model's in transformers, float32, 48 tokens."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from plans import plan_by_hand, plan_of, ranges

from tpplan.executor.sampling import Sampler
from tpplan.executor.session import Session
from tpplan.executor.tokenizer import load_tokenizer
from tpplan.hwprofiles.device_names import available_cores
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import BlockPlan, LayerPlan, Split

CHAT = ["Why is the sky blue?", "Write a haiku about two unequal friends."]
RAW = ["Once upon a time, in a village by the sea,", "def fibonacci(n):\n"]
NEW_TOKENS = 48
VOCAB = 49152
CORES = available_cores()
PAIR = [f"cpu:{CORES[0]}", f"cpu:{CORES[-1]}" if len(CORES) > 1 else "cpu"]
KV_AND_MLP = [((2, 1), (1024, 512)), ((1, 2), (32, 1504)), ((3, 0), (1536, 0)), ((0, 3), (0, 1536))]
STRATEGIES = list(product(("row", "column"), repeat=2))
SPLITS = [
    (PAIR, kv, mlp, (24576, 24576), attention, mlp_strategy)
    for (kv, mlp), (attention, mlp_strategy) in product(KV_AND_MLP, STRATEGIES)
] + [
    ([*PAIR, "cpu"], (2, 0, 1), (1024, 0, 512), (20480, 0, 28672), "row", "column"),  # a device of three is empty
    (PAIR, (3, 0), (0, 1536), (0, VOCAB), "row", "row"),  # attention and MLP on different devices
    (PAIR, (0, 3), (512, 1024), (VOCAB, 0), "column", "row"),
]


@pytest.fixture(scope="module")
def model(demo_gguf: Path) -> ModelSpec:
    """The demo model's shapes."""
    return load_model(demo_gguf)


@pytest.fixture(scope="module")
def prompts(demo_gguf: Path) -> list[list[int]]:
    """Ids of chat and raw prompts."""
    tokenizer = load_tokenizer(demo_gguf)
    chats = [tokenizer.encode(tokenizer.chat([{"role": "user", "content": text}]), add_special=False) for text in CHAT]
    return chats + [tokenizer.encode(text) for text in RAW]


@pytest.fixture(scope="module")
def expected(demo_gguf: Path, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers continues each prompt with, unsplit; stop ids end a text but do not count."""
    from transformers import AutoModelForCausalLM

    stop_ids = sorted(load_tokenizer(demo_gguf).stop_ids)
    theirs = AutoModelForCausalLM.from_pretrained(demo_gguf.parent, gguf_file=demo_gguf.name, dtype=torch.float32)
    texts = []
    for ids in prompts:
        with torch.inference_mode():
            out = theirs.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=stop_ids,
                pad_token_id=stop_ids[0],
            )
        new = out[0, len(ids) :].tolist()
        texts.append(new[:-1] if new[-1] in stop_ids else new)
    return texts


@pytest.mark.parametrize(("devices", "kv_heads", "mlp", "vocab", "attention", "mlp_strategy"), SPLITS)
def test_greedy_ids(
    demo_gguf: Path,
    model: ModelSpec,
    prompts: list[list[int]],
    expected: list[list[int]],
    devices: list[str],
    kv_heads: tuple[int, ...],
    mlp: tuple[int, ...],
    vocab: tuple[int, ...],
    attention: str,
    mlp_strategy: str,
) -> None:
    """Every split and strategy continues every prompt with the ids of the unsplit model."""
    plan = plan_by_hand(model, devices, kv_heads, mlp, vocab, attention, mlp_strategy)
    stop_ids = load_tokenizer(demo_gguf).stop_ids
    with Session.open(plan, model, demo_gguf) as session:
        for ids, want in zip(prompts, expected, strict=True):
            got = session.generate(ids, NEW_TOKENS, Sampler(), stop_ids)
            assert list(got.token_ids) == want
            assert got.finish_reason == ("length" if len(want) == NEW_TOKENS else "stop")


@pytest.mark.parametrize(("devices", "kv_heads", "mlp", "vocab", "attention", "mlp_strategy"), SPLITS[:4] + SPLITS[-3:])
def test_greedy_ids_of_quantised_weights(
    demo_gguf: Path,
    model: ModelSpec,
    prompts: list[list[int]],
    expected: list[list[int]],
    devices: list[str],
    kv_heads: tuple[int, ...],
    mlp: tuple[int, ...],
    vocab: tuple[int, ...],
    attention: str,
    mlp_strategy: str,
) -> None:
    """Weights kept as the file has them give the very ids of the dequantised model, which no tie decides here."""
    plan = plan_by_hand(model, devices, kv_heads, mlp, vocab, attention, mlp_strategy, "native")
    with Session.open(plan, model, demo_gguf) as session:
        for ids, want in zip(prompts, expected, strict=True):
            assert list(session.generate(ids, len(want), Sampler()).token_ids) == want


def test_greedy_ids_of_a_mixture(
    demo_gguf: Path, model: ModelSpec, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """Query heads shared inside KV groups, a third device that adds up in prefill, layers on one device."""
    uneven, third = ranges((192, 384, 0)), ranges((0, 0, 576))
    split = LayerPlan(
        BlockPlan("row", ranges((4, 5, 0)), (), uneven, third), BlockPlan("row", ranges((1024, 512, 0)), (), (), uneven)
    )
    alone = LayerPlan(BlockPlan("row", ranges((0, 0, 9))), BlockPlan("row", ranges((0, 0, 1536))))
    layers = tuple(alone if i in (7, 8, 29) else split for i in range(model.layers))
    plan = plan_of(model, [*PAIR, "cpu"], Split(ranges((0, 24576, 24576)), layers, ranges((0, 24576, 24576))))
    with Session.open(plan, model, demo_gguf) as session:
        for ids, want in zip(prompts, expected, strict=True):
            assert list(session.generate(ids, len(want), Sampler()).token_ids) == want
