"""Partitions by a driver that is played: which calls, in which order, and what is said where it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tpplan.executor.gpu import partitions
from tpplan.executor.gpu.partitions import Partitions, check_sizes, load_bindings


@dataclass
class Driver:
    """A GPU of `sms` SMs that is cut in steps of `step`; `fails` names a call that gives error 801."""

    sms: int = 132
    step: int = 8
    fails: str = ""
    refuses_context: int = 0
    taken: list[list[int]] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    CUdevResourceType = SimpleNamespace(CU_DEV_RESOURCE_TYPE_SM=1)
    CUgreenCtxCreate_flags = SimpleNamespace(CU_GREEN_CTX_DEFAULT_STREAM=1)
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)

    def _answer(self, name: str, *results: Any) -> tuple[Any, ...]:
        return (801 if name == self.fails else 0, *results)

    def cuDeviceGet(self, index: int) -> tuple[Any, ...]:
        return self._answer("cuDeviceGet", f"device {index}")

    def cuDeviceGetDevResource(self, device: str, kind: int) -> tuple[Any, ...]:
        return self._answer("cuDeviceGetDevResource", SimpleNamespace(sm=SimpleNamespace(smCount=self.sms)))

    def cuDevSmResourceSplitByCount(self, count: int, whole: Any, flags: int, least: int) -> tuple[Any, ...]:
        size = -(-least // self.step) * self.step
        made = min(count, self.sms // size)
        groups = [SimpleNamespace(sm=SimpleNamespace(smCount=size), number=i) for i in range(count)]
        return self._answer("cuDevSmResourceSplitByCount", groups, made, None)

    def cuDevResourceGenerateDesc(self, groups: list[Any], count: int) -> tuple[Any, ...]:
        assert len(groups) == count
        self.taken.append([group.number for group in groups])
        return self._answer("cuDevResourceGenerateDesc", len(self.taken))

    def cuGreenCtxCreate(self, description: int, device: str, flags: int) -> tuple[Any, ...]:
        if description == self.refuses_context:
            return (801, None)
        self.alive.add(f"context {description}")
        return self._answer("cuGreenCtxCreate", f"context {description}")

    def cuGreenCtxStreamCreate(self, context: str, flags: int, priority: int) -> tuple[Any, ...]:
        assert context in self.alive
        number = 100 + len(self.alive)
        self.alive.add(f"stream {number}")
        return self._answer("cuGreenCtxStreamCreate", number)

    def cuStreamDestroy(self, stream: int) -> None:
        self.alive.remove(f"stream {stream}")

    def cuGreenCtxDestroy(self, context: str) -> None:
        assert not any(name.startswith("stream") for name in self.alive)
        self.alive.remove(context)


def test_partitions_share_no_sm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each partition takes groups of its own; all is destroyed at the end, streams first."""
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda number, device: (number, device))
    driver = Driver()
    made = Partitions(0, [8, 16, 8], driver)
    assert driver.taken == [[0], [1, 2], [3]]
    streams = [made.streams(p, 3) for p in range(3)]
    assert len({number for each in streams for number, _ in each}) == 9
    made.close()
    assert driver.alive == set()
    made.close()


def test_a_refusal_leaves_nothing() -> None:
    """A driver that refuses is named with the call; what was made before is destroyed."""
    driver = Driver(refuses_context=2)
    with pytest.raises(ValueError, match=r"GPU 1 cannot be cut into parts \(cuGreenCtxCreate: 801\): update the"):
        Partitions(1, [8, 16], driver)
    assert driver.alive == set()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([12], "GPU 0 can be cut in steps of 8 SMs, not 12: name 8 or 16"),
        ([8, 3], "GPU 0 can be cut in steps of 8 SMs, not 3: name 8 or 8"),
        ([64, 72], r"GPU 0 has 132 SMs, 128 in steps of 8; 64 \+ 72 = 136 are asked for: name fewer"),
        ([136], "136 are asked for"),
    ],
)
def test_sms_that_cannot_be(sizes: list[int], message: str) -> None:
    """Sizes that are no multiples, or too many SMs together, with the numbers."""
    with pytest.raises(ValueError, match=message) as error:
        Partitions(0, sizes, Driver())
    assert "\n" not in str(error.value)


def test_all_usable_sms() -> None:
    """As many as there are in whole steps is allowed."""
    check_sizes(0, [64, 64], 132, 8)


@pytest.mark.parametrize("module", [ImportError("No module named 'cuda'"), SimpleNamespace()])
def test_without_bindings(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Missing, broken or old bindings are said with the fix."""

    def imported(name: str) -> Any:
        if isinstance(module, Exception):
            raise module
        return module

    monkeypatch.setattr(partitions, "import_module", imported)
    with pytest.raises(ValueError, match=r"parts of a GPU need cuda-bindings.*install tpplan\[gpu\]"):
        load_bindings()


@pytest.mark.gpu
def test_partitions_of_a_gpu() -> None:
    """Kernels on a partition's stream run and give the right sum; closing twice is harmless."""
    pytest.importorskip("cuda.bindings")
    torch.cuda.init()
    made = Partitions(0, [8, 16])
    stream = made.streams(1, 1)[0]
    with torch.cuda.stream(stream):
        total = torch.ones(1 << 20, device="cuda").sum()
    stream.synchronize()
    assert total.item() == 1 << 20
    made.close()
    made.close()
