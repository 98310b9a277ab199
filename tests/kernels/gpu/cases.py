"""Checks of the GPU kernels against float32 references on one device: in the interpreter, or on a GPU.

Run as a program, since the interpreter must be chosen before Triton is imported: `TRITON_INTERPRET=1 python cases.py`.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from triton.runtime import interpreter

from tpplan.kernels import embed as host_embed
from tpplan.kernels import norm as host_norm
from tpplan.kernels import rope as host_rope
from tpplan.kernels.gpu import argmax, attention, embed, gate_up, linear, norm, rope, staged_row


def _scalars_index_again() -> None:
    """Triton's interpreter calls int() on arrays of one element, which NumPy 2.4 no longer takes."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: Any) -> None:
        patch(tensor, scope)
        tensor.__index__ = lambda self: self.handle.data.item()  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = patched


if os.environ.get("TRITON_INTERPRET") == "1":
    _scalars_index_again()
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
