"""`llama-server` of ik_llama.cpp: as llama.cpp, with split mode graph and a bound on the GPUs of one layer.

Flags and meaning: docs/parameters.md of ik_llama.cpp (2026) and its pull requests 1018, 1051 and 866.
"""

from __future__ import annotations

from .command import Export, visible
from .llama_cpp import head_last, server, server_losses, server_notes, split_flags, work_flags
from .placement import Placement, placement
from .usage import Device, Usage

NAME = "ik_llama.cpp"
CACHE_TYPE = "f16"


def export(usage: Usage) -> Export:
    """The nearest `llama-server` command. ValueError for GPUs that are not NVIDIA's."""
    placed = placement(usage)
    gpus = head_last(usage, placed)
    _check(gpus)
    flags = [
        *split_flags(usage, placed, gpus, "graph"),
        *_fewer_gpus(usage, placed),
        "-ctk",
        CACHE_TYPE,
        "-ctv",
        CACHE_TYPE,
    ]
    return Export(
        engine=NAME,
        command=(*server(usage, placed), *flags, *work_flags(usage)),
        environment=visible(gpus) if gpus else {},
        cannot_express=(*server_losses(usage, placed, gpus, NAME), *_cache_loss(usage)),
        notes=(*_graph_notes(usage, placed), *server_notes(usage, placed, gpus)),
    )


def _check(gpus: tuple[Device, ...]) -> None:
    others = [device.name for device in gpus if device.address.backend != "CUDA"]
    if others:
        raise ValueError(f"{NAME} runs on NVIDIA GPUs, {others[0]} is none: export to llama.cpp, or solve without it")


def _fewer_gpus(usage: Usage, placed: Placement) -> list[str]:
    """`--max-gpu`, where no layer uses all GPUs."""
    if placed.form != "tensor":
        return []
    most = max(sum(usage.devices[d].gpu for d in usage.members(layer)) for layer in range(usage.layers))
    return ["--max-gpu", str(most)] if most < len(placed.gpus) else []


def _cache_loss(usage: Usage) -> list[str]:
    size = "half the size" if usage.cache_dtype == "float32" else "of the same size"
    return [f"a KV cache in {usage.cache_dtype}: it is f16, {size}"]


def _graph_notes(usage: Usage, placed: Placement) -> list[str]:
    if placed.form != "tensor":
        return []
    notes = [f"-ts is a wish: KV heads stay whole (there are {usage.kv_heads})"]
    if _fewer_gpus(usage, placed):
        notes.append("--max-gpu bounds the GPUs of a layer; which ones, ik_llama.cpp chooses, and all GPUs get layers")
    return [*notes, "GPUs exchange 16-bit values; the plan counted on float32 (-smf32)"]
