"""`vllm serve`: even tensor parallelism, or a pipeline of whole layers, or both.

Flags and meaning: engine arguments of vLLM and its CPU installation page (2026). VLLM_PP_LAYER_PARTITION gives the
layers of each pipeline stage; tensor parallel ranks share query heads evenly, and KV heads evenly or copied.
"""

from __future__ import annotations

from dataclasses import replace

from .command import Export, cores, numbering_notes, path_argument, visible
from .losses import cut_losses, head_losses, losses, placement_losses
from .placement import Placement, listed, placement
from .stages import EVEN, Stages, even_refusal, stages
from .usage import Device, Usage

NAME = "vllm"
LEAST_CAPABILITY = 7.0
GIB = 2**30


def export(usage: Usage) -> Export:
    """The nearest `vllm serve` command. ValueError for GPUs that vLLM has no use for, or of several makers."""
    placed = placement(usage)
    if placed.form == "cpu":
        return _on_cpus(usage, placed)
    _check(placed.gpus)
    cut = stages(usage, placed)
    return Export(
        engine=NAME,
        command=(*_serve(usage), *_parallel(cut), *_offload(usage, placed, cut)),
        environment=visible(cut.gpus) | _partition(cut),
        cannot_express=(*cut.lost, *_losses(usage, placed, cut)),
        notes=(*_notes(usage), *numbering_notes(cut.gpus)),
    )


def _check(gpus: tuple[Device, ...]) -> None:
    makers = {device.address.backend for device in gpus}
    if len(makers) > 1 or makers == {"SYCL"}:
        names = listed(device.name for device in gpus)
        raise ValueError(f"{NAME} runs on GPUs of NVIDIA, or of AMD, not on {names}: export to llama.cpp")
    for device in gpus:
        if device.address.capability < LEAST_CAPABILITY:
            raise ValueError(
                f"{NAME} needs NVIDIA GPUs of compute capability {LEAST_CAPABILITY} or more, {device.name} is none: "
                "export to llama.cpp, or solve without it"
            )


def _serve(usage: Usage) -> list[str]:
    dtype = ["--dtype", usage.dtype] if usage.dtype in ("float32", "bfloat16") else []
    work = ["--max-model-len", str(usage.context), "--max-num-seqs", str(usage.batch)]
    return ["vllm", "serve", path_argument(usage.model), *dtype, *work]


def _parallel(cut: Stages) -> list[str]:
    return ["--tensor-parallel-size", str(cut.width), "--pipeline-parallel-size", str(len(cut.layers))]


def _partition(cut: Stages) -> dict[str, str]:
    return {"VLLM_PP_LAYER_PARTITION": ",".join(map(str, cut.layers))} if len(cut.layers) > 1 else {}


def _offload(usage: Usage, placed: Placement, cut: Stages) -> list[str]:
    """Weights for which the GPUs have no room, in GiB a GPU."""
    if not placed.cpu_layers:
        return []
    held = sum(device.layer_bytes for device in usage.devices if not device.gpu)
    return ["--cpu-offload-gb", f"{held / GIB / len(cut.gpus) + 0.05:.1f}"]


def _losses(usage: Usage, placed: Placement, cut: Stages) -> list[str]:
    pipeline = len(cut.layers) > 1 or cut.width == 1
    placed = replace(placed, cpu_lost=())
    lost = placement_losses(usage, placed, NAME) if pipeline else losses(usage, placed, NAME)
    if cut.width == 1:
        lost += head_losses(usage, cut.gpus[-1], NAME)
    elif pipeline:
        lost += cut_losses(usage, NAME)
    if placed.cpu_layers:
        lost.append("work on the CPU: the weights it held stay in host memory, and GPUs read them in every pass")
    if usage.cache_dtype == "float32" != usage.dtype:
        lost.append("a KV cache in float32: it has the format of activations")
    if len(cut.gpus) > 1:
        lost.append("a limit of memory for each GPU: one --gpu-memory-utilization, a fraction, serves all")
    return lost


def _notes(usage: Usage) -> list[str]:
    notes = []
    if usage.model.endswith(".gguf"):
        notes.append("vLLM reads .gguf files as an experiment; a Hugging Face directory (--model) is safer")
    elif usage.model.endswith(".json"):
        notes.append("vLLM reads Hugging Face directories: name one by --model")
    if usage.dtype in ("int8", "int4"):
        notes.append(f"weights have the format of the checkpoint; the plan counted on {usage.dtype}")
    return notes


def _on_cpus(usage: Usage, placed: Placement) -> Export:
    """The CPU build: one rank a device where they can share evenly, else one on all cores."""
    cpus = tuple(device for device in usage.devices if not device.gpu and device.layer_bytes)
    named = all(device.address.cores for device in cpus)
    refusal = even_refusal(usage, cpus) if named else ""
    width = len(cpus) if named and not refusal else 1
    bound = "|".join(device.address.cores for device in cpus) if width > 1 else cores(usage)[0]
    uneven = [s for shares in usage.layer_shares for s in shares if abs(s - 1 / len(cpus)) > EVEN]
    lost = [*losses(usage, placed, NAME), *(cut_losses(usage, NAME) if width > 1 else [])]
    if len(cpus) > 1 and (uneven or width == 1):
        names = listed(device.name for device in cpus)
        lost.append(f"shares for {names}: " + (f"one rank has all cores, {refusal}" if width == 1 else "they are even"))
    cache = max(1, round(sum(device.cache_bytes for device in cpus) / width / GIB + 0.5))
    environment = {"VLLM_CPU_KVCACHE_SPACE": str(cache)} | ({"VLLM_CPU_OMP_THREADS_BIND": bound} if bound else {})
    parallel = ["--tensor-parallel-size", str(width), "--distributed-executor-backend", "mp"] if width > 1 else []
    notes = ["needs vLLM's CPU build", *_notes(usage)]
    return Export(NAME, (*_serve(usage), *parallel), environment, tuple(lost), tuple(notes))
