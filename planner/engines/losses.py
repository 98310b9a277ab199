"""What a plan says that an engine which shares every layer, or gives away whole layers, has no words for.

Knows the common limits of engines. What only one engine lacks is said in its own file.
"""

from __future__ import annotations

from .placement import Placement, listed
from .usage import Device, Usage


def losses(
    usage: Usage, placed: Placement, name: str, own_sets: bool = False, head_only: Device | None = None
) -> list[str]:
    """One line for each loss. `own_sets`: attention, MLP and head may each have a set of devices. `head_only`: a GPU
    without layers that the engine does use.
    """
    lost = placement_losses(usage, placed, name, head_only)
    if placed.form == "tensor":
        lost += ([] if own_sets else _set_losses(usage)) + cut_losses(usage, name)
        alone = sum(len(usage.members(layer)) == 1 for layer in range(usage.layers))
        if alone:
            lost.append(f"{alone} of {usage.layers} layers that one device holds alone: every layer is shared")
        elif usage.traits.patterns > 1:
            lost.append(f"{usage.traits.patterns} different splits of layers: all layers are split alike")
    return lost


def placement_losses(usage: Usage, placed: Placement, name: str, head_only: Device | None = None) -> list[str]:
    """What a simpler placement loses, and devices that no engine has."""
    idle = [device for device in placed.idle if device is not head_only]
    lost = [
        *placed.cpu_lost,
        *placed.lost,
        *(f"{device.name}, which holds vocabulary only, is left out" for device in idle),
    ]
    if usage.traits.parts:
        lost.append(f"{listed(usage.traits.parts)}: parts of a GPU; {name} uses the whole GPU")
    return lost


def cut_losses(usage: Usage, name: str) -> list[str]:
    """What Megatron's way to share a layer (columns, then rows, one sum a block) cannot say."""
    lost, traits = [], usage.traits
    if traits.column_blocks:
        blocks = listed(traits.column_blocks)
        lost.append(f"{blocks} by column: {name} splits output projections by row, one sum a block")
    if traits.replicated:
        lost.append("query heads of one KV head on two devices: each KV head has one device")
    if traits.summed_by_some:
        lost.append(f"which device adds up which columns of a sum: {name} chooses how it sums")
    return lost


def _set_losses(usage: Usage) -> list[str]:
    lost = []
    if usage.traits.unlike_blocks:
        lost.append("different shares or device sets for attention and MLP: one set of shares serves both")
    if usage.traits.unlike_head:
        lost.append("its own shares or device set for the head: it is shared like the layers")
    return lost


def head_losses(usage: Usage, last: Device, name: str) -> list[str]:
    """Where whole layers are dealt out, the head goes with the last device."""
    owner = usage.head_owner
    if owner is None:
        return [f"a head that several devices share: it runs on {last.name}"]
    return [] if owner is last else [f"the head on {owner.name}: {name} runs it on {last.name}, after the last layer"]
