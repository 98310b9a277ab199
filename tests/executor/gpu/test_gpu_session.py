"""Sessions of plans with GPUs: refusals anywhere; on a GPU, the CPU's numbers from files, splits, CPUs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from plans import plan_by_hand, plan_of
from quantised_checkpoints import NAMES
from quantised_checkpoints import checkpoint as quantised_checkpoint
from random_checkpoints import random_checkpoint
from runs import PAIR, logits_of
from splits import describe, random_split

from tpplan.executor.sampling import Sampler
from tpplan.executor.session import Session
from tpplan.planner.model_files import load_model
from tpplan.planner.plan import Plan
from tpplan.planner.weight_formats import mlp_unit

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 384, "vocab_size": 4096,
    "max_position_embeddings": 512, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "attention_bias": True, "mlp_bias": True, "rope_theta": 10000.0,
}  # fmt: skip
IDS = torch.randint(0, 4096, (90,), generator=torch.Generator().manual_seed(3)).tolist()
PROMPT = 83
RIGS = [["cuda:0"], ["cuda:0/8", "cuda:0/16"], ["cuda:0/16", "cpu:0-3"], ["cpu:0-1", "cuda:0/8", "cpu:2-5"]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("llama"), CONFIG)


def plan_on(rig: list[str], path: Path, seed: int, dtype: str = "float32") -> Plan:
    model = load_model(path)
    return plan_of(model, rig, random_split(model, len(rig), seed), dtype, dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_plan_for_gpus_without_one(checkpoint: Path) -> None:
    """One line that says what is missing and the way out."""
    with pytest.raises(ValueError, match=r"torch was built without CUDA|no NVIDIA driver|no GPU is visible") as refused:
        Session.open(plan_on(["cuda:0"], checkpoint, 0), load_model(checkpoint), checkpoint)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_random_plans_give_the_cpus_logits(checkpoint: Path, seed: int) -> None:
    """Prompt and tokens on every rig, CPU devices among them, give the logits of one CPU device within rounding."""
    rig, model = RIGS[seed % len(RIGS)], load_model(checkpoint)
    plan = plan_on(rig, checkpoint, seed)
    truth = logits_of(plan_by_hand(model, PAIR[:1], (4,), (384,), (4096,)), checkpoint, IDS, PROMPT)
    with Session.open(plan, model, checkpoint) as session:
        sampler = Sampler(temperature=1.0, seed=0)
        session._prefill(IDS[:PROMPT], sampler)
        found = [session.logits.clone()]
        for at in range(PROMPT, len(IDS)):
            session.step([IDS[at]], at, sampler)
            found.append(session.logits.clone())
    worst = float((torch.stack(found) - truth).abs().max() / truth.abs().max())
    assert worst < 1e-4, (worst, rig, describe(plan.split))


@pytest.mark.parametrize("name", ["gptq-act-order", "awq-mixed", "gptq-act-order-8-bits", "Q4_1", "Q8_0", "Q6_K"])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_quantised_plans_give_the_cpus_logits(tmp_path: Path, name: str) -> None:
    """Weights as they are stored, on every rig: within rounding those of one CPU device, which keeps them too."""
    seed = NAMES.index(name)
    path, rig = quantised_checkpoint(tmp_path, name, seed), RIGS[seed % len(RIGS)]
    model = load_model(path)
    ids = [token % model.vocab for token in IDS]
    whole = plan_by_hand(model, PAIR[:1], (model.kv_heads,), (model.mlp,), (model.vocab,), dtype="native")
    truth = logits_of(whole, path, ids, PROMPT)
    split = random_split(model, len(rig), seed, mlp_unit(model, "native"))
    found = logits_of(plan_of(model, rig, split, "native", "float32"), path, ids, PROMPT)
    worst = float((found - truth).abs().max() / truth.abs().max())
    assert worst < 1e-4, (worst, rig, describe(split))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_generated_text_is_the_cpus(checkpoint: Path, seed: int) -> None:
    """Greedy tokens, streamed from device to device or told by the host, are those of one CPU device; a stop id ends
    both; the session can be opened again afterwards.
    """
    rig, model = RIGS[seed], load_model(checkpoint)
    with Session.open(plan_by_hand(model, PAIR[:1], (4,), (384,), (4096,)), model, checkpoint) as session:
        truth = session.generate(IDS[:20], 24, Sampler())
    for _ in range(2):
        with Session.open(plan_on(rig, checkpoint, 40 + seed), model, checkpoint) as session:
            streamed: list[int] = []
            found = session.generate(IDS[:20], 24, Sampler(), on_token=streamed.append)
            assert found.token_ids == truth.token_ids == tuple(streamed)
            stop = truth.token_ids[5]
            ended = session.generate(IDS[:20], 24, Sampler(), stop_ids=[stop])
            assert ended.token_ids == truth.token_ids[: truth.token_ids.index(stop)]
            assert ended.finish_reason == "stop"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_files_reach_the_gpu_bit_for_bit(tmp_path: Path) -> None:
    """Slices read through pinned buffers are those that a CPU reads: rows, columns, several buffers long."""
    from tpplan.executor.gpu import staged_files
    from tpplan.executor.weight_files import open_weights

    path = random_checkpoint(tmp_path, CONFIG, torch.bfloat16)
    old, staged_files.BUFFER_BYTES = staged_files.BUFFER_BYTES, 1000
    try:
        with open_weights(path, load_model(path)) as files:
            staged = staged_files.StagedFiles(files)
            for name in files.names:
                shape = files.shape(name)
                rows = (shape[0] // 3, shape[0] - 1)
                columns = (5, shape[1] - 7) if len(shape) == 2 else None
                truth = files.read(name, rows, columns)
                for form in (torch.float32, torch.bfloat16):
                    out = torch.full(truth.shape, torch.nan, dtype=form, device="cuda")
                    staged.read_into(out, name, rows, columns)
                    assert torch.equal(out.cpu().float(), truth)
    finally:
        staged_files.BUFFER_BYTES = old
