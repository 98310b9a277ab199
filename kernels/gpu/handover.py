"""From the head to the embedding: each head device's best logit, and the token that wins, without the host.

A site of one cell a head device: its payloads are the bits of the best logit, the token id and zero. Every consumer
picks the best itself (lowest id on ties; LAST_ID where one is NaN) and writes it into its `token` tensor and into
its ring in host memory, as a word (id, epoch), where the host reads tokens while the devices go on.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .host_memory import HostMemory, Layout, Rank
from .slots import Site, new_site
from .waiting import push_cells, push_words, wait_cells_asm

RESULTS = 64  # tokens that a device may be ahead of the host
LAST_ID = tl.constexpr(0x7FFFFFFF)  # stands for "the logits are not numbers"


def new_handover(layout: Layout, number: int, heads: tuple[int, ...], consumers: tuple[int, ...]) -> Site:
    """The call-site; consumers: whoever embeds, or wants to know the token."""
    return new_site(layout, number, dict.fromkeys(heads, 2), consumers, "concat", torch.float32)


def new_results(layout: Layout) -> int:
    """Offset of one consumer's ring of results."""
    return layout.reserve(8 * RESULTS)


def result(memory: HostMemory, results: int, epoch: int) -> int | None:
    """The token id of pass `epoch`, or None if it is not there (yet)."""
    word = int(memory.view(results, RESULTS)[epoch % RESULTS])
    return word & 0xFFFFFFFF if word >> 32 == epoch else None


@triton.jit(do_not_specialize=["base", "copy_cells", "results", "abort", "trouble", "site", "limit_ms"])
def handover_kernel(
    best_value, best_id, token, control, base, copy_cells, results, abort, trouble, site, limit_ms,
    WAIT: tl.constexpr, CONSTRAINTS: tl.constexpr, PRODUCERS: tl.constexpr, OWN: tl.constexpr, PULLS: tl.constexpr,
    PUSHES: tl.constexpr, SLOT_CELLS: tl.constexpr, RING: tl.constexpr,
):  # fmt: skip
    """One program of one warp: lane p is producer p."""
    lane = tl.arange(0, 32)
    epoch = tl.load(control + 1)
    slot = base + ((epoch & 1) * copy_cells + lane * SLOT_CELLS).to(tl.int64) * 16
    own = lane == OWN
    value, number = tl.zeros([32], tl.int32), tl.zeros([32], tl.int32)
    if OWN >= 0:
        value += tl.load(best_value).to(tl.float32).to(tl.int32, bitcast=True)
        number += tl.load(best_id).to(tl.int32)
        if PUSHES:
            push_cells(slot, value, number, lane * 0, epoch, own)
    if PULLS:
        member = lane < PRODUCERS
        if WAIT is not None:
            needed = (member & (lane != OWN)).to(tl.int32)
            arrived = tl.inline_asm_elementwise(
                WAIT, CONSTRAINTS, [slot, slot, epoch, needed, abort, trouble, (site << 8) | lane, limit_ms],
                dtype=(tl.int32, tl.int32, tl.int32), is_pure=False, pack=1,
            )  # fmt: skip
            value, number = tl.where(own, value, arrived[0]), tl.where(own, number, arrived[1])
        logit = value.to(tl.float32, bitcast=True)
        bad = member & (logit != logit)
        top = tl.max(tl.where(member & (logit == logit), logit, float("-inf")), 0)
        any_bad = tl.max(bad.to(tl.int32), 0)
        wins = member & (logit == top) & (any_bad == 0)
        best = tl.min(tl.where(wins, number, LAST_ID), 0)
        tl.store(token, best.to(tl.int64))
        if results != 0:
            ring = results + (epoch % RING).to(tl.int64) * 8 + lane.to(tl.int64) * 0
            push_words(ring, best + lane * 0, epoch, lane == 0)


class Handover:
    """The hand-over bound to one GPU device; `results`: offset of its ring of results, None for no ring."""

    def __init__(self, site: Site, rank: Rank, results: int | None = None) -> None:
        self.site, self.rank = site, rank
        self.own = site.producers.index(rank.device) if rank.device in site.producers else -1
        self.pulls = rank.device in site.consumers
        self.pushes = self.own >= 0 and site.consumers != (rank.device,)
        self.results = 0 if results is None else rank.at(results)
        alone = site.producers == (rank.device,)
        self.wait, self.constraints = (None, None) if alone or not self.pulls else wait_cells_asm((0,))

    def __call__(
        self,
        control: torch.Tensor,
        best_value: torch.Tensor | None = None,
        best_id: torch.Tensor | None = None,
        token: torch.Tensor | None = None,
    ) -> None:
        """best_value: [1] float32, best_id: [1] int64 of a head device; token: [1] int64 of a consumer."""
        s, r = self.site, self.rank
        handover_kernel[(1,)](
            best_value, best_id, token, control, r.at(s.offset), s.copy_cells, self.results, r.abort, r.trouble,
            s.number, r.limit_ms, WAIT=self.wait, CONSTRAINTS=self.constraints, PRODUCERS=len(s.producers),
            OWN=self.own, PULLS=self.pulls, PUSHES=self.pushes, SLOT_CELLS=s.copy_cells // len(s.producers),
            RING=RESULTS, num_warps=1,
        )  # fmt: skip


@triton.jit
def advance_kernel(control, rows):
    tl.store(control + 1, tl.load(control + 1) + 1)
    tl.store(control, tl.load(control) + rows)


def advance(control: torch.Tensor, rows: int = 0) -> None:
    """Next epoch, and position on by `rows`: once a pass, after its last exchange on this device."""
    advance_kernel[(1,)](control, rows, num_warps=1)
