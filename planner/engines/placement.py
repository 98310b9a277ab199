"""The nearest of the few forms that engines know: all on the CPU, one GPU, whole layers a GPU, a share of every layer.

Knows what a plan loses on the way, in words. Knows no engine's flags.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...hwprofiles.units import binary_bytes
from .usage import Device, Usage

Form = Literal["cpu", "single", "layers", "tensor"]


@dataclass(frozen=True)
class Placement:
    """`gpus` in the order an engine must see them. `layers[i]`: whole layers on GPU i (forms single and layers).
    `permille[i]`: of every layer on GPU i (form tensor); they add up to 1000. `cpu_layers` are left to the CPU.
    `lost`, `cpu_lost`: what is not the same, the latter where CPU layers are. `idle`: GPUs with vocabulary and nothing
    else, which are not among `gpus`.
    """

    form: Form
    gpus: tuple[Device, ...]
    layers: tuple[int, ...]
    permille: tuple[int, ...]
    cpu_layers: int
    lost: tuple[str, ...]
    cpu_lost: tuple[str, ...] = ()
    idle: tuple[Device, ...] = ()


def placement(usage: Usage) -> Placement:
    """What is nearest to the plan."""
    gpus = [d for d, device in enumerate(usage.devices) if device.gpu and device.layer_bytes]
    idle = [device for device in usage.devices if device.gpu and not device.layer_bytes]
    return replace(_placed(usage, gpus), idle=tuple(device for device in idle if device.head or device.embedding))


def _placed(usage: Usage, gpus: list[int]) -> Placement:
    if not gpus:
        return Placement("cpu", (), (), (), usage.layers, ())
    cpu_layers, lost = _cpu_layers(usage, gpus)
    placed = _on_gpus(usage, gpus, cpu_layers)
    return replace(placed, cpu_lost=tuple(lost)) if cpu_layers else replace(placed, lost=(*lost, *placed.lost))


def _on_gpus(usage: Usage, gpus: list[int], cpu_layers: int) -> Placement:
    on_gpus = [layer for layer in range(usage.layers) if any(d in gpus for d in usage.members(layer))]
    shared = [layer for layer in on_gpus if sum(d in gpus for d in usage.members(layer)) > 1]
    if len(gpus) > 1 and 2 * len(shared) >= len(on_gpus):
        return _tensor(usage, gpus, cpu_layers)
    return _whole_layers(usage, gpus, cpu_layers, len(shared))


def proportional(total: int, weights: Sequence[float], least: int = 0) -> tuple[int, ...]:
    """`total` in whole parts by largest remainder, none below `least` where that is possible."""
    exact = [total * w / sum(weights) for w in weights]
    parts = [max(least, int(e)) for e in exact]
    while sum(parts) != total:
        step = 1 if sum(parts) < total else -1
        open_to = [i for i in range(len(parts)) if step > 0 or parts[i] > least] or list(range(len(parts)))
        best = max(open_to, key=lambda i: step * (exact[i] - parts[i]))
        parts[best] += step
    return tuple(parts)


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _tensor(usage: Usage, gpus: list[int], cpu_layers: int) -> Placement:
    devices = tuple(usage.devices[d] for d in gpus)
    permille = proportional(1000, [device.layer_bytes for device in devices], least=1)
    return Placement("tensor", devices, (), permille, cpu_layers, ())


def _whole_layers(usage: Usage, gpus: list[int], cpu_layers: int, shared: int) -> Placement:
    held = {d: [layer for layer in range(usage.layers) if usage.layer_shares[layer][d]] for d in gpus}
    order = sorted(gpus, key=lambda d: (sum(held[d]) / len(held[d]), d))
    counts = proportional(usage.layers - cpu_layers, [sum(s[d] for s in usage.layer_shares) for d in order])
    lost = []
    if shared:
        lost.append(f"{shared} of {usage.layers} layers that several devices share: each layer goes to one of them")
    elif any(held[d] != list(range(held[d][0], held[d][-1] + 1)) for d in order):
        lost.append("devices whose layers do not follow each other: each gets as many layers in a row")
    form: Form = "single" if len(order) == 1 else "layers"
    return Placement(form, tuple(usage.devices[d] for d in order), counts, (), cpu_layers, tuple(lost))


def _cpu_layers(usage: Usage, gpus: list[int]) -> tuple[int, list[str]]:
    """Whole layers for the CPU; what it shares goes to the GPUs where their caps have room, else becomes layers."""
    alone = [layer for layer in range(usage.layers) if not any(d in gpus for d in usage.members(layer))]
    share = sum(s for shares in usage.layer_shares for d, s in enumerate(shares) if not usage.devices[d].gpu)
    beside = share - len(alone)
    lost = []
    if alone and alone != list(range(len(alone))):
        lost.append(f"which {len(alone)} layers the CPU holds: it gets the first ones")
    if beside < 1e-9:
        return len(alone), lost
    cpus = [device for device in usage.devices if not device.gpu and device.layer_bytes]
    name, bytes_ = listed(device.name for device in cpus), sum(device.bytes for device in cpus) * beside / share
    what = f"{name} as a member of shared layers ({beside / usage.layers:.1%} of the shares)"
    if bytes_ <= sum(usage.devices[d].spare_bytes for d in gpus):
        return len(alone), [*lost, f"{what}: the GPUs, whose caps have room for it, take its part"]
    extra = min(math.ceil(beside), usage.layers - len(alone))
    why = f"the GPUs' caps have no room for its {binary_bytes(round(bytes_))}"
    lost.append(f"{what}: {why}, so that it holds {extra} whole layers instead, one after the other with the GPUs")
    return len(alone) + extra, lost
