"""ExLlamaV3's loader arguments, as all its examples take them: whole layers, or tensor parallel by memory budgets.

Flags and meaning: exllamav3/model_init.py and model/model_tp_alloc.py (2026). In tensor-parallel mode each module is
shared in proportion to what is left of the budgets (`-gs`, GiB), so budgets in the plan's proportion give about its
split.
"""

from __future__ import annotations

from ...hwprofiles.units import binary_bytes
from .command import Export, numbering_notes, path_argument, visible
from .losses import head_losses, losses
from .placement import Placement, placement
from .usage import Usage

NAME = "exllamav3"
CACHE_PAGE = 256
LEAST_CAPABILITY = 8.0
GIB = 2**30


def export(usage: Usage) -> Export:
    """The nearest arguments of `examples/chat.py`. ValueError for what needs a CPU, or a GPU that is not supported."""
    placed = placement(usage)
    _check(usage, placed)
    tokens = -(-usage.context * usage.batch // CACHE_PAGE) * CACHE_PAGE
    work = ["-cs", str(tokens), "-ambs", str(usage.batch), "-chunk_size", str(usage.chunk)]
    script = ["python", "examples/chat.py", "-mode", "raw", "-m", path_argument(usage.model)]
    return Export(
        engine=NAME,
        command=(*script, *_split_flags(usage, placed), *work),
        environment=visible(placed.gpus),
        cannot_express=(*losses(usage, placed, NAME, own_sets=True), *_own_losses(usage, placed)),
        notes=(*_notes(usage, placed), *numbering_notes(placed.gpus)),
    )


def _check(usage: Usage, placed: Placement) -> None:
    if not placed.gpus:
        raise ValueError(f"{NAME} computes on GPUs alone, and this plan uses none: export to llama.cpp")
    if placed.cpu_layers:
        need = sum(device.bytes for device in usage.devices if not device.gpu)
        raise ValueError(
            f"{NAME} computes on GPUs alone, and the plan has {binary_bytes(need)} on CPUs that the GPUs' caps have no "
            "room for: export to llama.cpp, or solve for GPUs only"
        )
    for device in placed.gpus:
        if device.address.backend != "CUDA" or device.address.capability < LEAST_CAPABILITY:
            raise ValueError(
                f"{NAME} needs NVIDIA GPUs of compute capability {LEAST_CAPABILITY} or more, {device.name} is none: "
                "export to llama.cpp, or solve without it"
            )


def _split_flags(usage: Usage, placed: Placement) -> list[str]:
    if placed.form == "single":
        return []
    if placed.form == "layers":
        return ["-lpd", ",".join(map(str, placed.layers))]
    return ["-tp", "-tpb", "native", "-gs", ",".join(_budgets(placed)), *_fewer(usage, placed)]


def _budgets(placed: Placement) -> list[str]:
    """GiB in the proportion of the shares, as large as every cap allows."""
    caps = [device.bytes + device.spare_bytes for device in placed.gpus]
    scale = min(cap / share for cap, share in zip(caps, placed.permille))
    return [f"{max(0.01, int(100 * scale * share / GIB) / 100):.2f}" for share in placed.permille]


def _fewer(usage: Usage, placed: Placement) -> list[str]:
    """Bounds on the devices of a block, where fewer than all share it."""
    flags = []
    for flag, most in (
        ("-tp_attn", usage.most["attention"]),
        ("-tp_mlp", usage.most["mlp"]),
        ("-tp_linear", usage.most["head"]),
    ):
        flags += [flag, str(most)] if 0 < most < len(placed.gpus) else []
    return flags


def _own_losses(usage: Usage, placed: Placement) -> list[str]:
    lost = []
    if placed.form in ("single", "layers"):
        lost += head_losses(usage, placed.gpus[-1], NAME)
    else:
        lost.append("shares by speed: they follow memory budgets, here set in the plan's proportion")
        if _fewer(usage, placed):
            lost.append("which devices share a block: those with most memory left; all of them still join every sum")
    if usage.cache_dtype == "float32":
        lost.append("a KV cache in float32: it is float16, half the size")
    return lost


def _notes(usage: Usage, placed: Placement) -> list[str]:
    notes = [f"reads EXL3 or unquantised Hugging Face directories; the plan counted on {usage.dtype} weights"]
    if usage.model.endswith((".gguf", ".json")):
        notes.append("that is no such directory: name one by --model")
    if placed.form == "layers":
        notes.append("-lpd is new in 2026; older versions fill GPUs in order up to -gs")
    if placed.form == "tensor":
        gigabytes = ", ".join(_budgets(placed))
        notes.append(f"tabbyAPI takes the same as `tensor_parallel: true` and `gpu_split: [{gigabytes}]`")
    return [*notes, "run it in ExLlamaV3's repository; -mode raw is plain text, -modes lists the chat formats"]
