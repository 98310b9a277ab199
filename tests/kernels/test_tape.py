"""The tape itself: small steps, pushes and pulls on one device, sharing out, lanes in step, what it reports."""

from __future__ import annotations

import math
import struct
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from tapes import LANES, assert_guarded, poisoned, run_lanes, run_one, seeded

from tpplan.kernels import linear, staging, tape


def best_of(logits: torch.Tensor, begin: int = 0) -> tuple[int, float]:
    """Best id and its logit through the tape."""
    best_id, best = torch.full((1,), -1), poisoned(1)
    where = (logits.data_ptr(), len(logits), begin, best_id.data_ptr(), best.data_ptr())
    run_one((tape.ARGMAX, *where))
    return int(best_id), float(best)


@pytest.mark.parametrize("size", [1, 3, 17, 577])
def test_argmax_equals_torch(size: int) -> None:
    """The best id counts from the device's first vocabulary row."""
    logits = torch.randn(size, generator=seeded(size))
    assert best_of(logits, 1024) == (1024 + int(logits.argmax()), float(logits.max()))


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([1.0, 3.0, 3.0, 2.0, 3.0], 1),
        ([-5.0, -5.0], 0),
        ([-0.0, 0.0], 0),
        ([-math.inf, -math.inf, -(2.0**127)], 2),
        ([-math.inf, -math.inf], 0),
        ([0.0, math.inf, math.inf], 1),
    ],
)
def test_argmax_ties(logits: list[float], expected: int) -> None:
    """Of equal logits the lowest id wins, whatever they are."""
    assert best_of(torch.tensor(logits)) == (expected, logits[expected])


@pytest.mark.parametrize("at", [0, 1, 300, 576])
def test_argmax_finds_nan(at: int) -> None:
    """A NaN anywhere is reported, beside infinities too, so that damaged weights never pass for text."""
    logits = torch.randn(577, generator=seeded(at))
    logits[[5, 400]] = math.inf
    logits[at] = math.nan
    best_id, best = best_of(logits)
    assert (best_id, math.isnan(best)) == (at, True)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(("begin", "end"), [(0, 1), (0, 577), (560, 577), (100, 103)])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_residual(rows: int, begin: int, end: int, lanes: int) -> None:
    """The device's slice of each row of the hidden state is added in place, rounded once."""
    part, x = torch.randn(2, rows, 577, generator=seeded(rows, begin))
    out = poisoned(rows, end - begin)
    out.copy_(part[:, begin:end])
    run_one((tape.RESIDUAL, out.data_ptr(), x.data_ptr() + 4 * begin, end - begin, 577), lanes, rows=rows)
    assert torch.equal(out, (part + x)[:, begin:end])
    assert_guarded(out)


@pytest.mark.parametrize("how", [tape.SUM, tape.CONCAT])
@pytest.mark.parametrize("producers", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 17, 577])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_pull(rows: int, width: int, producers: int, how: int) -> None:
    """Parts that lie ready are summed in their order, or laid side by side in each row; the pull is then announced."""
    widths = [width + (p if how == tape.CONCAT else 0) for p in range(producers)]
    parts = [torch.randn(rows, w, generator=seeded(p, w)) for p, w in enumerate(widths)]
    words = torch.full((producers + 1, 8), 7)
    words[producers] = 0
    pushed = [0 if p == 1 else words[p].data_ptr() for p in range(producers)]  # the second part is the device's own
    table = np.array([(w, p.data_ptr(), p.shape[1]) for w, p in zip(pushed, parts, strict=True)], dtype=np.int64)
    expected = torch.cat(parts, dim=1) if how == tape.CONCAT else sum(parts[1:], parts[0])
    out = poisoned(*expected.shape)
    where = (out.data_ptr(), 2, table.ctypes.data, producers, how, words[producers].data_ptr(), out.shape[1])
    outcomes, _, _ = run_lanes([(tape.PULL, *where)], (0, rows, 5))
    assert outcomes == [staging.ARRIVED]
    assert torch.equal(out, expected)
    assert int(words[producers, 0]) == 7  # base 5, site 2
    assert_guarded(out)


@pytest.mark.parametrize("producers", [1, 2, 3])
@pytest.mark.parametrize(("begin", "end"), [(0, 577), (0, 32), (32, 33), (544, 577)])
@pytest.mark.parametrize("rows", [1, 7])
def test_pull_of_some_columns(rows: int, begin: int, end: int, producers: int) -> None:
    """A device may read some columns of wider rows: their sums are, bit for bit, those columns of the whole sum."""
    parts = [torch.randn(rows, 577, generator=seeded(p, rows)) for p in range(producers)]
    at = [(0, p.data_ptr() + 4 * begin, end - begin) for p in parts]
    table, word = np.array(at, dtype=np.int64), torch.zeros(1, dtype=torch.int64)
    out = poisoned(rows, end - begin)
    where = (out.data_ptr(), 0, table.ctypes.data, producers, tape.SUM, word.data_ptr(), end - begin, 577)
    run_one((tape.PULL, *where), rows=rows)
    assert torch.equal(out, sum(parts[1:], parts[0])[:, begin:end])
    assert_guarded(out)


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("width", [1, 17, 577])
def test_push(width: int, rows: int) -> None:
    """A push copies its part into the slot and announces its site above the base."""
    part, slot = torch.randn(rows, width, generator=seeded(rows, width)), poisoned(rows, width)
    word = torch.zeros(1, dtype=torch.int64)
    run_lanes([(tape.PUSH, part.data_ptr(), slot.data_ptr(), width, 3, word.data_ptr(), -1, 0, 0)], (0, rows, 40))
    assert torch.equal(slot, part)
    assert int(word) == 43
    assert_guarded(slot)


@pytest.mark.parametrize("grain", [1, 16, 64])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 63, 64, 65, 577, 4096])
@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 100])
def test_share_covers_everything_once(lanes: int, size: int, grain: int) -> None:
    """Lanes' parts follow each other without gap or overlap, begin at whole grains, and differ by one grain at most."""
    parts = [tape.share(size, grain, lane, lanes) for lane in range(lanes)]
    assert parts[0][0] == 0
    assert parts[-1][1] == size
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    assert all(begin % grain == 0 or begin == size for begin, _ in parts)
    grains = [math.ceil((end - begin) / grain) for begin, end in parts]
    assert max(grains) - min(grains) <= 1


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-5, 1e-6, 1.0, -2.5e300, math.inf])
def test_bits_keep_a_float(value: float) -> None:
    """A float travels in an int64 bit by bit."""
    assert struct.pack("<q", tape.bits(value)) == struct.pack("<d", value)


def test_table_pads_with_zeros() -> None:
    """Every instruction is a row of the table, from its first word on."""
    table = tape.table([(1, 2, 3), (4,)])
    assert table.shape == (2, tape.WIDTH)
    assert table.dtype == np.int64
    assert table[:, :4].tolist() == [[1, 2, 3, 0], [4, 0, 0, 0]]
    assert not table[:, 4:].any()


def chain(x: torch.Tensor, weights: list[torch.Tensor], buffers: list[torch.Tensor]) -> list[tuple[int, ...]]:
    """Products and residuals that each need the whole result of the one before."""
    instructions: list[tuple[int, ...]] = []
    for weight, buffer in zip(weights, buffers, strict=True):
        sizes = (len(weight), len(weight), linear.FORMATS[weight.dtype])
        instructions.append((tape.LINEAR, x.data_ptr(), weight.data_ptr(), 0, buffer.data_ptr(), *sizes))
        instructions.append((tape.RESIDUAL, buffer.data_ptr(), x.data_ptr(), len(weight), len(weight)))
        x = buffer
    return instructions


@pytest.mark.parametrize("lanes", [*LANES, 5])
def test_lanes_wait_for_each_other(lanes: int) -> None:
    """A chain of 400 dependent steps gives the same bits on any number of lanes: none runs ahead of another."""
    x = torch.randn(48, generator=seeded(0))
    weights = [torch.randn(48, 48, generator=seeded(i)) / 14 for i in range(200)]
    buffers, alone = ([poisoned(48) for _ in weights] for _ in range(2))
    outcomes, _, _ = run_lanes(chain(x, weights, buffers), (0, 1, 0), lanes)
    run_lanes(chain(x, weights, alone), (0, 1, 0))
    assert outcomes == [staging.ARRIVED] * lanes
    assert torch.equal(torch.stack(buffers), torch.stack(alone))
    assert torch.isfinite(buffers[-1]).all()


@pytest.mark.parametrize("lanes", LANES)
def test_ends_follow_the_clock(lanes: int) -> None:
    """Steps end one after the other, between the start and the end of the run on the monotonic clock."""
    x, weights = torch.randn(48), [torch.eye(48)] * 20
    buffers = [poisoned(48) for _ in weights]  # instructions hold addresses only
    started_ns = time.monotonic_ns()
    _, ends_ns, _ = run_lanes(chain(x, weights, buffers), (0, 1, 0), lanes)
    times_ns = [started_ns, *ends_ns.tolist(), time.monotonic_ns()]
    assert times_ns == sorted(times_ns)


def test_a_stretch_of_the_table() -> None:
    """Only the instructions from `begin` up to `end` run."""
    values, one = [poisoned(1).fill_(0) for _ in range(4)], torch.ones(1)
    table = tape.table([(tape.RESIDUAL, v.data_ptr(), one.data_ptr(), 1, 1) for v in values])
    words, arrived = np.array([0, 1, 0]), np.zeros((1, 8), dtype=np.int64)
    ends_ns, trouble = np.zeros(4, dtype=np.int64), np.zeros(3, dtype=np.int64)
    abort = torch.zeros(1, dtype=torch.int64)
    limit_ns = time.monotonic_ns() + 10**10
    assert tape.run(table, 1, 3, words, arrived, 0, abort.data_ptr(), limit_ns, ends_ns, trouble) == staging.ARRIVED
    assert [float(v) for v in values] == [0, 1, 1, 0]
    assert (ends_ns > 0).tolist() == [False, True, True, False]


@pytest.mark.parametrize("lanes", LANES)
def test_trouble_names_the_step(lanes: int) -> None:
    """When a peer never comes every lane gives up at the deadline and says at which step; the first says which peer."""
    x, out, never = torch.ones(4), poisoned(4), torch.zeros(1, dtype=torch.int64)
    parts = np.array([(0, x.data_ptr(), 4), (never.data_ptr(), x.data_ptr(), 4)], dtype=np.int64)
    mine = torch.zeros(1, dtype=torch.int64)
    pull = (tape.PULL, out.data_ptr(), 0, parts.ctypes.data, 2, tape.SUM, mine.data_ptr(), 4)
    steps = [(tape.RESIDUAL, out.data_ptr(), x.data_ptr(), 4, 4), pull]
    started = time.monotonic()
    outcomes, _, trouble = run_lanes(steps, (0, 1, 1), lanes, limit_s=0.1)
    assert 0.1 <= time.monotonic() - started < 5
    assert outcomes == [staging.TIMED_OUT] * lanes
    assert trouble[:, :2].tolist() == [[staging.TIMED_OUT, 1]] * lanes
    assert trouble[0, 2] == 1
    assert int(mine) == 0  # what was not pulled is not announced
