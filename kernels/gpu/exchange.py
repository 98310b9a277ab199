"""Small exchanges (decode, up to 16 rows): parts through host memory in one kernel, in cells that carry their epoch.

    rank = Rank(memory, device=1, gpu=0)                  # device: number in the plan; gpu: CUDA index
    exchange = Exchange(site, rank)  # binds; `exchange.programs` is the width of `squares`
    exchange(control, part=part, out=hidden, residual=hidden, weight=norm_weight, scaled=scaled, squares=squares)

The device pushes if it is a producer of the site and pulls if it is a consumer; nothing else chooses. A kernel adds
`carry` to `part`, rounds to the wire type, pushes; then polls all peers together, adds the parts in producer order in
float32 (its own as rounded), adds `residual`, writes `out`, and if asked `scaled` = out * weight and one partial sum
of squares a program. `residual` may be `out`. control: int32, [0] position, [1] epoch. The next kernel may begin while
this one waits for peers, once all of its programs run: so it never takes the room of one that has to push.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .host_memory import Rank
from .launch import options, row_stride, wait
from .payloads import TL_TYPES, finish, load_cells, pack_cells, unpack
from .slots import CELL_BYTES, PAYLOADS, Site, row_cells, values_per_payload
from .waiting import push_cells, wait_cells_asm

BLOCK_CELLS = 64  # one cell a thread: polls in flight are what counts


@triton.jit(
    do_not_specialize=[
        "part_stride", "carry_stride", "out_stride", "residual_stride", "scaled_stride", "base", "copy_cells",
        "slot_bytes", "row_cells", "first_cell", "width", "begin", "end", "abort", "trouble", "site", "limit_ms",
    ]
)  # fmt: skip
def sum_kernel(
    part, part_stride, carry, carry_stride, out, out_stride, residual, residual_stride, weight, scaled, scaled_stride,
    squares, control, base, copy_cells, slot_bytes, row_cells, first_cell, width, begin, end, abort, trouble, site,
    limit_ms, WAIT: tl.constexpr, CONSTRAINTS: tl.constexpr, PAYLOADS: tl.constexpr, PRODUCERS: tl.constexpr,
    OWN: tl.constexpr, PULLS: tl.constexpr, PUSHES: tl.constexpr, WIRE: tl.constexpr, VALUES: tl.constexpr,
    BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program (i, row): cells first_cell + i * BLOCK on, of the full width; pulls those of columns [begin, end)."""
    program, row = tl.program_id(0), tl.program_id(1)
    cell = first_cell + program * BLOCK + tl.arange(0, BLOCK)
    if scaled is not None:
        scale = load_cells(weight, 0, cell, begin, begin, end, VALUES)
    wait(OVERLAP)
    epoch = tl.load(control + 1)
    slot = base + (epoch & 1).to(tl.int64) * copy_cells * 16 + (row * row_cells + cell).to(tl.int64) * 16
    if OWN >= 0:
        values = load_cells(part, row * part_stride, cell, 0, 0, width, VALUES)
        if carry is not None:
            values = plus(values, load_cells(carry, row * carry_stride, cell, 0, 0, width, VALUES))
        own = pack_cells(values, WIRE, VALUES)
        if PUSHES:
            push_cells(slot + OWN * slot_bytes.to(tl.int64), own[0], own[1], own[2], epoch, cell < row_cells)
    if PULLS:
        if residual is not None:
            kept = load_cells(residual, row * residual_stride, cell, begin, begin, end, VALUES)
        if WAIT is not None:
            needed = (cell * (3 * VALUES) < end) & ((cell + 1) * (3 * VALUES) > begin)
            arrived = tl.inline_asm_elementwise(
                WAIT, CONSTRAINTS, [slot, slot_bytes.to(tl.int64), epoch, needed.to(tl.int32), abort, trouble,
                site << 8, limit_ms], dtype=PAYLOADS, is_pure=False, pack=1,
            )  # fmt: skip
        sums = tl.zeros([BLOCK], tl.float32)
        for j in tl.static_range(3):
            for p in tl.static_range(PRODUCERS):
                if p == OWN:
                    one, one_high = unpack(own[j], WIRE, VALUES)
                else:
                    one, one_high = unpack(arrived[3 * (p if (p < OWN or OWN < 0) else p - 1) + j], WIRE, VALUES)
                if p == 0:
                    total, total_high = one, one_high
                else:
                    total, total_high = total + one, total_high + one_high
            if residual is not None:
                total, total_high = total + kept[2 * j], total_high + kept[2 * j + 1]
            low_scale, high_scale = 0.0, 0.0
            if scaled is not None:
                low_scale, high_scale = scale[2 * j], scale[2 * j + 1]
            sums += finish(
                total, total_high, (cell * 3 + j) * VALUES, begin, begin, end, row, out, out_stride, low_scale,
                high_scale, scaled, scaled_stride, squares is not None, VALUES,
            )  # fmt: skip
        if squares is not None:
            tl.store(squares + row * tl.num_programs(0) + program, tl.sum(sums, 0))


@triton.jit
def plus(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5]


@triton.jit(
    do_not_specialize=[
        "part_stride", "carry_stride", "out_stride", "residual_stride", "scaled_stride", "base", "copy_cells", "abort",
        "trouble", "site", "limit_ms",
    ]
)  # fmt: skip
def concat_kernel(
    part, part_stride, carry, carry_stride, out, out_stride, residual, residual_stride, weight, scaled, scaled_stride,
    squares, control, base, copy_cells, abort, trouble, site, limit_ms,
    WAIT: tl.constexpr, CONSTRAINTS: tl.constexpr, WIDTHS: tl.constexpr, SLOT_CELLS: tl.constexpr, OWN: tl.constexpr,
    PULLS: tl.constexpr, PUSHES: tl.constexpr, WIRE: tl.constexpr, VALUES: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program (i, row): BLOCK cells of one producer's slice; a device that only pushes has programs for its own."""
    program, row = tl.program_id(0), tl.program_id(1)
    block, producer, width, start, slot_cells = program, 0, WIDTHS[0], 0, 0
    blocks, columns = 0, 0
    for k in tl.static_range(len(WIDTHS)):
        here = (WIDTHS[k] + 3 * VALUES * BLOCK - 1) // (3 * VALUES * BLOCK)
        if PULLS:
            if program >= blocks:
                block, producer, width, start, slot_cells = program - blocks, k, WIDTHS[k], columns, SLOT_CELLS[k]
        elif k == OWN:
            producer, width, start, slot_cells = k, WIDTHS[k], columns, SLOT_CELLS[k]
        blocks += here
        columns += WIDTHS[k]
    row_cells = (width + 3 * VALUES - 1) // (3 * VALUES)
    cell = block * BLOCK + tl.arange(0, BLOCK)
    if scaled is not None:
        scale = load_cells(weight, start, cell, 0, 0, width, VALUES)
    wait(OVERLAP)
    epoch = tl.load(control + 1)
    at = (slot_cells + row * row_cells + cell).to(tl.int64) * 16
    slot = base + (epoch & 1).to(tl.int64) * copy_cells * 16 + at
    own = producer == OWN
    first, second, third = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    if OWN >= 0:
        mine = tl.where(own, width, 0)
        values = load_cells(part, row * part_stride, cell, 0, 0, mine, VALUES)
        if carry is not None:
            values = plus(values, load_cells(carry, row * carry_stride, cell, 0, 0, mine, VALUES))
        first, second, third = pack_cells(values, WIRE, VALUES)
        if PUSHES:
            push_cells(slot, first, second, third, epoch, (cell < row_cells) & own)
    if PULLS:
        if residual is not None:
            kept = load_cells(residual, row * residual_stride + start, cell, 0, 0, width, VALUES)
        if WAIT is not None:
            needed = ((cell < row_cells) & (producer != OWN)).to(tl.int32)
            arrived = tl.inline_asm_elementwise(
                WAIT, CONSTRAINTS, [slot, slot, epoch, needed, abort, trouble, (site << 8) | producer, limit_ms],
                dtype=(tl.int32, tl.int32, tl.int32), is_pure=False, pack=1,
            )  # fmt: skip
            first = tl.where(own, first, arrived[0])
            second = tl.where(own, second, arrived[1])
            third = tl.where(own, third, arrived[2])
        payloads = (first, second, third)
        sums = tl.zeros([BLOCK], tl.float32)
        for j in tl.static_range(3):
            total, total_high = unpack(payloads[j], WIRE, VALUES)
            if residual is not None:
                total, total_high = total + kept[2 * j], total_high + kept[2 * j + 1]
            low_scale, high_scale = 0.0, 0.0
            if scaled is not None:
                low_scale, high_scale = scale[2 * j], scale[2 * j + 1]
            sums += finish(
                total, total_high, (cell * 3 + j) * VALUES, -start, 0, width, row, out, out_stride, low_scale,
                high_scale, scaled, scaled_stride, squares is not None, VALUES,
            )  # fmt: skip
        if squares is not None:
            tl.store(squares + row * tl.num_programs(0) + program, tl.sum(sums, 0))


class Exchange:
    """One call-site bound to one GPU device: precomputed addresses and constants, then calls that only launch.

    `programs` is how many partial sums a row `squares` [rows, programs] has; 0 for a device that only pushes.
    """

    def __init__(self, site: Site, rank: Rank, block_cells: int = BLOCK_CELLS) -> None:
        self.site, self.rank, self.block = site, rank, block_cells
        self.own = site.producers.index(rank.device) if rank.device in site.producers else -1
        self.pulls = rank.device in site.consumers
        assert self.pulls or self.own >= 0, "this device has no part in the exchange"
        self.pushes = self.own >= 0 and site.consumers != (rank.device,)
        self.values = values_per_payload(site.wire)
        self.begin, self.end = site.span(rank.device) if self.pulls else (0, 0)
        assert site.combine == "sum" or (self.begin, self.end) in ((0, sum(site.widths)), (0, 0)), "concat is whole"
        peers = tuple(p for p in range(len(site.producers)) if p != self.own)
        self.wait, self.constraints, self.payloads = None, None, None
        if self.pulls and peers:
            waited = peers if site.combine == "sum" else (0,)
            self.wait, self.constraints = wait_cells_asm(waited)
            self.payloads = (tl.int32,) * (3 * len(waited))
        self.grid_blocks = self._blocks()
        self.programs = self.grid_blocks if self.pulls else 0

    def _blocks(self) -> int:
        """Programs a row."""
        wire, site = self.site.wire, self.site
        if site.combine == "sum":
            whole = self.own >= 0
            last = row_cells(site.widths[0] if whole else self.end, wire)
            return triton.cdiv(last - self._first_cell(), self.block)
        mine = site.widths if self.pulls else (site.widths[self.own],)
        return sum(triton.cdiv(row_cells(width, wire), self.block) for width in mine)

    def _first_cell(self) -> int:
        """Of a sum: a producer has all, who only pulls has what holds its columns."""
        return 0 if self.own >= 0 else self.begin // (PAYLOADS * self.values)

    def __call__(
        self,
        control: torch.Tensor,
        part: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        carry: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
        scaled: torch.Tensor | None = None,
        squares: torch.Tensor | None = None,
        rows: int = 1,
    ) -> None:
        """part, carry: [rows, own width]; out, residual, scaled: [rows, columns of the span]; weight: [columns]."""
        assert (part is not None) == (self.own >= 0), "a producer, and nobody else, has a part"
        assert (out is not None) == self.pulls, "a consumer, and nobody else, has an output"
        assert rows <= self.site.rows, "more rows than the slots have"
        assert (scaled is None) == (weight is None), "scaled = out * weight"
        tensors: tuple[object, ...] = (
            part,
            row_stride(part),
            carry,
            row_stride(carry),
            out,
            row_stride(out),
            residual,
            row_stride(residual),
        )
        tensors += (weight, scaled, row_stride(scaled), squares, control)
        (self._sum if self.site.combine == "sum" else self._concat)(tensors, rows, options(control))

    def _sum(self, tensors: tuple[object, ...], rows: int, launch: dict[str, bool]) -> None:
        s, r = self.site, self.rank
        slot_bytes = CELL_BYTES * (s.copy_cells // len(s.producers))
        sum_kernel[(self.grid_blocks, rows)](
            *tensors, r.at(s.offset), s.copy_cells, slot_bytes, row_cells(s.widths[0], s.wire), self._first_cell(),
            s.widths[0], self.begin, self.end, r.abort, r.trouble, s.number, r.limit_ms,
            WAIT=self.wait, CONSTRAINTS=self.constraints, PAYLOADS=self.payloads, PRODUCERS=len(s.producers),
            OWN=self.own, PULLS=self.pulls, PUSHES=self.pushes, WIRE=TL_TYPES[s.wire], VALUES=self.values,
            BLOCK=self.block, **launch, num_warps=self.block // 32,
        )  # fmt: skip

    def _concat(self, tensors: tuple[object, ...], rows: int, launch: dict[str, bool]) -> None:
        s, r = self.site, self.rank
        concat_kernel[(self.grid_blocks, rows)](
            *tensors, r.at(s.offset), s.copy_cells, r.abort, r.trouble, s.number, r.limit_ms,
            WAIT=self.wait, CONSTRAINTS=self.constraints, WIDTHS=s.widths, SLOT_CELLS=s.slot_cells, OWN=self.own,
            PULLS=self.pulls, PUSHES=self.pushes, WIRE=TL_TYPES[s.wire], VALUES=self.values, BLOCK=self.block,
            **launch, num_warps=self.block // 32,
        )  # fmt: skip
