"""`llama-server` of llama.cpp: whole layers exactly, tensor split by one list of shares, CPU layers first.

Flags and meaning: docs/multi-gpu.md of llama.cpp and `load_tensors` in its src/llama-model.cpp, both of 2026. Layers
and then the output layer are dealt out in device order by the running sum of `-ts`, so counts with the output layer
counted in give exactly those layers; `-ngl` takes the output layer first, then layers from the last to the first.
"""

from __future__ import annotations

from .command import Export, cores, numbering_notes, path_argument, visible
from .losses import head_losses, losses
from .placement import Placement, listed, placement
from .usage import Device, Usage

NAME = "llama.cpp"
CACHE_TYPES = {"float32": "f32", "bfloat16": "bf16"}


def export(usage: Usage) -> Export:
    """The nearest `llama-server` command."""
    placed = placement(usage)
    gpus, cache = head_last(usage, placed), CACHE_TYPES[usage.cache_dtype]
    tensor = ["-fa", "on", "-fit", "off"] if placed.form == "tensor" else []
    flags = [*split_flags(usage, placed, gpus, "tensor"), *tensor, "-ctk", cache, "-ctv", cache, *work_flags(usage)]
    environment, chosen = _shown(gpus)
    return Export(
        engine=NAME,
        command=(*server(usage, placed), *chosen, *flags),
        environment=environment,
        cannot_express=tuple(server_losses(usage, placed, gpus, NAME)),
        notes=(*_tensor_notes(usage, placed), *_backend_notes(gpus), *server_notes(usage, placed, gpus)),
    )


def head_last(usage: Usage, placed: Placement) -> tuple[Device, ...]:
    """The GPUs to use. Where layers are dealt out, one that holds the head and no layer comes last."""
    owner = usage.head_owner
    whole = placed.form in ("single", "layers")
    return (*placed.gpus, owner) if whole and owner in placed.idle and owner else placed.gpus


def server(usage: Usage, placed: Placement) -> list[str]:
    """The program, on the CPU's cores, and the model."""
    pool, count = cores(usage)
    pinned = ["taskset", "-c", pool] if pool and placed.form == "cpu" else []
    threads = ["-t", str(count)] if pool and placed.cpu_layers else []
    return [*pinned, "llama-server", "-m", path_argument(usage.model), *threads]


def split_flags(usage: Usage, placed: Placement, gpus: tuple[Device, ...], tensor_mode: str) -> list[str]:
    """How layers are cut and dealt out."""
    if placed.form == "cpu":
        return ["-ngl", "0"]
    if placed.form == "tensor":
        shares = [f"{share / 10:g}" for share in placed.permille]
        return ["-sm", tensor_mode, "-ts", ",".join(shares), "-ngl", _offloaded(usage, placed)]
    if len(gpus) == 1:
        return ["-sm", "none", "-mg", "0", "-ngl", _offloaded(usage, placed)]
    counts = [*placed.layers, *[0] * (len(gpus) - len(placed.layers))]
    counts[-1] += 1
    return ["-sm", "layer", "-ts", ",".join(map(str, counts)), "-ngl", _offloaded(usage, placed)]


def work_flags(usage: Usage) -> list[str]:
    """The context of all sequences together, how many there are, and the tokens of a prefill pass."""
    return ["-c", str(usage.context * usage.batch), "-np", str(usage.batch), "-ub", str(usage.chunk)]


def server_losses(usage: Usage, placed: Placement, gpus: tuple[Device, ...], name: str) -> list[str]:
    """What `llama-server` has no words for."""
    extra = gpus[-1] if len(gpus) > len(placed.gpus) else None
    lost = losses(usage, placed, name, head_only=extra)
    if placed.form == "cpu" and len(usage.devices) > 1:
        lost.append(f"shares for {listed(d.name for d in usage.devices)}: one pool of threads works on every matrix")
    return lost + (head_losses(usage, gpus[-1], name) if placed.form in ("single", "layers") else [])


def server_notes(usage: Usage, placed: Placement, gpus: tuple[Device, ...]) -> list[str]:
    """What to know about model file, formats and numbers."""
    notes = [f"weights have the format of the .gguf file; the plan counted on {usage.dtype}"]
    if not usage.model.endswith(".gguf"):
        notes.append(
            "llama-server reads .gguf files: convert the model (convert_hf_to_gguf.py), or name one by --model"
        )
    if any(device.embedding for device in usage.devices if device.gpu):
        notes.append("the embedding table stays in host memory")
    if placed.gpus:
        notes.append(f"-ub {usage.chunk} is the plan's prefill chunk; larger is faster where memory allows")
    if placed.cpu_layers and placed.gpus:
        notes.append(
            "-ngl counts the output layer too; older builds count it last, and then keep one layer more on GPUs"
        )
    return [*notes, *numbering_notes(gpus)]


def _offloaded(usage: Usage, placed: Placement) -> str:
    return str(usage.layers - placed.cpu_layers + 1) if placed.cpu_layers else "999"


def _shown(gpus: tuple[Device, ...]) -> tuple[dict[str, str], list[str]]:
    """The environment and `-dev`: backends beside each other are told apart by device names."""
    backends = {device.address.backend for device in gpus}
    if not gpus:
        return {}, ["-dev", "none"]
    if backends in ({"CUDA"}, {"ROCm"}):
        return visible(gpus), []
    return {}, ["-dev", ",".join(f"{device.address.backend}{device.address.index}" for device in gpus)]


def _backend_notes(gpus: tuple[Device, ...]) -> list[str]:
    others = sorted({device.address.backend for device in gpus} - {"CUDA"})
    if not others:
        return []
    return [f"needs a build with {listed(others)}; `llama-server --list-devices` shows its device names"]


def _tensor_notes(usage: Usage, placed: Placement) -> list[str]:
    if placed.form != "tensor":
        return []
    return [
        f"-ts is a wish: shares are rounded down to whole KV heads (of {usage.kv_heads}) and quantisation blocks; "
        f"{placed.gpus[-1].name} gets the rest: watch its memory",
        "-sm tensor is experimental, needs flash attention, and sums through NCCL only where the build has it",
    ]
