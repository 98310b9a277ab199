"""GPU names: what they mean, how equal partitions are numbered, what is refused."""

from __future__ import annotations

import pytest

from tpplan.hwprofiles.device_names import GpuName, available_cores, check_names, gpu_of, numbered, shared_cores


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cuda:0", GpuName(0)),
        ("cuda:12", GpuName(12)),
        ("cuda:1/16", GpuName(1, 16)),
        ("cuda:0/8#2", GpuName(0, 8, 2)),
        ("cuda:0/8#1", GpuName(0, 8)),
    ],
)
def test_names_mean_gpus(name: str, meant: GpuName) -> None:
    """A whole GPU, a part of one, the second of equal parts."""
    assert gpu_of(name) == meant


@pytest.mark.parametrize("name", ["cuda", "cuda:", "cuda:x", "cuda:0/", "cuda:0#2", "cuda:0/8#", "cuda:-1", "cuda:٣"])
def test_names_that_are_not_understood(name: str) -> None:
    """Anything else is refused in one line with the names that there are."""
    with pytest.raises(ValueError, match=r"is not understood; name CPU devices .* cuda:0/16$"):
        gpu_of(name)


@pytest.mark.parametrize("name", ["cuda:0/0", "cuda:0/8#0"])
def test_empty_parts(name: str) -> None:
    """No SMs, or a part before the first, is refused."""
    with pytest.raises(ValueError, match="is empty"):
        gpu_of(name)


def test_equal_parts_are_numbered_and_stay_so() -> None:
    """Numbers go by GPU and size; names that have been numbered are left alone."""
    names = numbered(["cuda:0/8", "cpu", "cuda:0/8", "cuda:1/8", "cuda:0/16", "cuda:0/8"])
    assert names == ["cuda:0/8", "cpu", "cuda:0/8#2", "cuda:1/8", "cuda:0/16", "cuda:0/8#3"]
    assert numbered(names) == names
    assert numbered(["cuda:0", "cuda:0"]) == ["cuda:0", "cuda:0"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cuda:0", "cuda:0"], "named twice"),
        (["cuda:0/8", "cuda:0/8#1"], "named twice"),
        (["cuda:0/16", "cpu", "cuda:0"], "devices cuda:0/16 and cuda:0 overlap: name GPU 0 whole, or only parts of it"),
        (["cpu:99999"], "is not on this machine"),
        (["gpu"], "is not understood"),
    ],
)
def test_names_that_do_not_go_together(names: list[str], message: str) -> None:
    """Repeated devices and a GPU that is whole and in parts are refused."""
    with pytest.raises(ValueError, match=message):
        check_names(names)


def test_names_that_go_together() -> None:
    """Parts of one GPU, another whole, CPUs; GPUs share no cores with anybody."""
    names = ["cuda:0/8", "cuda:0/8#2", "cuda:1", f"cpu:{available_cores()[0]}"]
    check_names(names)
    assert shared_cores(names) == []
