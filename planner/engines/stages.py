"""Pipeline stages of equally many GPUs that share their layers evenly: the only form vLLM has.

Knows which plans are of that form, and which such form is nearest to one that is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

from .placement import Placement, listed, proportional
from .usage import Device, Usage

EVEN = 0.02
"""Shares that differ by less count as even."""


@dataclass(frozen=True)
class Stages:
    """`layers[i]` on stage i, whose GPUs are the next `width` of `gpus`. `lost`: what the plan says beyond that."""

    gpus: tuple[Device, ...]
    width: int
    layers: tuple[int, ...]
    lost: tuple[str, ...] = ()


def stages(usage: Usage, placed: Placement) -> Stages:
    """The nearest stages to a plan with GPUs."""
    exact = _exact(usage)
    if exact:
        return exact
    if placed.form != "tensor":
        return _pipeline(usage, placed.gpus, placed.layers, ())
    return _instead_of_shares(usage, placed)


def _instead_of_shares(usage: Usage, placed: Placement) -> Stages:
    """Even shares, one GPU, or whole layers, whichever is fastest by the plan's own balance, where a share is a speed:
    even shares take 1 / (GPUs * least share) of the plan's time, the largest alone 1 / its share, whole layers one
    after the other as many times as there are GPUs.
    """
    gpus, width, largest = placed.gpus, len(placed.gpus), max(placed.permille)
    alone = gpus[placed.permille.index(largest)]
    refusal = even_refusal(usage, gpus)
    even_time = math.inf if refusal else 1000 / (width * min(placed.permille))
    alone_time = 1000 / largest if sum(d.bytes for d in gpus) <= alone.bytes + alone.spare_bytes else math.inf
    shares = ":".join(f"{share / 10:g}" for share in placed.permille)
    what, why = f"shares {shares} of every layer on {_names(gpus)}", refusal or "even shares would be slower"
    if even_time <= min(alone_time, width):
        return Stages(gpus, width, (usage.layers,), (f"{what}: shares are even, and all wait for the slowest",))
    if alone_time <= width:
        return Stages((alone,), 1, (usage.layers,), (f"{what}: {alone.name} does all, since {why}",))
    layers = proportional(usage.layers, placed.permille, least=int(usage.layers >= width))
    return _pipeline(usage, gpus, layers, (f"{what}: they get whole layers in that proportion, since {why}",))


def even_refusal(usage: Usage, devices: tuple[Device, ...]) -> str:
    """Why these cannot share every layer evenly, "" where they can."""
    width = len(devices)
    if usage.heads % width:
        return f"{usage.heads} query heads cannot be shared evenly by {width}"
    if usage.kv_heads % width and width % usage.kv_heads:
        return f"{usage.kv_heads} KV heads cannot be shared or copied evenly by {width}"
    need = sum(device.bytes for device in devices) / width
    small = [device.name for device in devices if device.bytes + device.spare_bytes < need]
    return f"the cap of {listed(small)} is less than an even part" if small else ""


def _exact(usage: Usage) -> Stages | None:
    """The plan's own stages, where all have as many GPUs, each with its own, and share evenly."""
    runs = [(key, len(list(group))) for key, group in groupby(map(usage.members, range(usage.layers)))]
    members = [d for key, _ in runs for d in key]
    width = len(runs[0][0])
    even = all(abs(share - 1 / width) < EVEN for shares in usage.layer_shares for share in shares if share)
    own = len(set(members)) == len(members) and all(len(key) == width for key, _ in runs)
    devices = tuple(usage.devices[d] for d in members)
    if not (even and own and all(device.gpu for device in devices)):
        return None
    whole = not usage.heads % width and not (usage.kv_heads % width and width % usage.kv_heads)
    return Stages(devices, width, tuple(count for _, count in runs)) if whole else None


def _pipeline(usage: Usage, gpus: tuple[Device, ...], layers: tuple[int, ...], lost: tuple[str, ...]) -> Stages:
    """One GPU a stage, those without layers left out; layers of the CPU are dealt out too."""
    kept = [i for i, count in enumerate(layers) if count] or [0]
    counts = proportional(usage.layers, [max(layers[i], 1) for i in kept], least=1)
    return Stages(tuple(gpus[i] for i in kept), 1, counts, lost)


def _names(devices: tuple[Device, ...]) -> str:
    return listed(device.name for device in devices)
