"""Bulk exchanges by copy engines: pieces of whole rows, pushed, pulled and added up at the same time.

Programs of a GPU can fill its link one way, not both ways at once; copy engines can. A part is rounded to the wire type
into a buffer of the device, whose pieces are copied to host memory, each followed by its flag. For every piece of the
others' a kernel waits, boundedly, then it is copied here, then added. All of that is one graph, captured while devices
warm up (nobody waits then), since some dozens of launches from Python would take longer than the copies. Numbers lie in
device memory, so the graph does not change. Slots, flags, numbers and the order of adding are those of `bulk`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import triton
import triton.language as tl

from .host_memory import LINE_BYTES, Rank
from .launch import row_stride
from .waiting import wait_flags_asm

LEAST_BYTES, PIECE_BYTES = 2 * 2**20, 2**20  # of a part: fewer go by `bulk`'s kernel; of a piece
BLOCK, LAG = 1024, 1  # values a program; pieces that may be on their way here while one is added


@triton.jit(do_not_specialize=["abort", "trouble", "limit_ms"])
def wait_kernel(flags, step, word, abort, trouble, limit_ms, WAIT: tl.constexpr, CONSTRAINTS: tl.constexpr):
    """Until the flags say what the upper half of `word` says, int64."""
    number = (tl.load(word) >> 32).to(tl.int32)
    tl.inline_asm_elementwise(
        WAIT, CONSTRAINTS, [flags, step.to(tl.int64), number, abort, trouble, (number & 0x3FFFFF) << 8, limit_ms],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit(do_not_specialize=["first_row"])
def pack_kernel(part, part_stride, carry, carry_stride, sent, width, first_row, BLOCK: tl.constexpr):
    """sent[row] = part[row] + carry[row], rounded: row by row, BLOCK columns a program."""
    row, column = first_row + tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(part + row * part_stride + column, mask=inside, other=0.0).to(tl.float32)
    if carry is not None:
        value += tl.load(carry + row * carry_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(sent + row * width + column, value.to(sent.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["start", "first_row"])
def add_kernel(
    parts, out, out_stride, residual, residual_stride, width, start, first_row, COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out[row, start + column] = the parts' values added in order, and the residual's; `parts`: COUNT matrices."""
    row, column = first_row + tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    total = tl.load(parts[0] + row * width + column, mask=inside, other=0.0).to(tl.float32)
    for k in tl.static_range(1, COUNT):
        total += tl.load(parts[k] + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        total += tl.load(residual + row * residual_stride + start + column, mask=inside, other=0.0)
    tl.store(out + row * out_stride + start + column, total.to(out.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class Job:
    """One exchange; what is equal here is the same graph. `wide`: by producer, as `devices`. `readers`: who may still
    read this device's slot. `data`, `flags`: offsets of device 0's in the ring's turn; `..._step`: to the next one's.
    """

    devices: tuple[int, ...]
    wide: tuple[int, ...]
    consumers: tuple[int, ...]
    readers: tuple[int, ...]
    concat: bool
    wire: torch.dtype
    rows: int
    data: int
    data_step: int
    flags: int
    flag_step: int
    pulled: int


@dataclass
class Copies:
    """One device's exchanges by copy engines; its two streams carry copies only, kernels run on the current one."""

    rank: Rank
    graphs: dict[object, torch.cuda.CUDAGraph] = field(default_factory=dict)
    buffers: dict[int, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = torch.device("cuda", self.rank.gpu)
        self.push, self.pull = torch.cuda.Stream(place), torch.cuda.Stream(place)
        self.word, self.before = (torch.zeros(1, dtype=torch.int64, device=place) for _ in range(2))
        self.host = torch.from_numpy(self.rank.memory.bytes)

    def __call__(
        self,
        job: Job,
        number: int,
        before: int,
        part: torch.Tensor | None,
        out: torch.Tensor | None,
        residual: torch.Tensor | None,
        carry: torch.Tensor | None,
    ) -> None:
        """As `Bulk`. `before`: what the readers' words have to say before the slot is written."""
        self.word.fill_(number << 32)
        self.before.fill_(before << 32)
        tensors = part, out, residual, carry
        key = (job, *(None if t is None else (t.data_ptr(), t.stride(0), t.dtype) for t in tensors))
        graph = self.graphs.get(key)
        if graph is not None:
            graph.replay()
            return
        self._enqueue(job, *tensors)
        if self.rank.memory.aborted:  # nobody waits: capturing stops the whole GPU for a moment
            self.graphs[key] = graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
                self._enqueue(job, *tensors)

    def _enqueue(
        self,
        job: Job,
        part: torch.Tensor | None,
        out: torch.Tensor | None,
        residual: torch.Tensor | None,
        carry: torch.Tensor | None,
    ) -> None:
        compute, mine = torch.cuda.current_stream(), self.rank.device
        rows = piece_rows(job)
        pieces = list(pairwise([*range(0, job.rows, rows), job.rows]))
        if part is not None:
            sent, width = self._buffer(job, mine), job.wide[job.devices.index(mine)]
            if job.readers:
                self._wait(self.rank.at(job.pulled), LINE_BYTES, self.before, job.readers, reached=True)
            for i, (first, end) in enumerate(pieces):
                pack_kernel[end - first, triton.cdiv(width, BLOCK)](
                    part, row_stride(part), carry, row_stride(carry), sent, width, first, BLOCK=BLOCK
                )
                if job.consumers != (mine,):
                    self.push.wait_stream(compute)
                    with torch.cuda.stream(self.push):
                        self._slot(job, mine)[first:end].copy_(sent[first:end], non_blocking=True)
                        self._say(job.flags + mine * job.flag_step + i * LINE_BYTES)
        if out is not None:
            self._collect(job, pieces, out, residual)
            compute.wait_stream(self.pull)
        if part is not None and job.consumers != (mine,):
            compute.wait_stream(self.push)

    def _collect(
        self, job: Job, pieces: list[tuple[int, int]], out: torch.Tensor, residual: torch.Tensor | None
    ) -> None:
        compute = torch.cuda.current_stream()
        peers = tuple(d for d in job.devices if d != self.rank.device)
        arrived = []
        for i, (first, end) in enumerate(pieces):
            if peers:
                self._wait(self.rank.at(job.flags + i * LINE_BYTES), job.flag_step, self.word, peers)
            self.pull.wait_stream(compute)
            with torch.cuda.stream(self.pull):
                for d in peers:
                    self._buffer(job, d)[first:end].copy_(self._slot(job, d)[first:end], non_blocking=True)
            arrived.append(self.pull.record_event())
            if i >= LAG:
                compute.wait_event(arrived[i - LAG])
                self._add(job, *pieces[i - LAG], out, residual)
        with torch.cuda.stream(self.pull):
            self._say(job.pulled + self.rank.device * LINE_BYTES)
        for piece, event in list(zip(pieces, arrived))[-LAG:]:
            compute.wait_event(event)
            self._add(job, *piece, out, residual)

    def _add(self, job: Job, first: int, end: int, out: torch.Tensor, residual: torch.Tensor | None) -> None:
        parts = [self._buffer(job, d) for d in job.devices]
        start = 0
        for group in [[part] for part in parts] if job.concat else [parts]:
            width = group[0].shape[1]
            add_kernel[end - first, triton.cdiv(width, BLOCK)](
                tuple(group), out, row_stride(out), residual, row_stride(residual), width, start, first,
                COUNT=len(group), BLOCK=BLOCK,
            )  # fmt: skip
            start += width

    def _wait(self, flags: int, step: int, word: torch.Tensor, devices: tuple[int, ...], reached: bool = False) -> None:
        r = self.rank
        wait, constraints = wait_flags_asm(devices, reached)
        wait_kernel[(1,)](
            flags, step, word, r.abort, r.trouble, r.limit_ms, WAIT=wait, CONSTRAINTS=constraints, num_warps=1
        )

    def _say(self, offset: int) -> None:
        """The number into a word of host memory, after what was copied before it on this stream."""
        self.host[offset : offset + 8].view(torch.int64).copy_(self.word, non_blocking=True)

    def _slot(self, job: Job, device: int) -> torch.Tensor:
        """[rows, width] in host memory."""
        begin, width = job.data + device * job.data_step, job.wide[job.devices.index(device)]
        values = self.host[begin : begin + job.rows * width * job.wire.itemsize].view(job.wire)
        return values.view(job.rows, width)

    def _buffer(self, job: Job, device: int) -> torch.Tensor:
        """[rows, width] on this GPU: what was sent, or came from a peer; made while devices warm up, and kept."""
        width = job.wide[job.devices.index(device)]
        need = job.rows * width * job.wire.itemsize
        if device not in self.buffers or self.buffers[device].numel() < need:
            self.buffers[device] = torch.empty(need, dtype=torch.uint8, device=self.word.device)
            self.graphs.clear()
        return self.buffers[device][:need].view(job.wire).view(job.rows, width)


def piece_rows(job: Job) -> int:
    """Rows of a piece: whatever device asks."""
    return max(1, PIECE_BYTES * len(job.wide) // (sum(job.wide) * job.wire.itemsize))


def suits(wide: tuple[int, ...], rows: int, wire: torch.dtype) -> bool:
    """Whether parts are large enough for copies."""
    return rows * sum(wide) * wire.itemsize >= LEAST_BYTES * len(wide)
