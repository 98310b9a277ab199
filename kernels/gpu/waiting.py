"""The inline PTX of the collectives: stores that others see at once, and bounded waits for what others store.

A word is 8 bytes (4 of payload, then an epoch), a cell 16 (12 of payload, then an epoch); either is written by one store
and read by one load. Every thread waits for its own, with all its loads in flight, and repeats no load of what has come.
While cells are missing, one thread of a warp asks for its own in the name of all: over a bus that ranks share, the
polls of all threads would fill it.
A wait that fails gives 0 for what it waited for: it ends by `abort`, or by the deadline, which sets abort itself
after writing what was missing into the trouble word: epoch << 32 | 1 << 31 | site << 8 | producer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import triton
import triton.language as tl

POLLS_BETWEEN_CHECKS = 64  # a poll is a round trip over the bus, about a microsecond
WATCH = 1

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
.reg .b64 word;
mov.b64 word, {$2, $3};
fence.acq_rel.sys;
st.relaxed.sys.global.b64 [$1], word;
mov.b32 $0, 0;
}""")


@cache
def wait_asm(
    producers: Sequence[int], reached: bool = False, acquire: bool = False, words: bool = False
) -> tuple[str, str]:
    """PTX and constraints of one thread's wait for the same word of each of `producers` (places among all producers).

    Inputs: address of the word of producer 0, bytes to the next producer's, epoch, 0 to skip, abort address, trouble
    address, call-site << 8 (| producer, where `producers` is (0,) for any one), limit in ms. Outputs: the payloads.
    `reached`: an epoch at least as late will do. `acquire`: what the producer wrote before its word is seen too.
    `words`: `producers` are several words of one producer.
    """
    n = len(producers)
    base, stride, epoch, need, abort, trouble, site, limit = (f"${n + i}" for i in range(8))
    order = "acquire" if acquire else "relaxed"
    lines = ["{", ".reg .pred waiting, again;", ".reg .b32 polls, stop;", ".reg .b64 now, begun, late, limit_ns;"]
    for k, producer in enumerate(producers):
        lines += [f".reg .b64 at{k}, word{k};", f".reg .b32 value{k}, flag{k};", f"mov.b32 value{k}, 0;"]
        lines += [f"mad.lo.s64 at{k}, {stride}, {producer}, {base};"]
    lines += [f".reg .pred missing{k};" for k in range(n)] + [f"setp.ne.s32 missing{k}, {need}, 0;" for k in range(n)]
    lines += ["mov.b32 polls, 0;", "mov.b64 begun, 0;", f"setp.eq.s32 again, {need}, 0;", "@again bra DONE;", "AGAIN:"]
    lines += [f"@missing{k} ld.{order}.sys.global.b64 word{k}, [at{k}];" for k in range(n)]
    for k in range(n):
        lines += [f"mov.b64 {{value{k}, flag{k}}}, word{k};"]
        if reached:
            lines += [f"sub.s32 flag{k}, flag{k}, {epoch};"]
        test, against = ("lt.s32", "0") if reached else ("ne.b32", epoch)
        lines += [f"setp.{test} missing{k}, flag{k}, {against};"]
    lines += ["mov.pred waiting, missing0;", *(f"or.pred waiting, waiting, missing{k};" for k in range(1, n))]
    lines += ["@!waiting bra DONE;", "add.u32 polls, polls, 1;"]
    lines += [f"and.b32 stop, polls, {POLLS_BETWEEN_CHECKS - 1};", "setp.ne.u32 again, stop, 0;", "@again bra AGAIN;"]
    lines += [f"ld.relaxed.sys.global.b32 stop, [{abort}];", "setp.ne.u32 again, stop, 0;", "@again bra FAILED;"]
    lines += ["mov.u64 now, %globaltimer;", f"setp.eq.u32 again, polls, {POLLS_BETWEEN_CHECKS};"]
    lines += ["@again mov.b64 begun, now;", "sub.u64 now, now, begun;", f"cvt.s64.s32 limit_ns, {limit};"]
    lines += ["mul.lo.s64 limit_ns, limit_ns, 1000000;", "setp.lt.u64 again, now, limit_ns;", "@again bra AGAIN;"]
    lines += [f"or.b32 stop, {site}, 0x80000000;"]
    for k in reversed(range(n)):  # the first that is missing has the last word
        lines += [f"@missing{k} or.b32 stop, {site}, {(0 if words else producers[k]) | 1 << 31};"]
    lines += [f"mov.b64 late, {{stop, {epoch}}};", f"st.relaxed.sys.global.b64 [{trouble}], late;"]
    lines += ["mov.b32 stop, 1;", f"st.relaxed.sys.global.b32 [{abort}], stop;", "FAILED:"]
    lines += [f"mov.b32 value{k}, 0;" for k in range(n)]
    lines += ["DONE:", *(f"mov.b32 ${k}, value{k};" for k in range(n)), "}"]
    return "\n".join(lines), ",".join(["=r"] * n + ["l", "l", "r", "r", "l", "l", "r", "r"])


@cache
def wait_cells_asm(producers: Sequence[int], watch: int = WATCH) -> tuple[str, str]:
    """PTX and constraints of one thread's wait for the same cell of each of `producers` (places among all producers).

    Inputs: as `wait_asm`'s, of cells. Outputs: three payloads for each of `producers`. All threads of a warp take part.
    """
    n = len(producers)
    base, stride, epoch, need, abort, trouble, site, limit = (f"${3 * n + i}" for i in range(8))
    lines = ["{", ".reg .pred waiting, again, leads, failed;", ".reg .b32 polls, stop, flag, lane, who;"]
    lines += [".reg .b64 now, begun, late, limit_ns, low, high;", ".reg .b128 " + ", ".join(f"cell{k}" for k in range(n)) + ";"]
    for k, producer in enumerate(producers):
        lines += [f".reg .b64 at{k};", f".reg .pred missing{k};", f"mad.lo.s64 at{k}, {stride}, {producer}, {base};"]
        lines += [f"setp.ne.s32 missing{k}, {need}, 0;", *(f"mov.b32 ${3 * k + i}, 0;" for i in range(3))]
    poll = [f"@missing{k} ld.relaxed.sys.global.b128 cell{k}, [at{k}];" for k in range(n)]
    for k in range(n):
        a, b, c = (f"${3 * k + i}" for i in range(3))
        poll += [f"@!missing{k} bra HAVE{k}_@;", f"mov.b128 {{low, high}}, cell{k};", f"mov.b64 {{{a}, {b}}}, low;"]
        poll += [f"mov.b64 {{{c}, flag}}, high;", f"setp.ne.b32 missing{k}, flag, {epoch};", f"HAVE{k}_@:"]
    poll += ["mov.pred waiting, missing0;", *(f"or.pred waiting, waiting, missing{k};" for k in range(1, n))]
    all_poll, one_polls = ([line.replace("@:", f"{name}:").replace("@;", f"{name};") for line in poll] for name in ("ALL", "ONE"))
    lines += ["mov.b32 polls, 0;", "mov.b64 begun, 0;", "mov.u32 lane, %laneid;", "setp.ne.s32 failed, 0, 0;"]
    lines += [f"setp.ne.s32 waiting, {need}, 0;"] + (["bra.uni ASK;"] if watch == 2 else [])
    lines += ["AGAIN:", *all_poll, "ASK:"]
    lines += ["vote.sync.any.pred again, waiting, 0xffffffff;", "@!again bra.uni DONE;"]
    if watch:
        lines += ["vote.sync.ballot.b32 who, waiting, 0xffffffff;", "brev.b32 who, who;", "clz.b32 who, who;"]
        lines += ["setp.eq.u32 leads, who, lane;", "@!leads bra TOLD;"]
    else:
        lines += ["@!waiting bra TOLD;"]
    lines += ["ONCE:", *one_polls, "@!waiting bra TOLD;", "add.u32 polls, polls, 1;"]
    lines += [f"and.b32 stop, polls, {POLLS_BETWEEN_CHECKS - 1};", "setp.ne.u32 again, stop, 0;", "@again bra ONCE;"]
    lines += [f"ld.relaxed.sys.global.b32 stop, [{abort}];", "setp.ne.u32 failed, stop, 0;", "@failed bra TOLD;"]
    lines += ["mov.u64 now, %globaltimer;", f"setp.eq.u32 again, polls, {POLLS_BETWEEN_CHECKS};"]
    lines += ["@again mov.b64 begun, now;", "sub.u64 now, now, begun;", f"cvt.s64.s32 limit_ns, {limit};"]
    lines += ["mul.lo.s64 limit_ns, limit_ns, 1000000;", "setp.lt.u64 again, now, limit_ns;", "@again bra ONCE;"]
    for k in reversed(range(n)):  # the first that is missing has the last word
        lines += [f"@missing{k} or.b32 stop, {site}, {producers[k] | 1 << 31};"]
    lines += [f"mov.b64 late, {{stop, {epoch}}};", f"st.relaxed.sys.global.b64 [{trouble}], late;"]
    lines += ["mov.b32 stop, 1;", f"st.relaxed.sys.global.b32 [{abort}], stop;", "setp.eq.s32 failed, 0, 0;"]
    lines += ["TOLD:", "bar.warp.sync 0xffffffff;", "vote.sync.any.pred again, failed, 0xffffffff;", "@!again bra.uni AGAIN;"]
    lines += [f"mov.b32 ${i}, 0;" for i in range(3 * n)]
    lines += ["DONE:", "}"]
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
    """One word, after everything that this program wrote."""
    tl.debug_barrier()
    tl.inline_asm_elementwise(SIGNAL_ASM, "=r,l,r,r", [address, payload, epoch], dtype=tl.int32, is_pure=False, pack=1)
