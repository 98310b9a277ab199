"""Attention over the cache, of the tape and of the reference, against a plain softmax in float64, head by head."""

from __future__ import annotations

import math

import pytest
import torch
from tapes import LANES, assert_as_close, assert_guarded, poisoned, run_one, seeded

from tpplan.kernels import attention, linear, tape

CAPACITY = 600
SHAPES = [(1, 1, 2), (3, 1, 16), (1, 3, 64), (2, 4, 6), (3, 3, 64)]  # KV heads, query heads each, head_dim


def operands(
    rows: int, kv_heads: int, group: int, head_dim: int, seen: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q: [rows, heads * head_dim]; keys, values: [kv_heads, capacity, head_dim], NaN from position `seen` on."""
    g = seeded(rows, kv_heads, group, head_dim, seen)
    q = torch.randn(rows, kv_heads * group * head_dim, generator=g)
    keys, values = torch.randn(2, kv_heads, CAPACITY, head_dim, generator=g)
    keys[:, seen:], values[:, seen:] = torch.nan, torch.nan
    return q, keys, values


def expected(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int, window: int, dtype: torch.dtype
) -> torch.Tensor:
    """[rows, heads * head_dim]: softmax(q k / sqrt(head_dim)) v for each row and head on its own."""
    rows, (kv_heads, _, head_dim) = len(q), keys.shape
    heads = q.shape[1] // head_dim
    out = torch.empty(rows, heads, head_dim, dtype=dtype)
    for r in range(rows):
        last = position + r
        span = slice(max(0, last - window + 1) if window else 0, last + 1)
        for h in range(heads):
            k, v = (cache[h // (heads // kv_heads), span].to(dtype) for cache in (keys, values))
            weights = torch.softmax(k @ q[r].view(heads, head_dim)[h].to(dtype) / math.sqrt(head_dim), dim=0)
            out[r, h] = weights @ v
    return out.view(rows, -1)


def run(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: int,
    window: int,
    lanes: int = 1,
    group: int = 0,
    skipped: int = 0,
) -> torch.Tensor:
    """One row, [heads * head_dim], through the tape. `group`: all heads shared out evenly, unless given."""
    kv_heads, capacity, head_dim = keys.shape
    out, scores = poisoned(q.numel()), poisoned(lanes, capacity)
    tensors, heads = (q, keys, values, out, scores), q.numel() // head_dim
    of_heads = (group or heads // kv_heads, skipped, linear.FORMATS[keys.dtype])
    sizes = (heads, kv_heads, head_dim, capacity, window, *of_heads)
    run_one((tape.ATTENTION, *(t.data_ptr() for t in tensors), *sizes), lanes, position)
    assert_guarded(out)
    assert_guarded(scores)
    return out


@pytest.mark.parametrize("window", [0, 1, 5, 1000])
@pytest.mark.parametrize("position", [0, 1, 17, CAPACITY - 1])
@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), SHAPES)
def test_tape_equals_float64(kv_heads: int, group: int, head_dim: int, position: int, window: int) -> None:
    """One token sees what came before it and itself, within the window, and nothing later."""
    q, keys, values = operands(1, kv_heads, group, head_dim, position + 1)
    plain, exact = (expected(q, keys, values, position, window, t) for t in (torch.float32, torch.float64))
    assert_as_close(run(q, keys, values, position, window)[None], exact, plain)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), SHAPES)
def test_lanes_share_the_heads(kv_heads: int, group: int, head_dim: int, lanes: int) -> None:
    """Any number of lanes, more than heads too, gives the very numbers of one."""
    q, keys, values = operands(1, kv_heads, group, head_dim, 40)
    assert torch.equal(run(q, keys, values, 39, 0, lanes), run(q, keys, values, 39, 0))


def test_large_scores() -> None:
    """Scores far beyond what exp can hold give the value of the best key, not NaN."""
    q, keys, values = operands(1, 1, 1, 16, 3)
    keys[0, :3] = torch.tensor([-1e4, 1e4, 0.0]).unsqueeze(1) * q
    torch.testing.assert_close(run(q, keys, values, 2, 0), values[0, 1])


@pytest.mark.parametrize("window", [0, 1, 5, 1000])
@pytest.mark.parametrize(("rows", "position"), [(1, 0), (1, 40), (7, 0), (5, 33), (17, 3)])
@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), SHAPES)
def test_reference(kv_heads: int, group: int, head_dim: int, rows: int, position: int, window: int) -> None:
    """Several rows at once, each of which sees up to itself and no further than its window."""
    q, keys, values = operands(rows, kv_heads, group, head_dim, position + rows)
    out = poisoned(*q.shape)
    attention.reference(q, keys, values, position, window, out, group)
    plain, exact = (expected(q, keys, values, position, window, t) for t in (torch.float32, torch.float64))
    assert_as_close(out, exact, plain)
    assert_guarded(out)


def test_queries_inside_a_wider_buffer() -> None:
    """Queries may be the first columns of a qkv buffer."""
    q, keys, values = operands(4, 1, 3, 16, 4)
    qkv, out, want = torch.cat((q, poisoned(4, 32)), dim=1), poisoned(4, 48), poisoned(4, 48)
    attention.reference(qkv[:, :48], keys, values, 0, 0, out, 3)
    attention.reference(q, keys, values, 0, 0, want, 3)
    torch.testing.assert_close(out, want)


def some_heads(
    rows: int, kv_heads: int, group: int, begin: int, end: int, position: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q and KV heads of a device with query heads [begin, end), and what whole attention gives for them."""
    head_dim = 16
    q, keys, values = operands(rows, kv_heads, group, head_dim, position + rows)
    whole = expected(q, keys, values, position, 0, torch.float64)
    mine = slice(begin * head_dim, end * head_dim)
    held = slice(begin // group, math.ceil(end / group))
    return q[:, mine].contiguous(), keys[held].contiguous(), values[held].contiguous(), whole[:, mine]


SHARES = [
    (kv_heads, group, begin, end)
    for kv_heads, group in ((1, 4), (2, 3), (3, 2), (3, 1))
    for begin in range(kv_heads * group)
    for end in range(begin + 1, kv_heads * group + 1)
]


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kv_heads", "group", "begin", "end"), SHARES)
def test_every_range_of_query_heads(kv_heads: int, group: int, begin: int, end: int, cache_dtype: torch.dtype) -> None:
    """Any consecutive query heads, with the KV heads they read, give their part of the whole, one row and several."""
    for rows, position in ((1, 40), (1, 0), (5, 0), (5, 33)):
        q, keys, values, want = some_heads(rows, kv_heads, group, begin, end, position)
        keys, values = keys.to(cache_dtype), values.to(cache_dtype)
        close = {"rtol": 0, "atol": 2e-6 if cache_dtype is torch.float32 else 3e-2}
        out = poisoned(*q.shape)
        attention.reference(q, keys, values, position, 0, out, group, begin % group)
        assert_guarded(out)
        torch.testing.assert_close(out.double(), want, **close)
        if rows == 1:
            got = run(q, keys, values, position, 0, 2, group, begin % group)
            torch.testing.assert_close(got[None].double(), want, **close)


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), SHAPES)
def test_bfloat16_cache_is_only_widened(kv_heads: int, group: int, head_dim: int, window: int) -> None:
    """A bfloat16 cache gives, bit for bit, what the float32 cache of the same values gives, by tape and reference."""
    q, keys, values = operands(3, kv_heads, group, head_dim, 33)
    words = keys.bfloat16(), values.bfloat16()
    wide = words[0].float(), words[1].float()
    torch.testing.assert_close(run(q[:1], *words, 30, window), run(q[:1], *wide, 30, window), rtol=1e-6, atol=1e-6)
    outs = poisoned(*q.shape), poisoned(*q.shape)
    for out, cache in zip(outs, (words, wide), strict=True):
        attention.reference(q, *cache, 30, window, out, group)
    assert torch.equal(*outs)
