"""Random splits, and machines whose devices share ports, for the planner's tests."""

from __future__ import annotations

from random import Random

import msgspec

from tpplan.hwprofiles.profile import HardwareProfile, Link, Port
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import HIDDEN_UNIT, MLP_UNIT, VOCAB_UNIT, BlockPlan, LayerPlan, Range, Split, members
from tpplan.planner.units import Units


def random_split(draw: Random, model: ModelSpec, devices: int) -> Split:
    """Two kinds of layers mixed; any strategy, set of devices, share of query heads, and reducers, members or not."""
    wide = model.hidden
    kinds = [
        LayerPlan(_block(draw, model.heads, 1, wide, devices), _block(draw, model.mlp, MLP_UNIT, wide, devices))
        for _ in range(2)
    ]
    layers = tuple(draw.choice(kinds) for _ in range(model.layers))
    table = _spans(draw, model.vocab, VOCAB_UNIT, devices)
    return Split(table, layers, table)


def with_links(
    profile: HardwareProfile, rates: list[float], ports: list[str], port_rates: dict[str, float], host: float = 0.0
) -> HardwareProfile:
    """A link of `rates[d]` bytes/s on `ports[d]` for each device, both directions alike; `host`: of host memory."""
    links = [Link(f"link{d}", rate, rate, port) for d, (rate, port) in enumerate(zip(rates, ports, strict=True))]
    devices = tuple(msgspec.structs.replace(d, link=link) for d, link in zip(profile.devices, links, strict=True))
    shared = tuple(Port(name, rate, rate) for name, rate in port_rates.items())
    changed = msgspec.structs.replace(profile.host, bytes_per_s=host, ports=shared)
    return msgspec.structs.replace(profile, devices=devices, host=changed)


def _block(draw: Random, total: int, unit: int, hidden: int, devices: int) -> BlockPlan:
    spans = _spans(draw, total, unit, devices)
    if draw.random() < 0.5:
        return BlockPlan("column", spans, _spans(draw, hidden, HIDDEN_UNIT, devices, members(spans)))
    sums = [_spans(draw, hidden, HIDDEN_UNIT, devices) if draw.random() < 0.5 else () for _ in range(2)]
    return BlockPlan("row", spans, (), *sums)


def _spans(
    draw: Random, total: int, unit: int, devices: int, allowed: tuple[int, ...] | None = None
) -> tuple[Range, ...]:
    units = Units(total, unit)
    holders = sorted(draw.sample(allowed or range(devices), draw.randint(1, len(allowed or range(devices)))))
    cuts = sorted(draw.randint(0, units.count) for _ in holders[1:])
    counts = [0] * devices
    for device, begin, end in zip(holders, [0, *cuts], [*cuts, units.count], strict=True):
        counts[device] = end - begin
    return units.spans(tuple(counts))
