"""Sampling against transformers' logits processors, and its refusals."""

import math

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tpplan.executor.sampling import Sampler


def reference(logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """The distribution `transformers.generate` draws from."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    if min_p:
        processors.append(MinPLogitsWarper(min_p))
    return processors(torch.zeros(1, 1, dtype=torch.long), logits[None]).softmax(-1)[0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(0, 1, 0), (5, 1, 0), (0, 0.7, 0), (0, 1, 0.1), (40, 0.9, 0.05), (9999, 0.01, 1)],
)
def test_same_distribution_as_transformers(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Every combination of filters keeps the same tokens with the same probabilities as transformers."""
    sampler = Sampler(temperature, top_k, top_p, min_p, seed=0)
    for seed in range(20):
        logits = torch.randn(997, generator=torch.Generator().manual_seed(seed)) * 4
        expected = reference(logits, temperature, top_k, float(top_p), float(min_p))
        torch.testing.assert_close(sampler.probabilities(logits), expected, rtol=1e-4, atol=1e-7)


def test_top_k_keeps_ties() -> None:
    """Tokens that tie with the k-th one are kept, as in transformers."""
    logits = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(Sampler(1.0, top_k=2).probabilities(logits), reference(logits, 1.0, 2, 1.0, 0.0))


def test_draws_follow_the_distribution() -> None:
    """Frequencies over many draws come within 4 standard deviations of the probabilities."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    sampler, draws = Sampler(1.0, seed=7), 4000
    counts = torch.bincount(torch.tensor([sampler(logits) for _ in range(draws)]), minlength=4)
    expected = logits.softmax(-1)
    assert ((counts / draws - expected).abs() < 4 * (expected * (1 - expected) / draws).sqrt()).all()


def test_greedy_takes_the_lowest_id_on_ties() -> None:
    """Temperature 0 returns the first of equal maxima, and filters change nothing."""
    logits = torch.tensor([0.0, 3.0, -math.inf, 3.0])
    assert Sampler()(logits) == Sampler(top_k=3, top_p=0.5, min_p=0.5)(logits) == 1


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e-4, 1e30])
def test_extreme_temperatures_draw_valid_ids(temperature: float) -> None:
    """No positive temperature overflows: the smallest ones act as greedy, the largest as uniform."""
    ids = {Sampler(temperature, seed=s)(torch.tensor([0.0, 50.0, -80.0])) for s in range(40)}
    assert ids == ({1} if temperature < 1 else {0, 1, 2})


def test_seed_reproduces_and_leaves_the_global_generator_alone() -> None:
    """Equal seeds draw equal ids, an unseeded sampler tells its seed, and torch's own generator is untouched."""
    before = torch.get_rng_state()
    logits = torch.zeros(1000)
    first = Sampler(1.0)
    second = Sampler(1.0, seed=first.seed)
    assert [first(logits) for _ in range(20)] == [second(logits) for _ in range(20)]
    assert [Sampler(1.0, seed=1)(logits) for _ in range(3)] != [Sampler(1.0, seed=2)(logits) for _ in range(3)]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        *[({"temperature": t}, "temperature") for t in (-0.1, math.nan, math.inf)],
        *[({"top_k": k}, "top-k") for k in (-1, 2.5)],
        *[({"top_p": p}, "top-p") for p in (0.0, -1.0, 1.01, math.nan)],
        *[({"min_p": p}, "min-p") for p in (-0.1, 1.1, math.nan)],
        *[({"seed": s}, "seed") for s in (-1, 2**64)],
    ],
)
def test_parameters_out_of_range_are_named(parameters: dict[str, float], name: str) -> None:
    """A parameter out of range is refused in one line that starts with its name."""
    with pytest.raises(ValueError, match=f"^{name} must be [^\n]+$"):
        Sampler(**parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_logits_are_refused(bad: float, temperature: float) -> None:
    """A NaN or infinite logit ends generation with a line that says so."""
    with pytest.raises(ValueError, match="not numbers"):
        Sampler(temperature)(torch.tensor([0.0, bad, 1.0]))
    with pytest.raises(ValueError, match="not numbers"):
        Sampler(temperature)(torch.full((3,), -math.inf))
