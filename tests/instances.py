"""Random models, machines, workloads and splits whose layers of one window are cut alike."""

from __future__ import annotations

from random import Random

from linked import with_links
from profiles import make_model, make_profile, with_format

from tpplan.hwprofiles.machine import load_hardware
from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import HIDDEN_UNIT, VOCAB_UNIT, BlockPlan, LayerPlan, Range, Split, Workload, members
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.stage_costs import StageCosts
from tpplan.planner.units import Units

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
