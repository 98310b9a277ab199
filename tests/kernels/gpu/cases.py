"""Checks of the GPU kernels against float32 references on one device: in the interpreter, or on a GPU.

Run as a program, since the interpreter must be chosen before Triton is imported: `TRITON_INTERPRET=1 python cases.py`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[2]))
import interpreting  # noqa: F401

from tpplan.kernels import embed as host_embed
from tpplan.kernels import norm as host_norm
from tpplan.kernels import rope as host_rope
from tpplan.kernels.gpu import (
    argmax,
    attention,
    embed,
    embed_quant,
    gate_up,
    gate_up_quant,
    grouped,
    linear,
    linear_quant,
    norm,
    products_quant,
    reorder,
    rope,
    staged_row,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE == "cuda" else [])
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
EPS = 1e-5


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)


def close(name: str, actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Relative error in the norm of all values; NaN never passes."""
    error = ((actual.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)).item()
    assert error <= TOLERANCES[dtype], f"{name}: relative error {error:.2e}"


def check_norm() -> None:
    for rows, width, parts, dtype in itertools.product([1, 3], [17, 576], [1, 5], DTYPES):
        hidden, weight, part = normal(rows, width), normal(width), normal(rows, width)
        scaled, squares = poisoned(rows, width, dtype=dtype), poisoned(rows, parts)
        summed = hidden + part
        norm.scaled(hidden, weight, scaled, squares, part)
        assert torch.equal(hidden, summed)
        close("scaled", scaled, hidden * weight, dtype)
        close("squares", squares.sum(1), hidden.square().sum(1), torch.float32)
        norm.scaled(hidden, weight, scaled, squares)
        assert torch.equal(hidden, summed)
        out = poisoned(rows, width, dtype=dtype)
        norm.norm(hidden, weight, EPS, out)
        expected = torch.empty_like(hidden)
        host_norm.reference(hidden, weight, EPS, expected)
        close("norm", out, expected, dtype)


def check_products() -> None:
    for rows, (N, K), dtype in itertools.product([1, 2, 16], [(33, 20), (128, 64), (33, 1365), (20, 2048)], DTYPES):
        _check_product(rows, N, K, dtype, extras=(rows + K) % 3 == 0)


def check_products_on_parts() -> None:
    """One row, as on parts of a GPU of so many SMs."""
    kept = staged_row.sms_for
    try:
        for sms, (N, K), dtype in itertools.product([8, 24, 48], [(33, 20), (128, 64), (33, 1365), (20, 4096)], DTYPES):
            staged_row.sms_for = lambda _, sms=sms: sms
            _check_product(1, N, K, dtype, extras=(sms + K) % 3 == 0)
    finally:
        staged_row.sms_for = kept


def _check_product(rows: int, N: int, K: int, dtype: torch.dtype, extras: bool) -> None:
    """`extras`: a bias and a deferred norm, float32 output."""
    x, weight = normal(rows, K, dtype=dtype), normal(2 * N, K, dtype=dtype) / K**0.5
    bias, squares, width = (normal(2 * N), normal(rows, 3).square(), 7) if extras else (None, None, 1)
    scale = (squares.sum(1, keepdim=True) / width + EPS).rsqrt() if squares is not None else 1.0
    expected = linear.reference(x, weight, None) * scale + (bias if bias is not None else 0.0)
    name = f"{rows} rows, {N} x {K}, {dtype}, {extras=}"
    out = poisoned(rows, 2 * N, dtype=torch.float32 if extras else dtype)
    linear.linear(x, weight, bias, out, squares, width, EPS)
    close(f"linear {name}", out, expected, dtype)
    gate, up = expected.chunk(2, -1)
    out = poisoned(rows, N, dtype=dtype)
    gate_up.gate_up(x, weight, bias, out, squares, width, EPS)
    close(f"gate_up {name}", out, torch.nn.functional.silu(gate) * up, dtype)


# bits, what the table holds beside scales, its format
FORMS = [
    (4, "zero", torch.float16), (4, "zeros", torch.float16), (4, "minimums", torch.bfloat16),
    (4, "zeros", torch.float32), (8, "zero", torch.bfloat16), (8, "zeros", torch.float16),
    (8, "minimums", torch.float32), (4, "minimums", torch.int8), (8, "zero", torch.int8),
]  # fmt: skip
# N, K, group: one tile and several, a last tile or block that is not full, one group, groups of 16 and odd ones
SHAPES = [(20, 48, 48), (34, 200, 128), (66, 1024, 128), (32, 288, 32), (48, 640, 64), (20, 160, 16), (34, 1300, 96)]


class RandomWeight:
    """A grouped-affine weight at random, and what it means, worked out weight by weight in float64."""

    def __init__(
        self, N: int, K: int, groups: int | torch.Tensor, form: tuple[int, str, torch.dtype], halves: int = 1
    ) -> None:
        bits, second, table = form
        of = torch.arange(K) // groups if isinstance(groups, int) else groups
        count = int(of.max()) + 1
        codes = torch.randint(0, 2**bits, (N, K), dtype=torch.uint8)
        scales, minimums = torch.rand(N, count) / 2**bits / K**0.5, torch.randn(N, count) / K**0.5
        factors: tuple[torch.Tensor, ...] | None = None
        each, skipped = 8, 3
        if table is torch.int8:
            drawn = 0.5 + torch.rand(2, N, -(-(count + skipped) // each))
            factors = tuple((part / 64 / K**0.5).half() for part in (drawn[0] / 2**bits, drawn[1]))
            scales, minimums = torch.randint(-64, 64, (2, N, count), dtype=torch.int8)
        else:
            scales, minimums = scales.to(table), minimums.to(table)
        meant = [part.double() for part in (scales, minimums)]
        if factors is not None:
            block = (torch.arange(count) + skipped) // each
            meant = [part * factor.double()[:, block] for part, factor in zip(meant, factors)]
        zeros = torch.randint(0, 2**bits, (N, count), dtype=torch.uint8) if second == "zeros" else None
        zero = 2 ** (bits - 1) if second == "zero" else 0
        self.meant = (codes.double() - (zeros[:, of].double() if zeros is not None else zero)) * meant[0][:, of]
        if second == "minimums":
            self.meant += meant[1][:, of]
        kept = scales, minimums if second == "minimums" else None, zeros
        operands = [None if t is None else t.to(DEVICE) for t in kept]
        more: dict[str, Any] = {}
        if factors is not None:
            least = factors[1].to(DEVICE) if second == "minimums" else None
            more = {"factors": (factors[0].to(DEVICE), least), "factor_groups": each, "skipped": skipped}
        where = groups if isinstance(groups, int) else groups.to(DEVICE)
        packed = grouped.pack(codes.to(DEVICE), where, *operands, bits=bits, zero=zero, halves=halves, **more)
        self.packed, self.order = packed
        self.meant = self.meant.to(DEVICE)

    def placed(self, x: torch.Tensor) -> torch.Tensor:
        """x in the order of places."""
        if self.order is None:
            return x
        out = poisoned(len(x), len(self.order), dtype=x.dtype)
        reorder.reordered(x, self.order, out)
        return out


QuantisedCase = tuple[int, int, int, int | torch.Tensor, tuple[int, str, torch.dtype], torch.dtype]


def quantised_cases() -> Iterator[QuantisedCase]:
    """rows, N, K, groups, form, dtype: every form and shape, random orders of inputs, ragged groups, an empty group."""
    rows = itertools.cycle([1, 2, 3, 7, 16])
    for at, (form, (N, K, group)) in enumerate(itertools.product(FORMS, SHAPES)):
        groups: int | torch.Tensor = group
        if at % 3 == 1:
            groups = (torch.arange(K) // group)[torch.randperm(K)]
        elif at % 3 == 2:
            groups = torch.randint(0, 5, (K,)) * 2
        yield next(rows), N, K, groups, form, DTYPES[at % len(DTYPES)]


def check_quantised() -> None:
    _check_quantised(quantised_cases())


def check_quantised_on_parts() -> None:
    """As on a part of a GPU, where zeros are taken from sums."""
    kept, linear_quant.sms_for = linear_quant.sms_for, lambda _: 8
    try:
        _check_quantised(itertools.islice(quantised_cases(), 1, None, 2))
    finally:
        linear_quant.sms_for = kept


def _check_quantised(cases: Iterator[QuantisedCase]) -> None:
    for at, (rows, N, K, groups, form, dtype) in enumerate(cases):
        extras = at % 4 == 0
        weight, x = RandomWeight(2 * N, K, groups, form), normal(rows, K, dtype=dtype)
        bias, squares, width = (normal(2 * N), normal(rows, 3).square(), 7) if extras else (None, None, 1)
        expected = x.double() @ weight.meant.T
        if squares is not None and bias is not None:
            expected = expected * (squares.sum(1, keepdim=True) / width + EPS).rsqrt() + bias
        name = f"{rows} rows, {N} x {K}, {form}, {dtype}, {'in order' if isinstance(groups, int) else 'ragged'}"
        out = poisoned(rows, 2 * N, dtype=torch.float32 if extras else dtype)
        linear_quant.linear(weight.placed(x), weight.packed, bias, out, squares, width, EPS)
        close(f"linear {name}", out, expected, dtype)
        halves = RandomWeight(2 * N, K, groups, form, halves=2)
        gate, up = (x.double() @ halves.meant.T).chunk(2, -1)
        out = poisoned(rows, N, dtype=dtype)
        gate_up_quant.gate_up(halves.placed(x), halves.packed, None, out)
        close(f"gate_up {name}", out, torch.nn.functional.silu(gate) * up, dtype)


def check_quantised_embed() -> None:
    """Tokens here, before and after this device's part of the vocabulary."""
    for form, (N, K, group) in itertools.product(FORMS, SHAPES[:-1]):
        weight, tokens = RandomWeight(N, K, group, form), torch.tensor([7, 5, 7 + N - 1, 7 + N, 9], device=DEVICE)
        out = poisoned(5, K)
        embed_quant.embed(tokens, weight.packed, 7, out)
        rows = (tokens - 7).clamp(0, N - 1)
        here = ((tokens >= 7) & (tokens < 7 + N))[:, None]
        close(f"embed {N} x {K}, {form}", out, weight.meant[rows] * here, torch.float32)


def check_quantised_many() -> None:
    """Rows of a product that are written out, all at once or 16 or 32 at a time; halves; few rows in pieces."""
    for at, (_, N, K, groups, form, dtype) in enumerate(itertools.islice(quantised_cases(), 0, None, 2)):
        rows, halves = (70, 20, 66)[at % 3], 1 + at % 2
        weight, x = RandomWeight(2 * N, K, groups, form, halves), normal(rows, K, dtype=dtype)
        placed, bias = weight.placed(x), normal(2 * N) if at % 2 else None
        out = poisoned(rows, 2 * N, dtype=dtype)
        scratch = poisoned(placed.shape[1] * (16, 32, 2 * N + 16)[at % 3], dtype=dtype)
        products_quant.many_rows(placed, weight.packed, bias, out, scratch)
        expected = x.double() @ weight.meant.T + (bias if bias is not None else 0.0)
        close(f"{rows} rows, {N} x {K}, {form}, {halves=}", out, expected, dtype)


def check_rope() -> None:
    for rows, head_dim, normed, dtype in itertools.product([1, 3], [64, 96], [False, True], DTYPES):
        heads, kv_heads, capacity, position = 3, 2, 9, 4
        qkv = normal(rows, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
        cos, sin = normal(capacity, head_dim // 2), normal(capacity, head_dim // 2)
        norms = (normal(head_dim), normal(head_dim)) if normed else None
        caches = [normal(kv_heads, capacity, head_dim, dtype=dtype) for _ in range(2)]
        expected, copies = qkv.clone(), [x.clone() for x in caches]
        host_rope.reference(expected, cos, sin, norms, EPS, *copies, position)
        control = torch.tensor([position, 0, 0, 0], dtype=torch.int32, device=DEVICE)
        rope.rope(qkv, cos, sin, norms, EPS, *caches, control)
        for name, mine, theirs in zip(["q", "keys", "values"], [qkv, *caches], [expected, *copies]):
            close(f"rope {name}", mine, theirs, dtype)


# heads, group, skipped, head_dim: whole groups, shares that begin and end inside one, an odd group, one head a group
SHARES = [(4, 4, 0, 64), (5, 4, 3, 64), (3, 3, 2, 128), (2, 1, 0, 96), (7, 7, 0, 64)]
# position, window
PLACES = [(0, 0), (1, 0), (63, 0), (64, 0), (200, 0), (200, 70), (30, 64), (200, 1)]


def attention_cases(rows: int) -> Iterator[tuple[int, tuple[int, int, int, int], tuple[int, int], torch.dtype]]:
    """Every share with one row and with `rows`, every place, every type, but not all of their combinations."""
    for at, (share, place) in enumerate(itertools.product(SHARES, PLACES)):
        if (at + at // len(PLACES)) % 2 == 0:
            yield (1, rows)[at % 3 == 0], share, place, DTYPES[at // 2 % len(DTYPES)]


def _attention_case(
    rows: int, share: tuple[int, int, int, int], position: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q as a strided part of qkv; what stands behind the last row in the cache is NaN."""
    heads, group, skipped, head_dim = share
    kv_heads = (skipped + heads + group - 1) // group
    qkv = normal(rows, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    keys, values = (normal(kv_heads, position + rows + 7, head_dim, dtype=dtype) for _ in range(2))
    keys[:, position + rows :] = values[:, position + rows :] = torch.nan
    return qkv[:, : heads * head_dim], keys, values


def check_decode() -> None:
    for rows, share, (position, window), dtype in attention_cases(2):
        heads, group, skipped, head_dim = share
        q, keys, values = _attention_case(rows, share, position, dtype)
        control = torch.tensor([position, 0, 0, 0], dtype=torch.int32, device=DEVICE)
        scratch = attention.scratch(heads, head_dim, rows, len(keys), DEVICE)
        expected = attention.reference(q, keys, values, position, window, group, skipped)
        for _ in range(2):  # the second finds the counters as the first left them
            out = poisoned(rows, heads * head_dim, dtype=dtype)
            attention.decode(q, keys, values, control, window, out, group, skipped, scratch)
            close(f"decode {rows=} {share=} {position=} {window=} {dtype}", out, expected, dtype)


def check_prefill() -> None:
    for rows, share, (position, window), dtype in attention_cases(70):
        heads, group, skipped, head_dim = share
        q, keys, values = _attention_case(rows, share, position, dtype)
        out = poisoned(rows, heads * head_dim, dtype=dtype)
        control = torch.tensor([position, 0, 0, 0], dtype=torch.int32, device=DEVICE)
        attention.prefill(q, keys, values, control, window, out, group, skipped)
        expected = attention.reference(q, keys, values, position, window, group, skipped)
        close(f"prefill {rows=} {share=} {position=} {window=} {dtype}", out, expected, dtype)


def check_embed() -> None:
    for width, dtype in itertools.product([48, 1500], DTYPES):
        table, out = normal(5, width, dtype=dtype), poisoned(4, width)
        tokens, expected = torch.tensor([9, 10, 14, 15], device=DEVICE), torch.empty(4, width, device=DEVICE)
        host_embed.reference(tokens, table, 10, expected)
        embed.embed(tokens, table, 10, out)
        assert torch.equal(out, expected)


def check_argmax() -> None:
    scratch = argmax.scratch(DEVICE)
    for count, change in itertools.product([1, 1000, 5000], ["none", "ties", "negative", "nan", "inf", "zeros"]):
        logits = normal(count)
        if change == "ties":
            logits = logits.round()
        elif change == "negative":
            logits = -logits.abs() - 1
        elif change == "nan":
            logits[count // 2 :: 7] = torch.nan
        elif change == "inf":
            logits.fill_(-torch.inf)
        elif change == "zeros":
            logits = torch.where(logits > 0, 0.0, -0.0)
        best_id, best_value = torch.empty(1, dtype=torch.int64, device=DEVICE), poisoned(1)
        argmax.argmax(logits, 100, best_id, best_value, scratch)
        top = logits.max()
        hits = logits.isnan() if top.isnan() else logits == top
        assert best_id.item() == 100 + hits.nonzero()[0].item(), f"argmax of {count}, {change}"
        assert torch.equal(best_value.isnan(), top.isnan().view(1)), change
        assert top.isnan() or best_value.item() == top.item(), change


CHECKS: dict[str, Callable[[], None]] = {
    name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")
}

if __name__ == "__main__":
    for asked in sys.argv[1:] or CHECKS:
        torch.manual_seed(len(asked))
        CHECKS[asked]()
        print("ok", asked)
