"""What a plan does with its devices, as facts that other engines' flags can be made from.

Knows the plan alone: shares, device sets, sizes. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..plan import BlockPlan, CacheDtype, Dtype, LayerPlan, Plan, Range, size
from .addresses import Address, addresses
from .traits import Traits, fractions, traits_of


@dataclass(frozen=True)
class Device:
    """One device that holds anything. `layer_bytes`: its weights, 0 where it has no attention and no MLP.
    `spare_bytes`: what its cap leaves. `head`, `embedding`: vocabulary rows.
    """

    name: str
    address: Address
    layer_bytes: int
    bytes: int
    spare_bytes: int
    cache_bytes: int
    head: int
    embedding: int

    @property
    def gpu(self) -> bool:
        return self.address.backend != "CPU"


@dataclass(frozen=True)
class Usage:
    """`layer_shares[l][d]`: what device d has of layer l, its attention and MLP shares averaged.

    `most`: the most GPUs that share one attention block, one MLP block, the head.
    """

    model: str
    dtype: Dtype
    cache_dtype: CacheDtype
    context: int
    batch: int
    chunk: int
    heads: int
    kv_heads: int
    devices: tuple[Device, ...]
    layer_shares: tuple[tuple[float, ...], ...]
    most: dict[str, int]
    traits: Traits

    @property
    def layers(self) -> int:
        return len(self.layer_shares)

    @property
    def head_owner(self) -> Device | None:
        """The device that holds the whole head; None where several do."""
        owners = [device for device in self.devices if device.head]
        return owners[0] if len(owners) == 1 else None

    def members(self, layer: int) -> tuple[int, ...]:
        """Devices with a share of a layer."""
        return tuple(d for d, share in enumerate(self.layer_shares[layer]) if share)


def usage_of(plan: Plan, model: str) -> Usage:
    """The facts of `plan`, for the weights at `model`. ValueError if it contradicts itself or has unprintable names."""
    _check_shape(plan)
    spots, kinds = addresses(plan.devices), set(plan.layers)
    merged = [at for at in _merged(spots) if any(plan.device_use[d].bytes for d in at)]
    shares = {layer: _shares(layer, merged) for layer in kinds}
    heads = plan.layers[0].attention.units[-1][1]
    kv_heads = round(sum(use.attention_units for use in plan.device_use) / len(plan.layers))
    group = max(1, round(heads / max(kv_heads, 1)))
    return Usage(
        model=model,
        dtype=plan.dtype,
        cache_dtype=plan.cache_dtype,
        context=plan.workload.context,
        batch=plan.workload.batch,
        chunk=plan.workload.prefill_chunk,
        heads=heads,
        kv_heads=heads // group,
        devices=tuple(_device(plan, at, spots[at[0]]) for at in merged),
        layer_shares=tuple(shares[layer] for layer in plan.layers),
        most=_most(plan, spots),
        traits=traits_of(plan, spots, group),
    )


def _check_shape(plan: Plan) -> None:
    """ValueError, naming the place, unless names can be printed and every range has a place, an order and a device."""
    for name in plan.devices:
        if not name or not name.isprintable():
            raise ValueError(f"{name!r} is no device name; run `tpplan solve` again")
    place = next((where for where, sound in _places(plan) if not sound), None)
    if place:
        raise ValueError(f"the plan contradicts itself in its {place}; run `tpplan solve` again")


def _places(plan: Plan) -> Iterator[tuple[str, bool]]:
    """Each place of a plan, and whether it agrees with the others as far as can be told without the model."""
    names, first = plan.devices, plan.layers[0] if plan.layers else None
    yield "devices", len(set(names)) == len(names) > 0
    yield "device_use", tuple(use.name for use in plan.device_use) == names
    yield "layers", first is not None
    yield "workload", min(plan.workload.context, plan.workload.batch) > 0
    yield "embedding", _covers(plan.embedding, len(names), plan.embedding)
    yield "head", _covers(plan.head, len(names), plan.embedding)
    for i, layer in enumerate(plan.layers):
        for what in ("attention", "mlp"):
            block: BlockPlan = getattr(layer, what)
            yield f"layer {i} {what}", _covers(block.units, len(names), getattr(first, what).units)
            for sums in (block.decode_sums, block.prefill_sums):
                yield f"layer {i} {what} sums", not sums or _covers(sums, len(names), sums)


def _covers(spans: tuple[Range, ...], devices: int, like: tuple[Range, ...]) -> bool:
    """Whether there is a range for each device, and they follow each other from 0 to where those of `like` end."""
    if len(spans) != devices:
        return False
    begins, ends = zip(*spans)
    sound = begins == (0, *ends[:-1]) and all(begin <= end for begin, end in spans)
    return sound and ends[-1] > 0 and ends[-1] == like[-1][1]


def _merged(spots: tuple[Address, ...]) -> list[list[int]]:
    """Plan devices by the thing they are: parts of one GPU are one device to every other engine."""
    found: dict[object, list[int]] = {}
    for d, at in enumerate(spots):
        found.setdefault(d if at.backend == "CPU" else (at.backend, at.index), []).append(d)
    return list(found.values())


def _shares(layer: LayerPlan, merged: list[list[int]]) -> tuple[float, ...]:
    attention, mlp = fractions(layer.attention.units), fractions(layer.mlp.units)
    return tuple(sum(attention[d] + mlp[d] for d in at) / 2 for at in merged)


def _most(plan: Plan, spots: tuple[Address, ...]) -> dict[str, int]:
    def gpus(spans: tuple[Range, ...]) -> int:
        return len({at.index for at, span in zip(spots, spans) if size(span) and at.backend != "CPU"})

    kinds = set(plan.layers)
    return {
        "attention": max(gpus(layer.attention.units) for layer in kinds),
        "mlp": max(gpus(layer.mlp.units) for layer in kinds),
        "head": gpus(plan.head),
    }


def _device(plan: Plan, at: list[int], address: Address) -> Device:
    uses = [plan.device_use[d] for d in at]
    kinds = set(plan.layers)
    working = {d for layer in kinds for d in at if size(layer.attention.units[d]) or size(layer.mlp.units[d])}
    return Device(
        name=" and ".join(plan.devices[d] for d in at),
        address=address,
        layer_bytes=sum(max(1, plan.device_use[d].weight_bytes) for d in working),
        bytes=sum(use.bytes for use in uses),
        spare_bytes=sum(max(0, use.cap_bytes - use.bytes) for use in uses),
        cache_bytes=sum(use.cache_bytes for use in uses),
        head=sum(size(plan.head[d]) for d in at),
        embedding=sum(size(plan.embedding[d]) for d in at),
    )
