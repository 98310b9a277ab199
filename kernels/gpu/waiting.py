"""The inline PTX of the collectives: stores that others see at once, and bounded waits for what others store.

A word is 8 bytes (4 of payload, then an epoch), a cell 16 (12 of payload, then an epoch); either is written by one
store and read by one load. Every thread waits for its own cells and leaves at once when they are there: no barrier, all
its loads in flight, and no load repeated for what has come.
A wait that fails gives 0 for what it waited for: it ends by `abort`, or by the deadline, which sets abort itself
after writing what was missing into the trouble word: epoch << 32 | 1 << 31 | site << 8 | producer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import triton
import triton.language as tl

POLLS_BETWEEN_CHECKS = 64  # a poll is a round trip over the bus, about a microsecond

PUSH_ASM = tl.constexpr("""{
.reg .pred skip;
.reg .b64 word;
setp.eq.s32 skip, $4, 0;
mov.b64 word, {$2, $3};
@!skip st.relaxed.sys.global.b64 [$1], word;
mov.b32 $0, 0;
}""")
PUSH_CELL_ASM = tl.constexpr("""{
.reg .pred skip;
.reg .b64 low, high;
.reg .b128 cell;
setp.eq.s32 skip, $6, 0;
mov.b64 low, {$2, $3};
mov.b64 high, {$4, $5};
mov.b128 cell, {low, high};
@!skip st.relaxed.sys.global.b128 [$1], cell;
mov.b32 $0, 0;
}""")
SIGNAL_ASM = tl.constexpr("""{
.reg .pred other;
.reg .b32 thread;
.reg .b64 word;
mov.u32 thread, %tid.x;
setp.ne.u32 other, thread, 0;
@other bra SIGNALLED;
mov.b64 word, {$2, $3};
fence.acq_rel.sys;
st.relaxed.sys.global.b64 [$1], word;
SIGNALLED:
mov.b32 $0, 0;
}""")


def _bounds(
    site: str, epoch: str, abort: str, trouble: str, limit: str, names: Sequence[int], repeat: str
) -> list[str]:
    """Counts a poll that failed; goes to `repeat`, or on with `failed` set: aborted, or late, which it reports."""
    lines = ["add.u32 polls, polls, 1;", f"and.b32 stop, polls, {POLLS_BETWEEN_CHECKS - 1};"]
    lines += ["setp.ne.u32 again, stop, 0;", f"@again bra {repeat};", f"ld.relaxed.sys.global.b32 stop, [{abort}];"]
    lines += ["setp.ne.u32 failed, stop, 0;", "@failed bra TOLD;", "mov.u64 now, %globaltimer;"]
    lines += [f"setp.eq.u32 again, polls, {POLLS_BETWEEN_CHECKS};", "@again mov.b64 begun, now;"]
    lines += ["sub.u64 now, now, begun;", f"cvt.s64.s32 limit_ns, {limit};", "mul.lo.s64 limit_ns, limit_ns, 1000000;"]
    lines += ["setp.lt.u64 again, now, limit_ns;", f"@again bra {repeat};"]
    for k in reversed(range(len(names))):  # the first that is missing has the last word
        lines += [f"@missing{k} or.b32 stop, {site}, {names[k] | 1 << 31};"]
    lines += [f"mov.b64 late, {{stop, {epoch}}};", f"st.relaxed.sys.global.b64 [{trouble}], late;"]
    return [*lines, "mov.b32 stop, 1;", f"st.relaxed.sys.global.b32 [{abort}], stop;", "setp.eq.s32 failed, 0, 0;"]


_REGISTERS = [
    ".reg .pred waiting, again, failed;",
    ".reg .b32 polls, stop, flag;",
    ".reg .b64 now, begun, late, limit_ns;",
    "mov.b32 polls, 0;",
    "mov.b64 begun, 0;",
    "setp.ne.s32 failed, 0, 0;",
]


def _any_missing(count: int) -> list[str]:
    return ["mov.pred waiting, missing0;", *(f"or.pred waiting, waiting, missing{k};" for k in range(1, count))]


@cache
def wait_flags_asm(producers: Sequence[int], reached: bool = False) -> tuple[str, str]:
    """PTX and constraints of a program's wait for a word of each of `producers`; its first thread waits, so a barrier
    has to follow. What they wrote before their words is then seen.

    Inputs: address of the word of producer 0, bytes to the next producer's, epoch, abort address, trouble address,
    call-site << 8, limit in ms. Output: nothing of use. `reached`: an epoch at least as late will do.
    """
    base, stride, epoch, abort, trouble, site, limit = (f"${1 + i}" for i in range(7))
    lines = ["{", *_REGISTERS, ".reg .b32 thread, payload;"]
    lines += ["mov.u32 thread, %tid.x;", "setp.ne.u32 again, thread, 0;", "@again bra TOLD;"]
    for k, producer in enumerate(producers):
        lines += [f".reg .b64 at{k}, word{k};", f".reg .pred missing{k};", f"setp.eq.s32 missing{k}, 0, 0;"]
        lines += [f"mad.lo.s64 at{k}, {stride}, {producer}, {base};"]
    lines += ["AGAIN:", *(f"@missing{k} ld.acquire.sys.global.b64 word{k}, [at{k}];" for k in range(len(producers)))]
    for k in range(len(producers)):
        lines += [f"mov.b64 {{payload, flag}}, word{k};"]
        lines += [f"sub.s32 flag, flag, {epoch};", f"setp.{'lt' if reached else 'ne'}.s32 missing{k}, flag, 0;"]
    lines += [*_any_missing(len(producers)), "@!waiting bra TOLD;"]
    lines += _bounds(site, epoch, abort, trouble, limit, producers, "AGAIN")
    lines += ["TOLD:", "mov.b32 $0, 0;", "}"]
    return "\n".join(lines), "=r,l,l,r,l,l,r,r"


@cache
def wait_cells_asm(producers: Sequence[int]) -> tuple[str, str]:
    """PTX and constraints of one thread's wait for the same cell of each of `producers` (places among all producers).

    Inputs: address of the cell of producer 0, bytes to the next producer's, epoch, 0 to skip, abort address, trouble
    address, call-site << 8 (| producer, where `producers` is (0,) for any one), limit in ms. Outputs: three payloads
    for each of `producers`.
    """
    n = len(producers)
    base, stride, epoch, need, abort, trouble, site, limit = (f"${3 * n + i}" for i in range(8))
    lines = ["{", *_REGISTERS, ".reg .b64 low, high;"]
    for k, producer in enumerate(producers):
        lines += [f".reg .b64 at{k};", f".reg .b128 cell{k};", f".reg .pred missing{k};"]
        lines += [f"mad.lo.s64 at{k}, {stride}, {producer}, {base};", f"setp.ne.s32 missing{k}, {need}, 0;"]
        lines += [f"mov.b32 ${3 * k + i}, 0;" for i in range(3)]
    lines += [f"setp.eq.s32 again, {need}, 0;", "@again bra DONE;", "AGAIN:"]
    lines += [f"@missing{k} ld.relaxed.sys.global.b128 cell{k}, [at{k}];" for k in range(n)]
    for k in range(n):
        first, second, third = (f"${3 * k + i}" for i in range(3))
        lines += [f"@!missing{k} bra HAVE{k};", f"mov.b128 {{low, high}}, cell{k};"]
        lines += [f"mov.b64 {{{first}, {second}}}, low;", f"mov.b64 {{{third}, flag}}, high;"]
        lines += [f"setp.ne.b32 missing{k}, flag, {epoch};", f"HAVE{k}:"]
    lines += [*_any_missing(n), "@!waiting bra DONE;"]
    lines += _bounds(site, epoch, abort, trouble, limit, producers, "AGAIN")
    lines += ["TOLD:", *(f"mov.b32 ${i}, 0;" for i in range(3 * n)), "DONE:", "}"]
    return "\n".join(lines), ",".join(["=&r"] * 3 * n + ["l", "l", "r", "r", "l", "l", "r", "r"])


@triton.jit
def push_words(address, payload, epoch, needed):
    """8-byte words (payload, epoch) to `address`, each store whole: [n] int64, int32, int32, int1."""
    tl.inline_asm_elementwise(
        PUSH_ASM, "=r,l,r,r,r", [address, payload, epoch, needed.to(tl.int32)], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def push_cells(address, first, second, third, epoch, needed):
    """16-byte cells (three payloads, epoch) to `address`, each store whole: [n] int64, int32, ..., int1."""
    tl.inline_asm_elementwise(
        PUSH_CELL_ASM, "=r,l,r,r,r,r,r", [address, first, second, third, epoch, needed.to(tl.int32)], dtype=tl.int32,
        is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def signal(address, payload, epoch):
    """One word by one thread, after everything that this program wrote."""
    tl.debug_barrier()
    tl.inline_asm_elementwise(SIGNAL_ASM, "=r,l,r,r", [address, payload, epoch], dtype=tl.int32, is_pure=False, pack=1)
