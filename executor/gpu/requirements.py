"""What must be true before a GPU is used, each refusal in one line with the fix. Knows no streams and no models."""

from __future__ import annotations

import re
from importlib import metadata

import torch

TRITON, TRITON_END = (3, 6), (3, 10)
TRITON_FIX = 'run `pip install "triton>=3.6,<3.10"`'
LEAST_CAPABILITY = (7, 5)
RESERVED_BYTES = 512 * 2**20
"""Of CUDA, of kernels and of graphs: with less free, a GPU is full."""


def check_gpu(index: int) -> None:
    """ValueError unless torch, driver, Triton and GPU `index` can be used."""
    check_torch()
    check_index(index)
    check_triton()
    check_capability(index)


def check_torch() -> None:
    """ValueError unless torch was built for CUDA and finds a driver that is new enough."""
    if torch.version.cuda is None:
        raise ValueError("torch was built without CUDA: install a CUDA build of torch, or name CPU devices")
    try:
        torch.cuda.init()
    except Exception as error:
        raise ValueError(driver_problem(str(error))) from None


def driver_problem(message: str) -> str:
    """What torch says of a missing or old driver, in one line with the fix."""
    needed = f"torch was built for CUDA {torch.version.cuda}"
    if version := re.search(r"too old.*?version:? (\d+)", message, re.DOTALL):
        major, minor = divmod(int(version[1]) // 10, 100)
        return f"the NVIDIA driver is too old: it serves CUDA {major}.{minor}, {needed}: update the driver"
    if "no NVIDIA driver" in message or "NVIDIA driver on your system" in message:
        return "there is no NVIDIA driver: install one, or name CPU devices"
    if "No CUDA GPUs" in message or "no CUDA-capable device" in message:
        return "no GPU is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES, or name CPU devices"
    return f"CUDA does not start ({' '.join(message.split())[:160]}), {needed}: look at nvidia-smi"


def check_index(index: int) -> None:
    """ValueError unless there is a GPU `index`."""
    count = torch.cuda.device_count()
    if index >= count:
        here = "no GPUs" if not count else "GPU 0 only" if count == 1 else f"GPUs 0 to {count - 1}"
        raise ValueError(f"there is no GPU {index}: this machine shows {here}; look at CUDA_VISIBLE_DEVICES")


def check_triton() -> None:
    """ValueError unless Triton is installed in a version that the kernels were written for."""
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        raise ValueError(f"GPUs need Triton, which is not installed: {TRITON_FIX}") from None
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not TRITON <= found < TRITON_END:
        word = "old" if found < TRITON else "new"
        raise ValueError(f"Triton {version} is too {word}: {TRITON_FIX}")


def check_capability(index: int) -> None:
    """ValueError for a GPU whose kernels Triton cannot make."""
    capability = torch.cuda.get_device_capability(index)
    if capability < LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(index)
        raise ValueError(
            f"GPU {index} ({name}) has compute capability {capability[0]}.{capability[1]}, tpplan needs 7.5 or newer: "
            "leave it out"
        )


def free_bytes(index: int) -> int:
    """Memory of GPU `index` beyond what kernels need; ValueError with the figures where it is full."""
    free, total = torch.cuda.mem_get_info(index)
    if free < 2 * RESERVED_BYTES:
        raise ValueError(
            f"GPU {index} is full: {free / 2**20:.0f} of {total / 2**20:.0f} MiB are free: end what uses it, or leave "
            "it out"
        )
    return free - RESERVED_BYTES


def check_pinning(size_bytes: int = 2**20) -> None:
    """ValueError unless host memory can be pinned."""
    try:
        torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        raise ValueError(
            f"pinned host memory is refused ({str(error).splitlines()[0][:120]}): raise the limit of locked memory, "
            "ulimit -l unlimited"
        ) from None
