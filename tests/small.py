"""Random instances so small that every split of them can be priced."""

from __future__ import annotations

from random import Random

import msgspec
from instances import Instance
from linked import with_links
from profiles import make_model, make_profile, with_format

from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.model_spec import ModelSpec, Quant
from tpplan.planner.plan import BlockPlan, Split, Workload, members, size
from tpplan.planner.request import Request
from tpplan.planner.units import Units
from tpplan.planner.wishes import obeys


def small(draw: Random) -> Instance:
    """Two devices, or three with fewer units: at most eight units of anything, layers alike."""
    count = draw.choice([2, 2, 3])
    model, dtype = small_model(draw, count)
    works = [Workload(64, 32, 1, 256), Workload(1, 64, 4, 256), Workload(700, 4, 1, 1024), Workload(300, 1, 4, 512)]
    request = Request(draw.choice(works), dtype=dtype, replicate_kv=draw.random() < 0.7)
    if draw.random() < 0.2:
        request = msgspec.structs.replace(request, mlp_strategy=draw.choice(["row", "column"]))
    return model, small_machine(draw, count), request


def as_asked(request: Request, model: ModelSpec, split: Split) -> Split | None:
    """`split`, by the strategy that `request` fixes where it is not cut; None where it is cut by the other."""
    plan = split.layers[0].mlp
    if len(members(plan.units)) == 1 and request.mlp_strategy == "column":
        whole = Units(model.hidden, model.hidden)
        plan = BlockPlan("column", plan.units, whole.spans(tuple(int(size(span) > 0) for span in plan.units)))
    layers = tuple(msgspec.structs.replace(layer, mlp=plan) for layer in split.layers)
    split = msgspec.structs.replace(split, layers=layers)
    return split if obeys(split, request, model) else None


def small_model(draw: Random, count: int) -> tuple[ModelSpec, str]:
    """A model, and the format that it is asked for in."""
    kv, group = draw.choice([(1, 1), (1, 3), (1, 4), (2, 1), (2, 2), (4, 1)] if count == 2 else [(1, 2), (2, 1)])
    quant = draw.choice([None, None, None, Quant(4, 32), Quant(4, 32, True)])
    shape = make_model(
        layers=draw.choice([2, 3, 7]),
        hidden=draw.choice([64, 96, 96 if quant else 80] if count == 2 else [32, 64]),
        kv_heads=kv,
        heads=kv * group,
        head_dim=32,
        mlp=32 * draw.randint(2, 5 if count == 2 else 3) - (0 if quant else draw.choice([0, 13, 27])),
        vocab=draw.choice([1000, 1024, 1500] if count == 2 else [700, 1024]),
        quant=quant,
        tied_embeddings=draw.random() < 0.6,
        **{name: draw.random() < 0.3 for name in ("qkv_bias", "o_bias", "mlp_bias", "qk_norm")},
    )
    return shape, "int4" if quant else draw.choice(["float32", "bfloat16"])


def small_machine(draw: Random, count: int) -> HardwareProfile:
    """CPU devices, GPUs or both, exchanges from next to nothing to more than the work, ports and host memory."""
    speeds = [draw.choice([1.0, 1.0, 0.8, 0.3]) for _ in range(count)]
    times = {name: 10 ** draw.uniform(-8.5, -5.5) for name in ("overhead_s", "link_s")}
    profile = make_profile(speeds, kind="cuda", **times)
    if draw.random() < 0.5:
        rates = [10 ** draw.uniform(7.5, 10.5) for _ in range(count)]
        ports = [draw.choice(["", "a", "a"]) for _ in range(count)]
        profile = with_links(
            profile, rates, ports, {"a": 10 ** draw.uniform(8, 9.5)}, host=draw.choice([0.0, 5e8, 5e9])
        )
    kinds = [draw.choice(["cpu", "cuda"])] * count if draw.random() < 0.7 else ["cuda"] * (count - 1) + ["cpu"]
    devices = tuple(
        msgspec.structs.replace(
            device,
            name=f"{kind}:{d}",
            kind=kind,
            link=device.link if kind == "cuda" else None,
            step_overhead_s=10 ** draw.uniform(-9, -4.5),
        )
        for d, (kind, device) in enumerate(zip(kinds, profile.devices))
    )
    changed = msgspec.structs.replace(profile, devices=devices, rendezvous_s=10 ** draw.uniform(-9, -6))
    return with_format(changed, "int4", draw.choice([0.2, 0.9]))
