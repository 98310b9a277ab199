"""GPUs that are threads of this machine: what measuring launches runs here, captured or not, with its data and waits.

Kernels become checks that they are called as they are defined; exchanges move their data through the same words. So
measuring can be tested as a whole, figures excepted.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tpplan.executor.gpu import devices
from tpplan.hwprofiles import (
    cell_rings,
    gpu_bulk,
    gpu_exchange,
    gpu_links,
    gpu_measure,
    gpu_probes,
    gpu_timing,
    nvidia_smi,
)  # fmt: skip
from tpplan.hwprofiles.device_names import gpu_of
from tpplan.kernels.gpu import (
    argmax,
    attention,
    bulk,
    embed,
    exchange,
    gate_up,
    handover,
    host_memory,
    linear,
    linear_quant,
    norm,
    products,
    products_quant,
    rope,
    swiglu,
)  # fmt: skip
from tpplan.kernels.gpu.slots import host_pull, host_push, in_order

LIMIT_S = 10.0
KERNELS = [
    (argmax, "argmax"), (attention, "decode"), (attention, "prefill"), (embed, "embed"), (gate_up, "gate_up"),
    (linear, "linear"), (linear_quant, "linear"), (norm, "norm"), (norm, "scaled"), (products, "many_rows"),
    (products_quant, "many_rows"), (rope, "rope"), (swiglu, "swiglu"),
]  # fmt: skip
_capturing = threading.local()


def launched(run: Callable[[], None]) -> None:
    """Now, or at every replay of the graph that is being captured on this thread."""
    graph = getattr(_capturing, "graph", None)
    if graph is None:
        run()
    else:
        graph.launches.append(run)


class Graph:
    def __init__(self) -> None:
        self.launches: list[Callable[[], None]] = []

    def replay(self) -> None:
        for run in self.launches:
            run()


@contextlib.contextmanager
def capture(graph: Graph, **how: Any) -> Iterator[None]:
    _capturing.graph = graph
    try:
        yield
    finally:
        _capturing.graph = None


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.at - self.at) + 1e-4


class Stream:
    def synchronize(self) -> None:
        """Work has been done when its launch returns."""


class Worker:
    def __init__(self, name: str) -> None:
        self.name, self.stream, self._thread = name, Stream(), ThreadPoolExecutor(1, name)

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        def run() -> Any:
            with torch.inference_mode():
                return job()

        return self._thread.submit(run)

    def close(self) -> None:
        self._thread.shutdown(wait=True)


class Device:
    description, free_bytes, capability = "a fake", 64 * 2**20, (9, 0)

    def __init__(self, name: str) -> None:
        self.name, self.index, self.sms = name, gpu_of(name).index, gpu_of(name).sms or 132
        self.place, self.push, self.pull, self.worker = torch.device("cpu"), Stream(), Stream(), Worker(name)


class Devices(list[Device]):
    def close(self) -> None:
        for device in self:
            device.worker.close()


def fake_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts fakes in the place of CUDA, kernels and devices, and makes what is measured small."""
    cuda = torch.cuda
    for name, fake in {
        "CUDAGraph": Graph, "graph": capture, "Event": Event, "synchronize": lambda *_: None,
        "stream": lambda _: contextlib.nullcontext(),
        "get_device_properties": lambda _: SimpleNamespace(L2_cache_size=2**14, uuid="fake"),
    }.items():  # fmt: skip
        monkeypatch.setattr(cuda, name, fake)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(devices, "open_devices", lambda names: Devices(map(Device, names)))
    monkeypatch.setattr(nvidia_smi, "cards", dict)
    monkeypatch.setattr(host_memory.HostMemory, "_pin", _pin)
    for module, name in KERNELS:
        monkeypatch.setattr(module, name, _checked(getattr(module, name)))
    monkeypatch.setattr(exchange.Exchange, "__call__", _exchange)
    monkeypatch.setattr(handover.Handover, "__call__", _checked(handover.Handover.__call__))
    monkeypatch.setattr(gpu_bulk, "Bulk", FakeBulk)
    for module in (cell_rings, gpu_measure):
        monkeypatch.setattr(module, "advance", _advance)
    _shrink(monkeypatch)


def _shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (gpu_timing, "POOL_BYTES", 2**23), (gpu_timing, "MATRIX", 32), (gpu_links, "COPY_BYTES", 2**12),
        (gpu_measure, "REPLAYS", 3), (gpu_measure, "KERNELS", 2), (cell_rings, "SITES", 2), (cell_rings, "ROUNDS", 4),
        (gpu_probes, "SHAPES", [(64, 32)]), (gpu_probes, "QUICK_SHAPES", [(64, 32)]),
        (gpu_probes, "FLOAT32_SHAPES", [(64, 32)]), (gpu_probes, "BATCH_SHAPES", [(64, 32)]),
        (gpu_probes, "FLOAT32_BATCH_SHAPES", [(64, 32)]), (gpu_probes, "HEADS", [(1, 2, 64)]),
        (gpu_probes, "QUICK_HEADS", [(1, 2, 64)]), (gpu_probes, "CONTEXTS", (512,)),
        (gpu_probes, "QUICK_CONTEXTS", (512,)), (gpu_probes, "CAPACITY", 512),
        (gpu_probes, "WIDTHS", {op: [128, 768] for op in gpu_probes.WIDTHS}),
        (gpu_exchange, "BULK_SIZES", [(20, 64)]), (gpu_exchange, "EXACT_BULK_SIZES", [(20, 64)]),
        (gpu_exchange, "SIZES", [(1, 64), (16, 64)]), (gpu_exchange, "EXACT_SIZES", [(1, 64)]),
        (gpu_exchange, "QUICK_SIZES", [(1, 64)]), (gpu_exchange, "QUICK_BULK_SIZES", [(20, 64)]),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def _pin(self: host_memory.HostMemory, gpus: list[int]) -> None:
    self.aliases = dict.fromkeys(gpus, self.address)


def _checked(kernel: Callable[..., None]) -> Callable[..., None]:
    """Refuses arguments that `kernel` does not take."""
    signature = inspect.signature(kernel)

    def call(*args: Any, **more: Any) -> None:
        bound = signature.bind(*args, **more)
        tensors = [a for a in bound.arguments.values() if isinstance(a, torch.Tensor)]
        assert tensors or kernel.__name__ == "__call__"

    return call


def _advance(control: torch.Tensor, rows: int = 0) -> None:
    launched(lambda: control.add_(torch.tensor([rows, 1, *(0,) * (len(control) - 2)], dtype=torch.int32)))


def _exchange(self: exchange.Exchange, control: torch.Tensor, part: torch.Tensor, rows: int = 1, **taken: Any) -> None:
    """Through the same words; gives up where the real one does."""
    memory, d = self.rank.memory, self.rank.device

    def run() -> None:
        epoch = int(control[1])
        if self.pushes:
            host_push(memory, self.site, d, part[:rows], epoch)
        if self.pulls and not memory.aborted:
            with contextlib.suppress(TimeoutError):
                pulled = host_pull(memory, self.site, d, epoch, rows, limit_s=self.rank.limit_ms / 1e3)
                taken["out"][:rows] = pulled + taken.get("residual", 0.0)

    launched(run)


class FakeBulk:
    """Parts meet in a table beside the host memory."""

    meeting = threading.Condition()

    def __init__(self, slots: bulk.BulkSlots, rank: host_memory.Rank) -> None:
        self.rank, self.readers = rank, dict[int, object]()

    def reset(self) -> None:
        """Nothing is kept."""

    def __call__(
        self, number: int, widths: dict[int, int], consumers: tuple[int, ...], combine: str, wire: torch.dtype,
        rows: int, part: torch.Tensor | None = None, out: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        if self.rank.memory.aborted:
            return
        parts: dict[tuple[int, int], torch.Tensor] = self.rank.memory.__dict__.setdefault("parts", {})
        assert part is not None
        with self.meeting:
            parts[number, self.rank.device] = part.to(wire).float()
            self.meeting.notify_all()
            if out is not None:
                wanted = [(number, d) for d in sorted(widths)]
                assert self.meeting.wait_for(lambda: all(key in parts for key in wanted), LIMIT_S)
                out[:rows] = in_order([parts[key] for key in wanted]) + residual
