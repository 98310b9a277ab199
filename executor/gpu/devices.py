"""GPUs and parts of GPUs, opened: streams, figures, and the thread that issues their work.

`submit` is that of `kernels.worker.Worker`, so that both kinds of devices are treated alike. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from ...hwprofiles.device_names import GpuName, check_names, gpu_of
from ...kernels.gpu.sms import forget_stream, limit_stream
from .partitions import Partitions
from .requirements import check_gpu, check_pinning, free_bytes

T = TypeVar("T")
STREAMS = 3  # compute, push, pull


class GpuWorker:
    """The thread of one GPU device: its jobs run on the device's GPU and compute stream, one at a time."""

    cores: tuple[int, ...] = ()
    lanes = 1

    def __init__(self, name: str, place: torch.device, stream: torch.cuda.Stream) -> None:
        self.name, self.place, self.stream = name, place, stream
        self._thread = ThreadPoolExecutor(1, name, initializer=self._settle)

    def _settle(self) -> None:
        torch.cuda.set_device(self.place)
        torch.cuda.set_stream(self.stream)

    def submit(self, job: Callable[[], T], lane: int = 0) -> Future[T]:
        """Runs `job` on the thread, without autograd. The work that it launches may still run when it is done."""
        assert lane == 0, "a GPU device has one lane"

        def run() -> T:
            with torch.inference_mode():
                return job()

        return self._thread.submit(run)

    def close(self) -> None:
        """Ends the thread after the job at hand."""
        self._thread.shutdown(wait=True, cancel_futures=True)


@dataclass
class GpuDevice:
    """`sms`: of the partition, or all; all streams are on them. `free_bytes`: of the GPU, shared by its partitions."""

    name: str
    index: int
    sms: int
    capability: tuple[int, int]
    free_bytes: int
    compute: torch.cuda.Stream
    push: torch.cuda.Stream
    pull: torch.cuda.Stream
    worker: GpuWorker = field(init=False)

    def __post_init__(self) -> None:
        self.worker = GpuWorker(self.name, self.place, self.compute)

    @property
    def place(self) -> torch.device:
        return torch.device("cuda", self.index)

    @property
    def description(self) -> str:
        """`NVIDIA GeForce RTX 3090, 82 SMs, sm_86`."""
        major, minor = self.capability
        return f"{torch.cuda.get_device_name(self.index)}, {self.sms} SMs, sm_{major}{minor}"


class GpuDevices(list[GpuDevice]):
    """Opened devices, in the order they were named; leaving `with` waits for their work and gives everything back."""

    def __init__(self) -> None:
        super().__init__()
        self.partitions: list[Partitions] = []

    def __enter__(self) -> GpuDevices:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads, waits for what was launched, then destroys streams and partitions."""
        for device in self:
            device.worker.close()
        for device in self:
            for stream in (device.compute, device.push, device.pull):
                stream.synchronize()  # each: synchronising with a GPU does not wait for streams of its partitions
                forget_stream(stream)
        for partitions in self.partitions:
            partitions.close()
        self.partitions.clear()
        self.clear()


def open_devices(names: Sequence[str]) -> GpuDevices:
    """The GPUs that `names` mean, or parts of them. ValueError in one line with the fix for all that cannot be used;
    nothing is then held.
    """
    check_names(names)
    wanted = {name: gpu_of(name) for name in names}
    by_gpu: dict[int, list[str]] = {}
    for name, gpu in wanted.items():
        by_gpu.setdefault(gpu.index, []).append(name)
    free = {}
    for index in by_gpu:
        check_gpu(index)
        free[index] = free_bytes(index)
    check_pinning()
    devices = GpuDevices()
    opened: dict[str, GpuDevice] = {}
    try:
        for index, mine in by_gpu.items():
            for name, sms, streams in _streams(index, mine, wanted, devices):
                capability = torch.cuda.get_device_capability(index)
                opened[name] = GpuDevice(name, index, sms, capability, free[index], *streams)
        devices.extend(opened[name] for name in names)
    except BaseException:
        devices.extend(opened.values())
        devices.close()
        raise
    return devices


def _streams(
    index: int, names: Sequence[str], wanted: dict[str, GpuName], devices: GpuDevices
) -> list[tuple[str, int, list[torch.cuda.Stream]]]:
    """Name, SMs and streams of the devices of one GPU."""
    torch.empty(1, device=torch.device("cuda", index))  # the primary context, which partitions belong to
    if not wanted[names[0]].sms:
        count = torch.cuda.get_device_properties(index).multi_processor_count
        return [(names[0], count, [torch.cuda.Stream(index) for _ in range(STREAMS)])]
    partitions = Partitions(index, [wanted[name].sms for name in names])
    devices.partitions.append(partitions)
    return [(name, wanted[name].sms, _part_streams(partitions, p)) for p, name in enumerate(names)]


def _part_streams(partitions: Partitions, part: int) -> list[torch.cuda.Stream]:
    streams: list[torch.cuda.Stream] = [*partitions.streams(part, STREAMS)]
    for stream in streams:
        limit_stream(stream, partitions.sizes[part])
    return streams
