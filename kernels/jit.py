"""What the CPU kernels need of numba: one compile setting, raw views, atomic words, a clock.

Knows nothing of models. Compiled code is cached per content of this folder, so an edited kernel is never served stale.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _cache_folder() -> Path | None:
    """`~/.cache/tpplan/<hash of the kernels>`: numba itself only notices edits of the file that holds the caller.

    None for a user without a place to write: every start compiles anew then.
    """
    sources = b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "tpplan" / hashlib.sha256(sources).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home
        return None
    return folder if os.access(folder, os.W_OK) else None


numba.config.CACHE_DIR = numba.config.CACHE_DIR or str(_cache_folder() or "")
CACHED = bool(numba.config.CACHE_DIR)

# Reductions may be reordered (for vector units); NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles `function` once, to run without Python's global lock."""
    return numba.njit(nogil=True, fastmath=FAST, boundscheck=False, cache=CACHED)(function)


sched_yield = types.ExternalFunction("sched_yield", types.int32())


def _view(typingctx: Any, address: Any, dtype: Any) -> Any:
    pointer = types.CPointer(dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.int64), codegen


@intrinsic
def f32(typingctx, address):  # type: ignore[no-untyped-def]
    """Address (int64) as a pointer to float32, for `numba.carray`."""
    return _view(typingctx, address, types.float32)


@intrinsic
def u32(typingctx, address):  # type: ignore[no-untyped-def]
    """Address (int64) as a pointer to uint32: float32 values as their bits."""
    return _view(typingctx, address, types.uint32)


@intrinsic
def u16(typingctx, address):  # type: ignore[no-untyped-def]
    """Address (int64) as a pointer to uint16: bfloat16 words."""
    return _view(typingctx, address, types.uint16)


@intrinsic
def u8(typingctx, address):  # type: ignore[no-untyped-def]
    """Address (int64) as a pointer to uint8: codes of quantised weights."""
    return _view(typingctx, address, types.uint8)


@intrinsic
def i8(typingctx, address):  # type: ignore[no-untyped-def]
    """Address (int64) as a pointer to int8."""
    return _view(typingctx, address, types.int8)


@intrinsic
def i32(typingctx, address):  # type: ignore[no-untyped-def]
    """Address (int64) as a pointer to int32."""
    return _view(typingctx, address, types.int32)


@intrinsic
def i64(typingctx, address):  # type: ignore[no-untyped-def]
    """Address (int64) as a pointer to int64."""
    return _view(typingctx, address, types.int64)


@intrinsic
def load_acquire(typingctx, address):  # type: ignore[no-untyped-def]
    """The int64 word at `address`; later reads see what its writer wrote before it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def store_release(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Stores an int64 word at `address` after all earlier writes of this thread."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store_atomic(args[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def monotonic_ns(typingctx):  # type: ignore[no-untyped-def]
    """Nanoseconds of CLOCK_MONOTONIC, the clock of `time.perf_counter_ns` on Linux."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, clock = ir.IntType(64), ir.IntType(32)
        timespec = cgutils.alloca_once(builder, word, size=2)
        kind = ir.FunctionType(clock, [clock, word.as_pointer()])
        call = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(call, [ir.Constant(clock, 1), timespec])
        seconds = builder.load(timespec)
        nanos = builder.load(builder.gep(timespec, [ir.Constant(clock, 1)]))
        return builder.add(builder.mul(seconds, ir.Constant(word, 1_000_000_000)), nanos)

    return types.int64(), codegen
