"""Device names against the cores that the system lists."""

from __future__ import annotations

import os

import pytest

from tpplan.hwprofiles import device_names
from tpplan.hwprofiles.device_names import available_cores, cores_of


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may use cores 0, 1, 2, 5 and 7."""
    monkeypatch.setattr(device_names.os, "sched_getaffinity", lambda pid: {5, 2, 0, 1, 7})


def test_cores_of_this_process() -> None:
    """The cores on offer are those that the scheduler would use, in order."""
    assert available_cores() == tuple(sorted(os.sched_getaffinity(0)))
    assert cores_of("cpu") == available_cores()


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("name", "expected"),
    [("cpu", (0, 1, 2, 5, 7)), ("cpu:0", (0,)), ("cpu:7", (7,)), ("cpu:0-2", (0, 1, 2)), ("cpu:5-5", (5,))],
)
def test_names_mean_cores(name: str, expected: tuple[int, ...]) -> None:
    """All cores, one core, a span of cores."""
    assert cores_of(name) == expected


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("name", ["cpu:3", "cpu:0-5", "cpu:99999", "cpu:1-3"])
def test_cores_that_are_not_here(name: str) -> None:
    """A core that this process may not use is refused, with those that it may use."""
    with pytest.raises(ValueError, match=rf"'{name}' is not on this machine: it offers cores 0-2, 5, 7"):
        cores_of(name)


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    "name",
    ["", "gpu", "CPU", "cpu:", "cpu:-1", "cpu:0-", "cpu:0,1", "cpu:0 ", "cpu:0\n", "cpu:1.5", "cpu:123456", "cuda:0"],
)
def test_names_that_are_not_understood(name: str) -> None:
    """Anything else is refused with the names that there are."""
    with pytest.raises(ValueError, match="is not understood; name CPU devices cpu, cpu:0 or cpu:0-3"):
        cores_of(name)


@pytest.mark.usefixtures("cores")
def test_a_span_backwards() -> None:
    """A span that ends before it begins is refused."""
    with pytest.raises(ValueError, match="write the smaller core first"):
        cores_of("cpu:2-0")
