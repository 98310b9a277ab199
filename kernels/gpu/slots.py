"""Call-sites of collectives: where in host memory which producer's cells lie.

A cell is 16 bytes, little-endian: three payloads of 4 bytes, then the 32-bit epoch of the pass that wrote it. It is
written by one store and read by one load, so whoever reads the right epoch has the payloads too: no other flag is
needed. A payload is one float32, or two values of a 2-byte type (the lower half is the first); what is left over of a
row's last cell is zero. A slot is `[rows, row_cells(width)]` cells; a site has `SLOT_COPIES` slots for each producer,
and pass `epoch` uses copy `epoch % SLOT_COPIES`: cell i of a producer's row r is at

    site.offset + 16 * ((epoch % 2) * site.copy_cells + site.slot_cells[producer] + r * row_cells(width) + i)

Epochs begin at 1 (zeroed memory holds none) and only grow. Nobody confirms a pull: pass n + 2 writes what pass n wrote,
and the pass in between cannot end before all pulls of pass n have, since its first token depends on them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
import torch

from .host_memory import LINE_BYTES, HostMemory, Layout, round_up

SLOT_COPIES = 2
CELL_BYTES = 16
PAYLOADS = 3  # of a cell
Combine = Literal["sum", "concat"]


def values_per_payload(wire: torch.dtype) -> int:
    """1 for float32, 2 for float16 and bfloat16."""
    return 4 // wire.itemsize


def row_cells(width: int, wire: torch.dtype) -> int:
    return -(-width // (PAYLOADS * values_per_payload(wire)))


@dataclass(frozen=True)
class Site:
    """One collective call-site. `producers`, `consumers`: device numbers of the plan, ascending; `widths`: values a row
    of each producer, positive and, for a sum, equal; `spans`: the columns of a sum that each consumer wants.
    """

    number: int
    producers: tuple[int, ...]
    widths: tuple[int, ...]
    consumers: tuple[int, ...]
    combine: Combine
    wire: torch.dtype
    rows: int
    spans: tuple[tuple[int, int], ...]
    offset: int
    slot_cells: tuple[int, ...]  # where each producer's slot begins
    copy_cells: int

    def begins(self) -> tuple[int, ...]:
        """First column of each producer's slice in what is concatenated."""
        return (0, *accumulate(self.widths[:-1]))

    def span(self, consumer: int) -> tuple[int, int]:
        return self.spans[self.consumers.index(consumer)]


def new_site(
    layout: Layout,
    number: int,
    widths: dict[int, int],
    consumers: Sequence[int],
    combine: Combine,
    wire: torch.dtype,
    rows: int = 1,
    spans: dict[int, tuple[int, int]] | None = None,
) -> Site:
    """Reserves the slots of call-site `number` (below 2^22); `widths` by producer, where zero means no part in it."""
    producers = tuple(sorted(d for d, width in widths.items() if width))
    wide = tuple(widths[d] for d in producers)
    assert producers, "a collective without producers"
    assert consumers, "a collective without consumers"
    assert combine == "concat" or len(set(wide)) == 1, "the parts of a sum are equally wide"
    sizes = [round_up(rows * row_cells(width, wire), LINE_BYTES // CELL_BYTES) for width in wide]
    total = sum(wide) if combine == "concat" else wide[0]
    takers = tuple(sorted(consumers))
    ranges = tuple((spans or {}).get(d, (0, total)) for d in takers)
    offset = layout.reserve(SLOT_COPIES * sum(sizes) * CELL_BYTES)
    starts = (0, *accumulate(sizes[:-1]))
    return Site(number, producers, wide, takers, combine, wire, rows, ranges, offset, starts, sum(sizes))


def slot(memory: HostMemory, site: Site, place: int, epoch: int, rows: int) -> np.ndarray:
    """Cells of the producer at `place` in pass `epoch`: [rows, row cells, 2] uint64, the epoch in the upper half of the
    second."""
    wide = row_cells(site.widths[place], site.wire)
    start = site.offset + CELL_BYTES * (epoch % SLOT_COPIES * site.copy_cells + site.slot_cells[place])
    return memory.view(start, 2 * rows * wide).reshape(rows, wide, 2)


def host_push(memory: HostMemory, site: Site, device: int, part: torch.Tensor, epoch: int) -> None:
    """A CPU device's `part` [rows, width] into its slot; the residual, where it carries one, is in it already.

    Epochs are written last; on x86, others see stores in order.
    """
    rows, width = part.shape
    place, cells = site.producers.index(device), row_cells(width, site.wire)
    padded = torch.zeros(rows, cells * PAYLOADS * values_per_payload(site.wire), dtype=site.wire)
    padded[:, :width] = part
    payloads = padded.view(torch.int32).numpy().view(np.uint32).astype(np.uint64).reshape(rows, cells, PAYLOADS)
    target, upper = slot(memory, site, place, epoch, rows), np.uint64(32)
    target[..., 0] = payloads[..., 0] | payloads[..., 1] << upper
    target[..., 1] = payloads[..., 2] | np.uint64(epoch << 32)


def host_wait(memory: HostMemory, words: np.ndarray, epoch: int, limit_s: float) -> bool:
    """Until all `words` are of pass `epoch`; False if aborted, or late."""
    deadline = time.monotonic() + limit_s
    while (words >> np.uint64(32) != epoch).any():
        if memory.aborted or time.monotonic() > deadline:
            return False
    return True


def host_pull(
    memory: HostMemory, site: Site, device: int, epoch: int, rows: int = 1, limit_s: float = 5.0
) -> torch.Tensor:
    """What consumer `device` gets, without residual: [rows, end - begin] float32; parts are added in producer order.

    Raises TimeoutError if a producer is late or somebody aborted. A CPU producer pulls its own part like the others.
    """
    parts = []
    for place, width in enumerate(site.widths):
        cells = slot(memory, site, place, epoch, rows)
        if not host_wait(memory, cells[..., 1], epoch, limit_s):
            memory.abort()
            raise TimeoutError(f"device {device} waited for device {site.producers[place]} at call-site {site.number}")
        payloads = np.ascontiguousarray(cells).view(np.uint32).reshape(rows, -1, 4)[..., :PAYLOADS].reshape(rows, -1)
        values = torch.from_numpy(payloads.copy().view(np.int32)).view(site.wire)
        parts.append(values[:, :width].float())
    whole = torch.cat(parts, 1) if site.combine == "concat" else in_order(parts)
    begin, end = site.span(device)
    return whole[:, begin:end]


def in_order(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """((p0 + p1) + p2) + ...: the order that gives every member the same bits."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
