"""Large exchanges (prefill): chunks of plain values in host memory, each with a flag; both directions in one kernel.

The first programs push, the rest pull. A chunk is some whole rows of a part, about CHUNK values; its flag is a word
whose epoch is the number of the collective. One thread of a program waits, and one fences and signals: a fence reaches
to the host and back, and those of many threads would follow each other. Slots are few (RING a producer) and taken in
turn by number; before a slot is written again its last readers must have said, in their `pulled` words, that they are
through. Numbers grow by one with every bulk collective of the plan, whoever takes part, and begin at 1. A pass that is
captured reads where its numbers begin from device memory (`Bulk.base`), and which slots are its readers' does not
change: passes begin at even numbers, and all that exchange so are of one program.
Parts are added in producer order in float32 from what was rounded to the wire type: all members get the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl

from .host_memory import LINE_BYTES, Layout, Rank, round_up
from .launch import row_stride
from .payloads import TL_TYPES
from .waiting import signal, wait_flags_asm

RING = 2
CHUNK = 16384  # values
TILE = 4096  # values that a program has in flight of each producer
PUSHERS, PULLERS, WARPS = 8, 32, 8


@dataclass(frozen=True)
class BulkSlots:
    """Host memory of all bulk collectives: RING slots of `slot_bytes` and as many lines of flags for each device."""

    devices: int
    slot_bytes: int
    flag_bytes: int
    data: int
    flags: int
    pulled: int


def new_bulk_slots(layout: Layout, rows: int, width: int) -> BulkSlots:
    """Room for parts of at most `rows` rows of `width` float32 values."""
    values = rows * width
    n, slot_bytes = layout.devices, round_up(values * 4, LINE_BYTES)
    flag_bytes = rows * LINE_BYTES
    data = layout.reserve(n * RING * slot_bytes)
    flags = layout.reserve(n * RING * flag_bytes)
    return BulkSlots(n, slot_bytes, flag_bytes, data, flags, layout.reserve(n * LINE_BYTES))


@triton.jit
def slot_of(data, data_step, device, WIRE: tl.constexpr):
    """A device's slot, aligned to a line: said aloud, or Triton reads value by value."""
    at = (data + device * data_step.to(tl.int64)).to(tl.pointer_type(WIRE), bitcast=True)
    return tl.multiple_of(at, 128)


@triton.jit
def pull_tile(
    mine, own_stride, carry, carry_stride, source, row, width, column, inside, IS_OWN: tl.constexpr, WIRE: tl.constexpr
):
    """One producer's values of a row as float32: this device's own, rounded, or from host memory."""
    if IS_OWN:
        value = tl.load(mine + row * own_stride + column, mask=inside, other=0.0).to(tl.float32)
        if carry is not None:
            value += tl.load(carry + row * carry_stride + column, mask=inside, other=0.0).to(tl.float32)
        value = value.to(WIRE)
    else:
        value = tl.load(source + row * width + column, mask=inside, other=0.0, volatile=True)
    return value.to(tl.float32)


@triton.jit(
    do_not_specialize=[
        "begins", "before", "wraps", "number", "told", "rows", "chunk_rows", "abort", "trouble", "limit_ms"
    ]
)  # fmt: skip
def bulk_kernel(
    part, part_stride, carry, carry_stride, out, out_stride, residual, residual_stride, done, data, flags, data_step,
    flag_step, pulled, begins, before, wraps, number, told, rows, chunk_rows, begin, end, abort, trouble, limit_ms,
    READERS_WAIT: tl.constexpr, WAIT: tl.constexpr, CONSTRAINTS: tl.constexpr, DEVICES: tl.constexpr,
    WIDTHS: tl.constexpr, DEVICE: tl.constexpr, OWN: tl.constexpr, CONCAT: tl.constexpr, PUSHES: tl.constexpr,
    PULLS: tl.constexpr, PUSHERS: tl.constexpr, PULLERS: tl.constexpr, WIRE: tl.constexpr, TILE: tl.constexpr,
    LINE: tl.constexpr,
):  # fmt: skip
    """part, carry: [rows, own width]; out, residual: [rows, end - begin]; a chunk is `chunk_rows` rows of a part.

    Strides and spans are specialised: only where Triton knows them to be multiples of 16 does it move 16 bytes at once.
    They are the same in every pass, so one warm-up of a call-site loads what it needs.
    """
    program = tl.program_id(0)
    readers_number = tl.load(begins + wraps) + before
    number = tl.load(begins) + number
    chunks = tl.cdiv(rows, chunk_rows)
    lanes = tl.arange(0, TILE)
    if program < PUSHERS:
        if PUSHES:
            if READERS_WAIT is not None:
                tl.inline_asm_elementwise(
                    READERS_WAIT, CONSTRAINTS, [pulled, tl.full([], LINE, tl.int64), readers_number, abort, trouble,
                    told << 8, limit_ms], dtype=tl.int32, is_pure=False, pack=1,
                )  # fmt: skip
                tl.debug_barrier()
            mine = slot_of(data, data_step, DEVICE, WIRE)
            for chunk in range(program, chunks, PUSHERS):
                for row in range(chunk * chunk_rows, tl.minimum(rows, (chunk + 1) * chunk_rows)):
                    for first in range(0, WIDTHS[OWN], TILE):
                        column = first + lanes
                        inside = column < WIDTHS[OWN]
                        value = pull_tile(
                            part, part_stride, carry, carry_stride, mine, row, 0, column, inside, True, WIRE
                        )
                        tl.store(mine + row * WIDTHS[OWN] + column, value.to(WIRE), mask=inside)
                signal(flags + DEVICE * flag_step.to(tl.int64) + chunk.to(tl.int64) * LINE, 0, number)
    elif PULLS:
        for chunk in range(program - PUSHERS, chunks, PULLERS):
            if WAIT is not None:
                tl.inline_asm_elementwise(
                    WAIT, CONSTRAINTS, [flags + chunk.to(tl.int64) * LINE, flag_step.to(tl.int64), number, abort,
                    trouble, told << 8, limit_ms], dtype=tl.int32, is_pure=False, pack=1,
                )  # fmt: skip
                tl.debug_barrier()
            for row in range(chunk * chunk_rows, tl.minimum(rows, (chunk + 1) * chunk_rows)):
                if CONCAT:
                    start = 0
                    for k in tl.static_range(len(WIDTHS)):
                        source = slot_of(data, data_step, DEVICES[k], WIRE)
                        for first in range(0, WIDTHS[k], TILE):
                            column = first + lanes
                            inside = column < WIDTHS[k]
                            value = pull_tile(
                                part, part_stride, carry, carry_stride, source, row, WIDTHS[k], column, inside,
                                k == OWN, WIRE,
                            )  # fmt: skip
                            if residual is not None:
                                value += tl.load(residual + row * residual_stride + start + column, mask=inside)
                            to = out + row * out_stride + start + column
                            tl.store(to, value.to(out.dtype.element_ty), mask=inside)
                        start += WIDTHS[k]
                else:
                    for first in range(begin, end, TILE):
                        column = first + lanes
                        inside = column < end
                        for k in tl.static_range(len(WIDTHS)):
                            source = slot_of(data, data_step, DEVICES[k], WIRE)
                            value = pull_tile(
                                part, part_stride, carry, carry_stride, source, row, WIDTHS[k], column, inside,
                                k == OWN, WIRE,
                            )  # fmt: skip
                            if k == 0:
                                total = value
                            else:
                                total += value
                        at = column - begin
                        if residual is not None:
                            total += tl.load(residual + row * residual_stride + at, mask=inside)
                        tl.store(out + row * out_stride + at, total.to(out.dtype.element_ty), mask=inside)
        tl.debug_barrier()
        if tl.atomic_add(done, 1) == PULLERS - 1:
            tl.store(done, 0)
            signal(pulled + DEVICE * LINE, 0, number)


@dataclass
class Bulk:
    """One GPU device's part in the bulk collectives of a plan; keeps which of its slots others may still be reading.

    `base`: int32 [2], where the numbers of the pass at hand and of the one before it begin; zeros if not given.
    """

    slots: BulkSlots
    rank: Rank
    tile: int = TILE
    pushers: int = PUSHERS
    pullers: int = PULLERS
    base: torch.Tensor | None = None
    readers: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)  # ring -> number, consumers
    compiled: dict[object, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = f"cuda:{self.rank.gpu}"
        self.done = torch.zeros(1, dtype=torch.int32, device=place)
        self.base = torch.zeros(2, dtype=torch.int32, device=place) if self.base is None else self.base

    def settle(self) -> None:
        """Makes the kernels' count good after waits were given up."""
        self.done.zero_()

    def reset(self) -> None:
        """Forgets earlier collectives; with `HostMemory.reset`, while all devices are idle."""
        self.readers.clear()
        self.settle()

    def __call__(
        self,
        number: int,
        widths: dict[int, int],
        consumers: tuple[int, ...],
        combine: str,
        wire: torch.dtype,
        rows: int,
        part: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        carry: torch.Tensor | None = None,
        span: tuple[int, int] | None = None,
        told: int | None = None,
    ) -> None:
        """Collective `number`, counted from `base[0]`, over `rows` rows; `widths` by producer; `span`: the columns of a
        sum that this device wants; `carry` must not share memory with `out`; `told`: what a wait in vain is told by, if
        not the number. Launches one kernel on the current stream.
        """
        s, r = self.slots, self.rank
        devices = tuple(sorted(d for d, width in widths.items() if width))
        wide = tuple(widths[d] for d in devices)
        own = devices.index(r.device) if r.device in devices else -1
        pulls, ring = r.device in consumers, number % RING
        pushes = own >= 0 and consumers != (r.device,)
        before, readers = self.readers.get(ring, (0, ())) if pushes else (0, ())
        wraps = int(before >= number)  # that was in the pass before, whose numbers began at base[1]
        if pushes:
            self.readers[ring] = (number, tuple(c for c in consumers if c != r.device))
        begin, end = span or (0, sum(wide) if combine == "concat" else wide[0])
        tensors = part, carry, out, residual
        arguments = (
            *(x for tensor in tensors for x in (tensor, row_stride(tensor))),
            self.done,
            r.at(s.data + ring * s.slot_bytes), r.at(s.flags + ring * s.flag_bytes), RING * s.slot_bytes,
            RING * s.flag_bytes, r.at(s.pulled), self.base, before, wraps, number,
            number & 0x3FFFFF if told is None else told, rows, chunk_rows(sum(wide) // len(wide)), begin, end, r.abort,
            r.trouble, r.limit_ms,
        )  # fmt: skip
        constants = (readers, devices, wide, own, combine, pushes, pulls, wire)
        key = (*constants, begin, end, *map(_specialised, tensors))
        grid = (self.pushers + (self.pullers if pulls else 0), 1, 1)
        if key in self.compiled:
            compiled, rest = self.compiled[key]
            compiled[grid](*arguments, *rest)
        else:
            rest = self._constants(*constants)
            self.compiled[key] = bulk_kernel[grid](*arguments, *rest, num_warps=WARPS), rest

    def _constants(
        self,
        readers: tuple[int, ...],
        devices: tuple[int, ...],
        wide: tuple[int, ...],
        own: int,
        combine: str,
        pushes: bool,
        pulls: bool,
        wire: torch.dtype,
    ) -> tuple[object, ...]:
        """The kernel's constants, in its order."""
        peers = tuple(d for d in devices if d != self.rank.device)
        held = wait_flags_asm(readers, reached=True)[0] if readers else None
        wait = wait_flags_asm(peers)[0] if pulls and peers else None
        return (
            held, wait, wait_flags_asm((0,))[1], devices, wide, self.rank.device, own, combine == "concat", pushes,
            pulls, self.pushers, self.pullers, TL_TYPES[wire], self.tile, LINE_BYTES,
        )  # fmt: skip


def _specialised(tensor: torch.Tensor | None) -> tuple[object, ...]:
    """What Triton compiles for, of a tensor: looking it up here takes a tenth of what Triton's own look-up does."""
    return () if tensor is None else (tensor.dtype, tensor.data_ptr() % 16, tensor.stride(0))


def chunk_rows(width: int) -> int:
    """Rows of a chunk; at least one."""
    return max(1, CHUNK // width)
