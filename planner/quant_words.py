"""What quantised weights cost a split, in sentences: bits held, units that keep groups whole, act-order's tables.

Knows a split and its prices. Knows nothing of how weights are computed with.
"""

from __future__ import annotations

from dataclasses import replace

from ..hwprofiles.units import binary_bytes, duration
from .layer_graph import pass_steps
from .plan import MLP_UNIT, Split
from .price import Pricer, shortened
from .steps import Kind
from .weight_formats import ROLES, held_as, is_quantised, mlp_unit
from .wording import listed


def quantised_words(pricer: Pricer, split: Split) -> tuple[str, ...]:
    """None where weights are held as floats."""
    if not is_quantised(pricer.dtype):
        return ()
    return tuple(filter(None, (_held(pricer), _units(pricer), *_act_order(pricer, split))))


def _held(pricer: Pricer) -> str:
    """Bits a weight of each matrix, equal ones named together."""
    by_bits: dict[str, list[str]] = {}
    for role in ROLES:
        held = held_as(pricer.model, pricer.dtype, role)
        by_bits.setdefault(f"{held.bytes_per_1024 / 128:.3g} bits", []).append(role)
    return f"a weight takes {', '.join(f'{bits} in {listed(roles)}' for bits, roles in by_bits.items())}"


def _units(pricer: Pricer) -> str:
    unit = mlp_unit(pricer.model, pricer.dtype)
    if unit == MLP_UNIT:
        return ""
    return f"MLP columns are cut {unit} at a time, not {MLP_UNIT}, so that groups of down_proj's inputs stay whole"


def _act_order(pricer: Pricer, split: Split) -> list[str]:
    """What act-order costs where o_proj is split by row; down_proj's order is folded into gate and up."""
    quant = pricer.model.quant
    if quant is None or not quant.scattered:
        return []
    lines = ["act-order: down_proj's order of inputs is folded into gate and up while loading, and costs nothing"]
    extra = _tables(pricer, split)
    if extra:
        costs = [f"{binary_bytes(size)} and {duration(s)} a token on {name}" for name, (size, s) in extra.items()]
        lines.append(
            f"act-order: o_proj by row has inputs of all groups on every device, so that each reads their scales too: "
            f"{listed(costs)}; by column it would read none, but gather its inputs first"
        )
    return lines


def _tables(pricer: Pricer, split: Split) -> dict[str, tuple[int, float]]:
    """By device that has any: bytes of scales beyond its share in all layers, and seconds of a decode step."""
    model, short, weights = shortened(pricer.model, split)
    found: dict[str, tuple[int, float]] = {}
    for step in pass_steps(model, short, pricer.workload.batch, pricer.decode_context, 1, "decode"):
        if step.kind is not Kind.LINEAR or not step.extra_bytes:
            continue
        times = weights.get((step.layer, step.block), 1)
        seconds = pricer.cost.step_s(step) - pricer.cost.step_s(replace(step, extra_bytes=0))
        name = pricer.profile.devices[step.device].name
        size, before_s = found.get(name, (0, 0.0))
        found[name] = size + times * step.extra_bytes, before_s + times * seconds
    return found
