"""Reported configurations become the splits that their words say, of models of the size they name."""

from __future__ import annotations

import pytest
from field_reports import modelled
from reported import MISTRAL_123B, QWEN3_14B, REPORTS, layers_by_memory, layers_filled, shares

from tpplan.hwprofiles.machine import load_hardware
from tpplan.planner.baselines import split_bytes
from tpplan.planner.memory import device_caps, fits
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import Split, members, size
from tpplan.planner.price import Pricer

WEIGHTS = [(QWEN3_14B, 14.77e9), (MISTRAL_123B, 122.6e9)]  # as published


@pytest.mark.parametrize(("model", "weights"), WEIGHTS)
def test_models_made_here_have_the_published_size(model: ModelSpec, weights: float) -> None:
    width = model.head_dim * (2 * model.heads + 2 * model.kv_heads) + 3 * model.mlp
    assert model.hidden * (model.layers * width + 2 * model.vocab) == pytest.approx(weights, rel=0.005)


def _on_three_cards(model: ModelSpec) -> tuple[Pricer, tuple[int, ...]]:
    profile = load_hardware("rtx3090+2xrtx3060")
    step = REPORTS[1].steps[2]
    return Pricer(model, profile, "int8", step.workload, "bfloat16"), device_caps(profile, {})


def _layers_on(split: Split) -> list[int]:
    """Layers of each device; every layer is on one."""
    owners = [members(layer.attention.units) for layer in split.layers]
    assert all(len(owner) == 1 for owner in owners)
    return [owners.count((d,)) for d in range(len(split.head))]


def test_layers_by_memory_follow_the_caps() -> None:
    pricer, caps = _on_three_cards(REPORTS[1].steps[2].model)
    counts = _layers_on(layers_by_memory(pricer, caps))
    assert all(abs(count - 64 * cap / sum(caps)) <= 1 for count, cap in zip(counts, caps))


def test_filled_means_that_not_one_layer_more_fits_on_the_first_card() -> None:
    pricer, caps = _on_three_cards(REPORTS[1].steps[2].model)
    split = layers_filled(pricer, caps)
    held = split_bytes(pricer, split)
    first, _, _ = _layers_on(split)
    layer_bytes = (held[0].weights + held[0].cache) / first  # the embedding makes it a little too large
    assert fits(held, pricer.profile, caps)
    assert held[0].total + layer_bytes > caps[0]
    assert sum(map(size, split.embedding)) == pricer.model.vocab


def test_shares_add_up() -> None:
    assert shares(10, (2, 1, 1)) == (5, 3, 2)
    assert sum(shares(61, (22.3, 10.9, 10.9))) == 61


def test_layers_cost_what_bytes_over_bandwidth_say() -> None:
    """The 8B model in 8 bits by hand: a seventh at most is added for calls and attention."""
    step = REPORTS[1].steps[0]
    found, model = modelled(step, None), step.model
    pricer, caps = _on_three_cards(model)
    width = model.head_dim * (2 * model.heads + 2 * model.kv_heads) + 3 * model.mlp
    layers = model.layers * model.hidden * width * (1 + 4 / 128) / 0.95  # scales; what unpacking leaves of the rate
    head = 2 * model.vocab * model.hidden
    rates = [device.read_bytes_per_s for device in pricer.profile.devices]
    split_s = sum(layers * cap / sum(caps) / rate for cap, rate in zip(caps, rates)) + head / rates[-1]
    alone_s = (layers + head) / rates[0]
    assert 1.0 < 1 / found.before / split_s < 1.15
    assert 1.0 < 1 / found.after / alone_s < 1.15
