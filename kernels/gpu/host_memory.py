"""Pinned host memory that every GPU reads and writes directly, and the words that stop everybody.

Layout: line 0 holds the abort word, then one trouble word a device on a line each, then whatever `Layout` reserved.
A host pointer need not equal a device's pointer to the same word: ask `alias`. Without GPUs it is plain memory.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

LINE_BYTES = 128  # what a GPU moves over the bus at once; no two writers share a line
PORTABLE, MAPPED = 1, 2
VALID = 1 << 31


@dataclass(frozen=True)
class Trouble:
    """`device` gave up waiting for `producer` (its place among the producers of call-site `site`) in pass `epoch`."""

    device: int
    site: int
    producer: int
    epoch: int


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class Layout:
    """Reserves bytes for call-sites before there is any memory; offsets are from the start of `HostMemory`."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.size_bytes = (1 + devices) * LINE_BYTES

    def reserve(self, size_bytes: int) -> int:
        """Offset of that many bytes, from a line on."""
        offset = self.size_bytes
        self.size_bytes += round_up(size_bytes, LINE_BYTES)
        return offset


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


class HostMemory:
    """`size_bytes` of zeros, page-locked and mapped into every GPU of `gpus` (CUDA indices); `close` gives it back.

    Raises ValueError where the system refuses to pin that much.
    """

    def __init__(self, layout: Layout, gpus: Sequence[int] = ()) -> None:
        self.devices, self.size_bytes = layout.devices, layout.size_bytes
        self.bytes = np.frombuffer(mmap.mmap(-1, self.size_bytes), dtype=np.uint8)
        self.words = self.bytes[: self.size_bytes // 8 * 8].view(np.uint64)
        self.address = self.bytes.ctypes.data
        self.aliases: dict[int, int] = {}
        self.pinned = False
        if gpus:
            self._pin(sorted(set(gpus)))

    def _pin(self, gpus: Sequence[int]) -> None:
        torch.cuda.init()
        with torch.cuda.device(gpus[0]):
            torch.cuda.current_stream().synchronize()  # makes the primary context current
            error = int(torch.cuda.cudart().cudaHostRegister(self.address, self.size_bytes, PORTABLE | MAPPED))
        if error:
            mib = self.size_bytes / 2**20
            raise ValueError(
                f"cannot pin {mib:.0f} MiB of host memory (CUDA error {error}): free memory, raise the locked-memory "
                "limit (ulimit -l unlimited), or give the container more"
            )
        self.pinned = True
        self.aliases = {gpu: self._alias(gpu) for gpu in gpus}

    def _alias(self, gpu: int) -> int:
        pointer = ctypes.c_uint64()
        with torch.cuda.device(gpu):
            torch.cuda.current_stream().synchronize()
            at = ctypes.c_void_p(self.address)
            error = _driver().cuMemHostGetDevicePointer_v2(ctypes.byref(pointer), at, 0)
        if error:
            self.close()
            raise ValueError(f"GPU {gpu} cannot map host memory (CUDA error {error}): leave it out of the plan")
        return pointer.value

    def alias(self, gpu: int | None) -> int:
        """Where GPU `gpu` sees the first byte; None: where the host does."""
        return self.address if gpu is None else self.aliases[gpu]

    def view(self, offset: int, count: int) -> np.ndarray:
        """`count` 64-bit words from byte `offset` on: [count] uint64, shared with the devices."""
        return self.words[offset // 8 : offset // 8 + count]

    def abort(self) -> None:
        """Ends every wait on every device, now and later, until `reset`."""
        self.words[0] = 1

    @property
    def aborted(self) -> bool:
        return bool(self.words[0])

    def trouble_offset(self, device: int) -> int:
        return (1 + device) * LINE_BYTES

    def troubles(self) -> list[Trouble]:
        """What devices gave up on, the earliest call-site first: that is where to look."""
        found = []
        for device in range(self.devices):
            word = int(self.words[self.trouble_offset(device) // 8])
            if word & VALID:
                found.append(Trouble(device, (word >> 8) & 0x3FFFFF, word & 0xFF, word >> 32))
        return sorted(found, key=lambda t: (t.epoch, t.site))

    def reset(self) -> None:
        """Forgets every word; only while no device is at work. Epochs may go on or begin anew, equal on all devices."""
        self.bytes[:] = 0

    def close(self) -> None:
        """Unpins; only after every device is idle."""
        if self.pinned:
            torch.cuda.cudart().cudaHostUnregister(self.address)
            self.pinned, self.aliases = False, {}


@dataclass(frozen=True)
class Rank:
    """A GPU device of the plan: its number, its CUDA index, and how long (ms) it waits for a peer."""

    memory: HostMemory
    device: int
    gpu: int
    limit_ms: int = 5000

    def at(self, offset: int) -> int:
        """This GPU's pointer to byte `offset` of the host memory."""
        return self.memory.alias(self.gpu) + offset

    @property
    def abort(self) -> int:
        return self.at(0)

    @property
    def trouble(self) -> int:
        return self.at(self.memory.trouble_offset(self.device))
