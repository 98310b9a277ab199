"""Tapes run on threads as a device runs them, poisoned outputs, and what counts as close: for the kernels' tests."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from tpplan.kernels import staging, tape

LANES = (1, 2, 3)
GUARD = 32
NO_ABORT = torch.zeros(1, dtype=torch.int64)
Instructions = list[tuple[int, ...]]


def run_lanes(
    instructions: Instructions, state: tuple[int, int, int], lanes: int = 1, limit_s: float = 20.0, abort: int = 0
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Outcome of each lane, when each step ended, trouble of each lane. state: position, rows, collective base."""
    program, words = tape.table(instructions), np.array(state, dtype=np.int64)
    arrived, trouble = np.zeros((lanes, 8), dtype=np.int64), np.full((lanes, 3), -1, dtype=np.int64)
    ends_ns = np.zeros(len(program), dtype=np.int64)
    abort = abort or NO_ABORT.data_ptr()
    deadline_ns = time.monotonic_ns() + int(limit_s * 1e9)

    def run(lane: int) -> int:
        return tape.run(program, 0, len(program), words, arrived, lane, abort, deadline_ns, ends_ns, trouble[lane])

    with ThreadPoolExecutor(lanes) as threads:
        return list(threads.map(run, range(lanes))), ends_ns, trouble


def run_one(instruction: tuple[int, ...], lanes: int = 1, position: int = 0, rows: int = 1) -> None:
    """Runs one instruction on `lanes` threads; all of them must come through."""
    outcomes, _, _ = run_lanes([instruction], (position, rows, 0), lanes)
    assert outcomes == [staging.ARRIVED] * lanes


def poisoned(*shape: int) -> torch.Tensor:
    """An output full of NaN, with NaN before and after it that `assert_guarded` finds again."""
    count = int(np.prod(shape))
    return torch.full((GUARD + count + GUARD,), torch.nan)[GUARD : GUARD + count].view(shape)


def assert_guarded(out: torch.Tensor) -> None:
    """Nothing was written beside a `poisoned` output."""
    whole = torch.tensor([], dtype=out.dtype).set_(out.untyped_storage())
    assert torch.cat((whole[:GUARD], whole[-GUARD:])).isnan().all()


def assert_as_close(got: torch.Tensor, exact: torch.Tensor, plain: torch.Tensor) -> None:
    """`got` is at most twice as far from the float64 result as plain torch in float32, a few roundings aside."""
    assert got.shape == exact.shape
    rounding = 4 * torch.finfo(torch.float32).eps * float(exact.abs().max())
    error, allowed = (got.double() - exact).abs().max(), 2 * (plain.double() - exact).abs().max() + rounding
    assert error <= allowed, f"off by {error:.3g}, allowed {allowed:.3g}"


def seeded(*values: int) -> torch.Generator:
    """A generator of random numbers for one case of a test."""
    return torch.Generator().manual_seed(hash(values) % 2**32)
