"""Rotary embedding, q/k norm and cache write of the tape and of the reference against complex arithmetic in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tapes import LANES, assert_as_close, assert_guarded, poisoned, run_one, seeded

from tpplan.kernels import rope, tape

EPS = 1e-6
SHAPES = [(1, 1, 2), (3, 1, 16), (1, 3, 64), (2, 4, 6)]  # KV heads, query heads each, head_dim


@dataclass
class Case:
    """A device's qkv of `rows` tokens from `position` on, its cache full of NaN, and the angles of all positions."""

    rows: int
    kv_heads: int
    group: int
    head_dim: int
    capacity: int
    position: int
    normed: bool

    def __post_init__(self) -> None:
        g = seeded(self.rows, self.kv_heads, self.group, self.head_dim, self.position)
        self.heads = self.kv_heads * self.group
        self.qkv = torch.randn(self.rows, (self.heads + 2 * self.kv_heads) * self.head_dim, generator=g)
        self.angles = 7 * torch.rand(self.capacity, self.head_dim // 2, generator=g)
        self.cos, self.sin = self.angles.cos(), self.angles.sin()
        q_weight, k_weight = 1 + torch.randn(2, self.head_dim, generator=g)
        self.norms = (q_weight, k_weight) if self.normed else None
        self.keys = poisoned(self.kv_heads, self.capacity, self.head_dim)
        self.values = poisoned(self.kv_heads, self.capacity, self.head_dim)

    def expected(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q: [rows, heads, head_dim], k and v: [rows, kv_heads, head_dim]; pairs rotated as complex numbers."""
        parts = self.qkv.to(dtype).view(self.rows, -1, self.head_dim)
        q, k, v = parts.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        if self.norms:
            q, k = (
                x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * w.to(dtype) for x, w in zip((q, k), self.norms)
            )
        at = slice(self.position, self.position + self.rows)
        turn = torch.complex(self.cos[at].to(dtype), self.sin[at].to(dtype)).unsqueeze(1)

        def turned(x: torch.Tensor) -> torch.Tensor:
            pairs = torch.complex(*(half.contiguous() for half in x.chunk(2, dim=-1))) * turn
            return torch.cat((pairs.real, pairs.imag), dim=-1)

        return turned(q), turned(k), v

    def assert_done(self, qkv: torch.Tensor) -> None:
        """Queries in place, keys and values in the cache at their positions, and nothing else in it."""
        at = slice(self.position, self.position + self.rows)
        q, k, v = self.expected(torch.float64)
        plain_q, plain_k, _ = self.expected(torch.float32)
        got = qkv.view(self.rows, -1, self.head_dim)[:, : self.heads]
        assert_as_close(got, q, plain_q)
        assert_as_close(self.keys[:, at].transpose(0, 1), k, plain_k)
        assert torch.equal(self.values[:, at].transpose(0, 1).double(), v)
        others = [p for p in range(self.capacity) if not at.start <= p < at.stop]
        for cache in (self.keys, self.values):
            assert cache[:, others].isnan().all()
            assert_guarded(cache)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(("rows", "position"), [(1, 0), (1, 1), (1, 30), (5, 0), (17, 14)])
@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), SHAPES)
def test_tape_equals_float64(
    kv_heads: int, group: int, head_dim: int, rows: int, position: int, lanes: int, normed: bool
) -> None:
    """Tokens at any position, first and last of the cache too, with and without q/k norm, each turned by its own."""
    case = Case(rows, kv_heads, group, head_dim, 31, position, normed)
    qkv = case.qkv.clone()
    tensors = (qkv, case.cos, case.sin, case.keys, case.values)
    norms = [w.data_ptr() for w in case.norms] if case.norms else [0, 0]
    sizes = (case.heads, kv_heads, head_dim, case.capacity)
    instruction = (tape.ROPE, *(t.data_ptr() for t in tensors), *sizes, *norms, tape.bits(EPS))
    run_one(instruction, lanes, position, rows)
    case.assert_done(qkv)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("rows", "position"), [(1, 0), (5, 0), (7, 13), (17, 14)])
@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), SHAPES)
def test_reference(kv_heads: int, group: int, head_dim: int, rows: int, position: int, normed: bool) -> None:
    """The reference does the same."""
    case = Case(rows, kv_heads, group, head_dim, 31, position, normed)
    qkv = case.qkv.clone()
    rope.reference(qkv, case.cos, case.sin, case.norms, EPS, case.keys, case.values, position)
    case.assert_done(qkv)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("rows", "position"), [(1, 0), (17, 14)])
@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), SHAPES)
def test_bfloat16_cache_holds_the_rounded(
    kv_heads: int, group: int, head_dim: int, rows: int, position: int, normed: bool
) -> None:
    """A bfloat16 cache takes, bit for bit, what a float32 cache takes, rounded as torch rounds; the reference too."""
    case = Case(rows, kv_heads, group, head_dim, 31, position, normed)
    norms = [w.data_ptr() for w in case.norms] if case.norms else [0, 0]
    words = [torch.full_like(cache, torch.nan).bfloat16() for cache in (case.keys, case.values)]
    sizes = (case.heads, kv_heads, head_dim, case.capacity)
    queries = []
    for form, caches in ((0, (case.keys, case.values)), (1, words)):
        qkv = case.qkv.clone()
        tensors = (qkv, case.cos, case.sin, *caches)
        run_one((tape.ROPE, *(t.data_ptr() for t in tensors), *sizes, *norms, tape.bits(EPS), form), 1, position, rows)
        queries.append(qkv.view(rows, -1, head_dim)[:, : case.heads])
    assert torch.equal(*queries)
    at = slice(position, position + rows)
    for wide, narrow in zip((case.keys, case.values), words, strict=True):
        assert torch.equal(wide[:, at].bfloat16(), narrow[:, at])
        assert narrow.isnan().sum() == (case.capacity - rows) * kv_heads * head_dim
    plain = [torch.zeros_like(cache) for cache in (case.keys, case.values)]
    rounded = [torch.zeros_like(cache) for cache in words]
    for caches in (plain, rounded):
        rope.reference(case.qkv.clone(), case.cos, case.sin, case.norms, EPS, *caches, position)
    assert all(torch.equal(wide.bfloat16(), narrow) for wide, narrow in zip(plain, rounded, strict=True))
