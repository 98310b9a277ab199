"""The CP-SAT model of single splits: it never makes one slower than it is, and counts its memory to the byte."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from linked import with_links
from pinned import pinned_fits, pinned_price
from profiles import make_model, make_profile, with_format

from tpplan.hwprofiles.machine import load_hardware
from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.baselines import split_bytes
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec, Quant
from tpplan.planner.plan import HIDDEN_UNIT, VOCAB_UNIT, BlockPlan, LayerPlan, Range, Split, Workload, members
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.stage_costs import StageCosts
from tpplan.planner.sums import with_best_sums
from tpplan.planner.units import Units
from tpplan.planner.wishes import completed, pricer_of

MACHINES = ["rtx3090@4.0x16+rtx3060@4.0x4", "2xrtx3090@4.0x8/a+rtx3060@4.0x4/a", "rtx3090+rtx4060ti+cpu:ddr5-2ch"]
MODELS = ["llama-3.1-8b", "llama-2-7b-int4-actorder", "qwen2.5-7b-int4-actorder", "qwen3-8b-int8"]
Instance = tuple[ModelSpec, HardwareProfile, Request]


def known(draw: Random) -> Instance:
    """A well-known model on a machine from the catalogue."""
    work = Workload(draw.choice([1, 300, 2100]), draw.choice([1, 64, 512]), draw.choice([1, 4]), 4096)
    return load_model(f"examples/{draw.choice(MODELS)}.json"), load_hardware(draw.choice(MACHINES)), Request(work)


def synthetic(draw: Random) -> Instance:
    """Odd shapes: ragged dimensions, biases, windows, quantisation on request; links and ports."""
    count, kv, layers = draw.randint(2, 4), draw.choice([1, 2, 3, 8]), draw.choice([1, 2, 6])
    profile = make_profile([draw.choice([1.0, 0.8, 0.3]) for _ in range(count)], kind=draw.choice(["cpu", "cuda"]))
    if draw.random() < 0.5:
        rates = [10 ** draw.uniform(8, 10.5) for _ in range(count)]
        ports = [draw.choice(["", "a"]) for _ in range(count)]
        profile = with_links(profile, rates, ports, {"a": 2e9}, host=draw.choice([0.0, 5e9]))
    model = make_model(
        layers=layers,
        hidden=draw.choice([64, 80, 576]),
        kv_heads=kv,
        heads=kv * draw.choice([1, 2, 6]),
        head_dim=draw.choice([16, 64]),
        mlp=draw.choice([33, 500, 1536]),
        vocab=draw.choice([1100, 5000, 50257]),
        windows=tuple(draw.choice([0, 64]) for _ in range(layers)),
        tied_embeddings=draw.random() < 0.5,
        **{name: draw.random() < 0.4 for name in ("qkv_bias", "o_bias", "mlp_bias", "qk_norm")},
    )
    work = Workload(draw.choice([1, 64, 600]), draw.choice([1, 64]), draw.choice([1, 4]), 2048)
    dtype = draw.choice(["float32", "bfloat16", "int4"])
    return model, with_format(profile, "int4", 0.3), Request(work, dtype=dtype, replicate_kv=draw.random() < 0.7)


def alike(draw: Random, pricer: Pricer, replicate_kv: bool) -> Split:
    """Any split whose layers of one window are cut alike, and whose row blocks are summed by every consumer."""
    model, costs, count = pricer.model, StageCosts(pricer, replicate_kv), len(pricer.profile.devices)

    def spans(units: Units, allowed: tuple[int, ...]) -> tuple[Range, ...]:
        holders = sorted(draw.sample(allowed, draw.randint(1, len(allowed))))
        cuts = sorted(draw.randint(0, units.count) for _ in holders[1:])
        counts = dict(zip(holders, (end - begin for begin, end in zip([0, *cuts], [*cuts, units.count]))))
        return units.spans(tuple(counts.get(d, 0) for d in range(count)))

    def block(units: Units) -> BlockPlan:
        own = spans(units, tuple(range(count)))
        if len(members(own)) > 1 and draw.random() < 0.5:
            return BlockPlan("column", own, spans(Units(model.hidden, HIDDEN_UNIT), members(own)))
        return BlockPlan("row", own)

    cuts = {window: LayerPlan(block(costs.units("attention")), block(costs.units("mlp"))) for window in model.windows}
    table, other = (spans(Units(model.vocab, VOCAB_UNIT), tuple(range(count))) for _ in range(2))
    layers = tuple(cuts[window] for window in model.windows)
    return Split(table if model.tied_embeddings else other, layers, table)


@pytest.mark.parametrize("make", [known, synthetic])
@pytest.mark.parametrize("seed", range(24))
def test_a_split_costs_the_solver_no_more_than_it_does(make, seed: int) -> None:  # type: ignore[no-untyped-def]
    """With room for exactly its bytes the split is possible, at no more than its exact price, summed the fastest way,
    and what fitting costs is said to add; with a byte less on any device that has some it is not.
    """
    draw = Random(seed)
    model, profile, request = make(draw)
    request = completed(request, model, profile)
    pricer = pricer_of(request, model, profile)
    split = alike(draw, pricer, request.replicate_kv and model.group > 1)
    held = [device.total for device in split_bytes(pricer, split)]
    seconds, error = pinned_price(pricer, request, tuple(held), split)
    assert seconds is not None
    summed = with_best_sums(pricer, split, lambda _: True)
    assert seconds <= pricer.split_s(summed) * (1 + error) * (1 + 1e-6)
    for d in draw.sample([d for d, total in enumerate(held) if total], 1):
        less = tuple(total - (i == d) for i, total in enumerate(held))
        assert not pinned_fits(pricer, request, less, split)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [16, 64])
def test_scale_tables_count_to_the_byte(group: int, act_order: bool) -> None:
    """Groups wider and narrower than a head: what a share keeps of all scales under act-order rounds as it must."""
    model = make_model(layers=2, hidden=64, heads=8, kv_heads=4, head_dim=16, mlp=256, vocab=2048)
    model = msgspec.structs.replace(model, quant=Quant(4, group, act_order))
    request = Request(Workload(64, 32, 1, 256), dtype="int4", cache_dtype="float32")
    pricer = pricer_of(request, model, with_format(make_profile([1.0, 0.6]), "int4", 0.3))
    for heads in (1, 3, 6, 8):
        attention, mlp = BlockPlan("row", ((0, heads), (heads, 8))), BlockPlan("row", ((0, 128), (128, 256)))
        split = Split(((0, 2048), (2048, 2048)), (LayerPlan(attention, mlp),) * 2, ((0, 2048), (2048, 2048)))
        held = tuple(device.total for device in split_bytes(pricer, split))
        assert pinned_fits(pricer, request, held, split)
        assert not pinned_fits(pricer, request, (held[0] - 1, held[1]), split)
        assert not pinned_fits(pricer, request, (held[0], held[1] - 1), split)
