"""Whatever a plan may say, the unsplit model's numbers: shares inside a KV group, sums by phase, mixtures, bfloat16
caches.

The unsplit model is transformers', with keys and values rounded where the plan's cache is bfloat16.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import tiny_checkpoint, tiny_model
from plans import block, outputs_like, plan_of, ranges
from runs import PAIR, TRIO, logits_of
from splits import describe, random_split

from tpplan.executor.loading import phase_steps, steps_of_any_phase
from tpplan.executor.sampling import Sampler
from tpplan.executor.session import Session
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import BlockPlan, LayerPlan, Plan, Split

SHAPE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"architecture": "llama", "attention_bias": True, "mlp_bias": True, **SHAPE},
    "norms": {"architecture": "qwen3", **SHAPE, "num_hidden_layers": 4},
    "window": {"architecture": "mistral", "sliding_window": 6, **SHAPE},
    "tied": {"architecture": "llama", "tie_word_embeddings": True, **SHAPE},
    "one KV head": {"architecture": "llama", **SHAPE, "num_key_value_heads": 1},
    "no groups": {"architecture": "llama", **SHAPE, "num_key_value_heads": 4},
    "groups of three": {"architecture": "llama", **SHAPE, "hidden_size": 192, "num_attention_heads": 6},
}
IDS = torch.randint(0, 2304, (24,), generator=torch.Generator().manual_seed(7)).tolist()
PROMPT = 20
VOCAB = (1024, 1280)


@cache
def expected(variant: str, cache_dtype: str = "float32") -> torch.Tensor:
    """[1 + decoded tokens, vocab] float32 logits of the unsplit model."""
    from transformers import DynamicCache

    class RoundedCache(DynamicCache):
        def update(self, keys: torch.Tensor, values: torch.Tensor, *rest: Any, **more: Any) -> Any:
            return super().update(keys.bfloat16().float(), values.bfloat16().float(), *rest, **more)

    settings = dict(VARIANTS[variant])
    model = tiny_model(settings.pop("architecture"), **settings)
    held = DynamicCache() if cache_dtype == "float32" else RoundedCache()
    with torch.no_grad():
        return model(torch.tensor([IDS]), past_key_values=held).logits[0][PROMPT - 1 :]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every variant saved as a Hugging Face directory."""
    folder, paths = tmp_path_factory.mktemp("checkpoints"), {}
    for name, settings in VARIANTS.items():
        settings = dict(settings)
        paths[name] = tiny_checkpoint(settings.pop("architecture"), folder / name.replace(" ", "_"), **settings)
    return paths


def assert_same_numbers(plan: Plan, path: Path, variant: str) -> None:
    want, got = expected(variant), logits_of(plan, path, IDS, PROMPT)
    error, allowed = float((got - want).abs().max()), 2e-5 * float(want.abs().max())
    assert error <= allowed, f"off by {error:.3g}, allowed {allowed:.3g}:\n{describe(plan.split)}"


def same_layers(model: ModelSpec, attention: BlockPlan, mlp: BlockPlan, vocab: tuple[int, ...]) -> Split:
    return Split(ranges(vocab), (LayerPlan(attention, mlp),) * model.layers, ranges(vocab))


@pytest.mark.parametrize("strategy", ["row", "column"])
@pytest.mark.parametrize(
    ("variant", "queries"),
    [
        ("biases", (1, 3)), ("biases", (3, 1)), ("norms", (2, 1, 1)), ("norms", (1, 2, 1)), ("window", (3, 1)),
        ("window", (0, 1, 3)), ("tied", (1, 3)), ("one KV head", (1, 3)), ("one KV head", (2, 1, 1)),
        ("no groups", (3, 1)), ("no groups", (1, 2, 1)), ("groups of three", (1, 4, 1)), ("groups of three", (2, 2, 2)),
        ("groups of three", (5, 1)),
    ],
)  # fmt: skip
def test_query_heads_inside_a_group(
    checkpoints: dict[str, Path], variant: str, queries: tuple[int, ...], strategy: str
) -> None:
    """A device with a part of a KV group caches that group's KV head too, and nothing changes."""
    model, devices = load_model(checkpoints[variant]), len(queries)
    attention = block(strategy, queries, outputs_like(queries, model.hidden))
    split = same_layers(model, attention, block("row", (64, 128, 0)[:devices], ()), (*VOCAB, 0)[:devices])
    assert_same_numbers(plan_of(model, TRIO[:devices], split), checkpoints[variant], variant)


SUMS = {
    "everyone": (),
    "uneven": (32, 96, 0),
    "one member": (0, 128, 0),
    "another device": (0, 0, 128),
    "a member and another": (96, 0, 32),
}


def summed(model: ModelSpec, decode: str, prefill: str) -> Split:
    """Units on the first two devices; the third may add up."""
    ways = [ranges(SUMS[way]) if SUMS[way] else () for way in (decode, prefill)]
    attention = BlockPlan("row", ranges((1, 3, 0)), (), *ways)
    return same_layers(model, attention, BlockPlan("row", ranges((128, 64, 0)), (), *ways[::-1]), (0, 2304, 0))


@pytest.mark.parametrize(("decode", "prefill"), list(product(SUMS, repeat=2)))
def test_sums_keep_every_bit(checkpoints: dict[str, Path], decode: str, prefill: str) -> None:
    """Whoever adds up in either phase, the logits are bit for bit those of every consumer adding up itself."""
    path = checkpoints["norms"]
    model = load_model(path)
    got = logits_of(plan_of(model, TRIO, summed(model, decode, prefill)), path, IDS, PROMPT)
    assert torch.equal(got, one_shot(path))


@cache
def one_shot(path: Path) -> torch.Tensor:
    model = load_model(path)
    logits = logits_of(plan_of(model, TRIO, summed(model, "everyone", "everyone")), path, IDS, PROMPT)
    torch.testing.assert_close(logits, expected("norms"), rtol=0, atol=2e-5 * float(logits.abs().max()))
    return logits


def test_devices_with_and_without_work(checkpoints: dict[str, Path]) -> None:
    """A device that only adds up in prefill takes part in prefill alone; one with nothing has no thread and no slot."""
    path = checkpoints["norms"]
    model = load_model(path)
    for sums, takers in (((0, 0, 128), TRIO), ((), PAIR)):
        attention = BlockPlan("row", ranges((1, 3, 0)), (), (), ranges(sums))
        split = same_layers(model, attention, BlockPlan("row", ranges((128, 64, 0))), (0, 2304, 0))
        with Session.open(plan_of(model, TRIO, split), model, path) as session:
            decode, chunk = session._runners["decode"], session._runners["prefill"]
            assert [p.name for p in decode.programs] == PAIR
            assert [p.name for p in chunk.programs] == takers
            threads = {p.state.worker for runner in (decode, chunk) for p in runner.programs}
            assert len(threads) == len(takers)
            assert (decode is chunk) is (takers == PAIR)
            assert (chunk.staging.slots[2].numel() > 0) is (takers == TRIO)


def test_weights_and_caches_are_held_once(checkpoints: dict[str, Path]) -> None:
    """Both phases' programs of a device share its shards, caches and buffers."""
    path = checkpoints["biases"]
    model = load_model(path)
    with Session.open(plan_of(model, TRIO, summed(model, "uneven", "one member")), model, path) as session:
        decode, chunk = (session._runners[phase].programs for phase in ("decode", "prefill"))
        assert all(one.state is other.state for one, other in zip(decode, chunk, strict=True))
        assert all(one.tape is not other.tape for one, other in zip(decode, chunk, strict=True))


@pytest.mark.parametrize("seed", range(36))
def test_random_mixtures(checkpoints: dict[str, Path], seed: int) -> None:
    """Layers of any kind beside each other, on two or three devices, prompts in chunks, some of them of one row."""
    variant = list(VARIANTS)[seed % len(VARIANTS)]
    path = checkpoints[variant]
    model, devices = load_model(path), TRIO if seed % 3 else PAIR
    plan = plan_of(model, devices, random_split(model, len(devices), seed), chunk=(256, 7, 19)[seed % 3])
    assert_same_numbers(plan, path, variant)


@pytest.mark.parametrize("seed", range(100, 108))
def test_bfloat16_cache(checkpoints: dict[str, Path], seed: int) -> None:
    """K and V rounded to bfloat16, all else float32: twenty times closer to the unsplit model that rounds them than
    rounding moves it, prefilled in chunks and decoded."""
    variant = list(VARIANTS)[seed % len(VARIANTS)]
    path = checkpoints[variant]
    model = load_model(path)
    chunk = (256, 7, 19)[seed % 3]
    plan = plan_of(model, TRIO, random_split(model, 3, seed), cache_dtype="bfloat16", chunk=chunk)
    want, got = expected(variant, "bfloat16"), logits_of(plan, path, IDS, PROMPT)
    moved = (want - expected(variant)).abs().max()
    assert (got - want).abs().max() <= moved / 20, describe(plan.split)


def test_phases_alternate_under_stress(checkpoints: dict[str, Path]) -> None:
    """Three devices on at most two cores generate again and again, summing one way in prefill and another in decode."""
    path = checkpoints["norms"]
    model = load_model(path)
    with Session.open(plan_of(model, TRIO[:1], random_split(model, 1, 0), chunk=5), model, path) as alone:
        want = [alone.generate(IDS[:length], 12, Sampler()).token_ids for length in range(1, 13)]
    for split in (summed(model, "another device", "uneven"), random_split(model, 3, 5)):
        with Session.open(plan_of(model, TRIO, split, chunk=5), model, path) as session:
            for _ in range(3):
                got = [session.generate(IDS[:length], 12, Sampler()).token_ids for length in range(1, 13)]
                assert got == want


def test_a_trace_shows_the_phase_that_ran(checkpoints: dict[str, Path]) -> None:
    """Traces of prefill have prefill's steps, those of decode decode's."""
    from tpplan.executor.trace import Trace

    path = checkpoints["norms"]
    model = load_model(path)
    split = summed(model, "everyone", "uneven")
    with Session.open(plan_of(model, TRIO, split), model, path) as session:
        for phase, ids in (("prefill", IDS[:4]), ("decode", IDS[4:5])):
            session.trace = Trace(TRIO)
            session.step(ids, 0, Sampler(), phase)  # type: ignore[arg-type]
            names = {event["name"] for event in session.trace.json()["traceEvents"] if event["ph"] == "X"}
            assert names == {step.name for step in phase_steps(model, split)[phase]}  # type: ignore[index]


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_formats_not_run_yet(checkpoints: dict[str, Path], dtype: str) -> None:
    """A plan with quantised weights is refused in one line that says what to do, before anything is read."""
    model = load_model(checkpoints["tied"])
    plan = plan_of(model, PAIR, random_split(model, 2, 3), dtype)
    with pytest.raises(ValueError, match=f"weights in {dtype}.*solve with --dtype bfloat16 or float32"):
        Session.open(plan, model, checkpoints["tied"])


@pytest.mark.parametrize("seed", range(12))
def test_only_busy_devices_have_steps(seed: int) -> None:
    """The planner counts as used exactly the devices that have steps."""
    from profiles import make_model

    from tpplan.planner.plan import devices_used

    model = make_model(layers=2, hidden=128, mlp=192, vocab=2304)
    split = random_split(model, 4, seed)
    steps = phase_steps(model, split)
    assert devices_used(split) == {d for d in range(4) if steps_of_any_phase(steps, d)}
