"""What is refused before a GPU is used: one line each, with the fix. Torch's answers are played where no GPU is."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
import torch

from tpplan.executor.gpu import requirements
from tpplan.executor.gpu.devices import open_devices
from tpplan.executor.gpu.requirements import (
    check_capability,
    check_index,
    check_pinning,
    check_torch,
    check_triton,
    driver_problem,
    free_bytes,
)  # fmt: skip


def refused(check: Any, *arguments: Any) -> str:
    with pytest.raises(ValueError, match=r"\w") as error:
        check(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
@pytest.mark.parametrize("names", [["cuda:0"], ["cuda:0/8", "cuda:0/16"]])
def test_torch_without_cuda(names: list[str]) -> None:
    """This very build of torch refuses a GPU."""
    assert refused(open_devices, names).startswith("torch was built without CUDA: install a CUDA build")


@pytest.mark.parametrize(
    ("message", "start"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by ...",
            "the NVIDIA driver is too old: it serves CUDA 11.4, torch was built for CUDA",
        ),
        ("Found no NVIDIA driver on your system. Please check ...", "there is no NVIDIA driver: install one"),
        ("No CUDA GPUs are available", "no GPU is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ("Unexpected error\nfrom cudaGetDeviceCount()", "CUDA does not start (Unexpected error from cuda"),
    ],
)
def test_drivers(monkeypatch: pytest.MonkeyPatch, message: str, start: str) -> None:
    """What torch says of drivers becomes one line with the fix."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def fails() -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "init", fails)
    assert refused(check_torch).startswith(start)
    assert driver_problem(message).startswith(start)


@pytest.mark.parametrize(("count", "here"), [(0, "no GPUs"), (1, "GPU 0 only"), (3, "GPUs 0 to 2")])
def test_no_such_gpu(monkeypatch: pytest.MonkeyPatch, count: int, here: str) -> None:
    """An index beyond the last, with those that there are."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert refused(check_index, 7).startswith(f"there is no GPU 7: this machine shows {here}")


@pytest.mark.parametrize(
    ("version", "start"),
    [
        (None, "GPUs need Triton, which is not installed: run `pip install"),
        ("3.5.1", "Triton 3.5.1 is too old: run `pip install"),
        ("3.10.0", "Triton 3.10.0 is too new: run `pip install"),
    ],
)
def test_triton(monkeypatch: pytest.MonkeyPatch, version: str | None, start: str) -> None:
    """Missing, older or newer than the kernels were written for."""

    def found(package: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(requirements.metadata, "version", found)
    assert refused(check_triton).startswith(start)


def test_triton_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that pyproject allows."""
    for version in ("3.6.0", "3.9.1+git"):
        monkeypatch.setattr(requirements.metadata, "version", lambda package, version=version: version)
        check_triton()


def test_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below sm_75."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla P40")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (6, 1))
    assert refused(check_capability, 1).startswith("GPU 1 (Tesla P40) has compute capability 6.1, tpplan needs 7.5")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    check_capability(1)


def test_a_full_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the figure; else what is left beside the kernels' own."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (300 * 2**20, 24 * 2**30))
    assert refused(free_bytes, 0).startswith("GPU 0 is full: 300 of 24576 MiB are free")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20 * 2**30, 24 * 2**30))
    assert 19 * 2**30 < free_bytes(0) < 20 * 2**30


def test_pinned_memory_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit to raise."""

    def refuses(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: out of memory\nmore lines")

    monkeypatch.setattr(torch, "empty", refuses)
    assert refused(check_pinning).startswith("pinned host memory is refused (CUDA error: out of memory): raise")
