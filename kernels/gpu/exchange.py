"""Small exchanges (decode, up to 16 rows): parts through host memory in one kernel, in words that carry their epoch.

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
from .payloads import TL_TYPES, finish, load, pack, unpack
from .slots import WORD_BYTES, Site, row_words, values_per_word
from .waiting import push_words, wait_asm

BLOCK_WORDS, WARPS = 128, 4  # one word a thread: polls in flight are what counts


@triton.jit(
    do_not_specialize=[
        "part_stride", "carry_stride", "out_stride", "residual_stride", "scaled_stride", "base", "copy_words",
        "slot_bytes", "row_words", "first_word", "width", "begin", "end", "abort", "trouble", "site", "limit_ms",
    ]
)  # fmt: skip
def sum_kernel(
    part, part_stride, carry, carry_stride, out, out_stride, residual, residual_stride, weight, scaled, scaled_stride,
    squares, control, base, copy_words, slot_bytes, row_words, first_word, width, begin, end, abort, trouble, site,
    limit_ms, WAIT: tl.constexpr, CONSTRAINTS: tl.constexpr, PAYLOADS: tl.constexpr, PRODUCERS: tl.constexpr,
    OWN: tl.constexpr, PULLS: tl.constexpr, PUSHES: tl.constexpr, WIRE: tl.constexpr, VALUES: tl.constexpr,
    BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program (i, row): words first_word + i * BLOCK on, of the full width; pulls those of columns [begin, end)."""
    program, row = tl.program_id(0), tl.program_id(1)
    word = first_word + program * BLOCK + tl.arange(0, BLOCK)
    column = word * VALUES
    inside, inside_high = (column >= begin) & (column < end), (column + 1 >= begin) & (column + 1 < end)
    at = column - begin
    scale, scale_high = 0.0, 0.0
    if scaled is not None:
        scale, scale_high = load(weight, at, inside, inside_high, VALUES)
    wait(OVERLAP)
    epoch = tl.load(control + 1)
    slot = base + (epoch & 1).to(tl.int64) * copy_words * 8 + (row * row_words + word).to(tl.int64) * 8
    payload = word
    if OWN >= 0:
        low, high = load(part, row * part_stride + column, column < width, column + 1 < width, VALUES)
        if carry is not None:
            more, more_high = load(carry, row * carry_stride + column, column < width, column + 1 < width, VALUES)
            low, high = low + more, high + more_high
        payload = pack(low, high, WIRE, VALUES)
        if PUSHES:
            push_words(slot + OWN * slot_bytes.to(tl.int64), payload, epoch, word < row_words)
    if PULLS:
        kept, kept_high = 0.0, 0.0
        if residual is not None:
            kept, kept_high = load(residual, row * residual_stride + at, inside, inside_high, VALUES)
        if WAIT is not None:
            arrived = tl.inline_asm_elementwise(
                WAIT, CONSTRAINTS, [slot, slot_bytes.to(tl.int64), epoch, inside.to(tl.int32), abort, trouble,
                site << 8, limit_ms], dtype=PAYLOADS, is_pure=False, pack=1,
            )  # fmt: skip
        for p in tl.static_range(PRODUCERS):
            if p == OWN:
                one, one_high = unpack(payload, WIRE, VALUES)
            else:
                one, one_high = unpack(arrived[p if (p < OWN or OWN < 0) else p - 1], WIRE, VALUES)
            if p == 0:
                total, total_high = one, one_high
            else:
                total, total_high = total + one, total_high + one_high
        if residual is not None:
            total, total_high = total + kept, total_high + kept_high
        finish(
            total, total_high, at, inside, inside_high, row, out, out_stride, scale, scale_high, scaled,
            scaled_stride, squares, program, tl.num_programs(0), VALUES,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "part_stride", "out_stride", "residual_stride", "scaled_stride", "base", "copy_words", "abort", "trouble",
        "site", "limit_ms",
    ]
)  # fmt: skip
def concat_kernel(
    part, part_stride, carry, carry_stride, out, out_stride, residual, residual_stride, weight, scaled, scaled_stride,
    squares, control, base, copy_words, abort, trouble, site, limit_ms,
    WAIT: tl.constexpr, CONSTRAINTS: tl.constexpr, WIDTHS: tl.constexpr, SLOT_WORDS: tl.constexpr, OWN: tl.constexpr,
    PULLS: tl.constexpr, PUSHES: tl.constexpr, WIRE: tl.constexpr, VALUES: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program (i, row): BLOCK words of one producer's slice; a device that only pushes has programs for its own."""
    program, row = tl.program_id(0), tl.program_id(1)
    block, producer, width, start, slot_words = program, 0, WIDTHS[0], 0, 0
    blocks, columns = 0, 0
    for k in tl.static_range(len(WIDTHS)):
        here = (WIDTHS[k] + VALUES * BLOCK - 1) // (VALUES * BLOCK)
        if PULLS:
            if program >= blocks:
                block, producer, width, start, slot_words = program - blocks, k, WIDTHS[k], columns, SLOT_WORDS[k]
        elif k == OWN:
            producer, width, start, slot_words = k, WIDTHS[k], columns, SLOT_WORDS[k]
        blocks += here
        columns += WIDTHS[k]
    row_words = (width + VALUES - 1) // VALUES
    word = block * BLOCK + tl.arange(0, BLOCK)
    column = word * VALUES
    target, inside, inside_high = start + column, column < width, column + 1 < width
    scale, scale_high = 0.0, 0.0
    if scaled is not None:
        scale, scale_high = load(weight, target, inside, inside_high, VALUES)
    wait(OVERLAP)
    epoch = tl.load(control + 1)
    at = (slot_words + row * row_words + word).to(tl.int64) * 8
    slot = base + (epoch & 1).to(tl.int64) * copy_words * 8 + at
    own = producer == OWN
    payload = tl.zeros([BLOCK], tl.int32)
    if OWN >= 0:
        low, high = load(part, row * part_stride + column, inside & own, inside_high & own, VALUES)
        if carry is not None:
            more, more_high = load(carry, row * carry_stride + column, inside & own, inside_high & own, VALUES)
            low, high = low + more, high + more_high
        payload = pack(low, high, WIRE, VALUES)
        if PUSHES:
            push_words(slot, payload, epoch, inside & own)
    if PULLS:
        kept, kept_high = 0.0, 0.0
        if residual is not None:
            kept, kept_high = load(residual, row * residual_stride + target, inside, inside_high, VALUES)
        if WAIT is not None:
            needed = (inside & (producer != OWN)).to(tl.int32)
            arrived = tl.inline_asm_elementwise(
                WAIT, CONSTRAINTS, [slot, slot, epoch, needed, abort, trouble, (site << 8) | producer, limit_ms],
                dtype=tl.int32, is_pure=False, pack=1,
            )  # fmt: skip
            payload = tl.where(own, payload, arrived)
        total, total_high = unpack(payload, WIRE, VALUES)
        if residual is not None:
            total, total_high = total + kept, total_high + kept_high
        finish(
            total, total_high, target, inside, inside_high, row, out, out_stride, scale, scale_high, scaled,
            scaled_stride, squares, program, tl.num_programs(0), VALUES,
        )  # fmt: skip


class Exchange:
    """One call-site bound to one GPU device: precomputed addresses and constants, then calls that only launch.

    `programs` is how many partial sums a row `squares` [rows, programs] has; 0 for a device that only pushes.
    """

    def __init__(self, site: Site, rank: Rank, block_words: int = BLOCK_WORDS) -> None:
        self.site, self.rank, self.block = site, rank, block_words
        self.own = site.producers.index(rank.device) if rank.device in site.producers else -1
        self.pulls = rank.device in site.consumers
        assert self.pulls or self.own >= 0, "this device has no part in the exchange"
        self.pushes = self.own >= 0 and site.consumers != (rank.device,)
        self.values = values_per_word(site.wire)
        self.begin, self.end = site.span(rank.device) if self.pulls else (0, 0)
        assert site.combine == "sum" or (self.begin, self.end) in ((0, sum(site.widths)), (0, 0)), "concat is whole"
        peers = tuple(p for p in range(len(site.producers)) if p != self.own)
        self.wait, self.constraints, self.payloads = None, None, None
        if self.pulls and peers:
            waited = peers if site.combine == "sum" else (0,)
            self.wait, self.constraints = wait_asm(waited)
            self.payloads = (tl.int32,) * len(waited)
        self.grid_blocks = self._blocks()
        self.programs = self.grid_blocks if self.pulls else 0

    def _blocks(self) -> int:
        """Programs a row."""
        wire, site = self.site.wire, self.site
        if site.combine == "sum":
            words = row_words(site.widths[0] if self.own >= 0 else self.end - self.begin, wire)
            return triton.cdiv(words, self.block)
        mine = site.widths if self.pulls else (site.widths[self.own],)
        return sum(triton.cdiv(row_words(width, wire), self.block) for width in mine)

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
        first_word = 0 if self.own >= 0 else self.begin // self.values
        slot_bytes = WORD_BYTES * (s.copy_words // len(s.producers))
        sum_kernel[(self.grid_blocks, rows)](
            *tensors, r.at(s.offset), s.copy_words, slot_bytes, row_words(s.widths[0], s.wire), first_word,
            s.widths[0], self.begin, self.end, r.abort, r.trouble, s.number, r.limit_ms,
            WAIT=self.wait, CONSTRAINTS=self.constraints, PAYLOADS=self.payloads, PRODUCERS=len(s.producers),
            OWN=self.own, PULLS=self.pulls, PUSHES=self.pushes, WIRE=TL_TYPES[s.wire], VALUES=self.values,
            BLOCK=self.block, **launch, num_warps=self.block // 32,
        )  # fmt: skip

    def _concat(self, tensors: tuple[object, ...], rows: int, launch: dict[str, bool]) -> None:
        s, r = self.site, self.rank
        concat_kernel[(self.grid_blocks, rows)](
            *tensors, r.at(s.offset), s.copy_words, r.abort, r.trouble, s.number, r.limit_ms,
            WAIT=self.wait, CONSTRAINTS=self.constraints, WIDTHS=s.widths, SLOT_WORDS=s.slot_words, OWN=self.own,
            PULLS=self.pulls, PUSHES=self.pushes, WIRE=TL_TYPES[s.wire], VALUES=self.values, BLOCK=self.block,
            **launch, num_warps=self.block // 32,
        )  # fmt: skip
