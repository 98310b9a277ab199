"""What the kernels are compiled with: words, clock, cache folder, and how fast arithmetic is allowed to be."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import carray

from tpplan.kernels import jit
from tpplan.kernels.jit import f32, i64, kernel, load_acquire, monotonic_ns, store_release, u16


@kernel
def _views(floats, halves, words):  # type: ignore[no-untyped-def]
    carray(f32(floats), (3,))[1] = carray(u16(halves), (2,))[1] + carray(i64(words), (2,))[0]


@kernel
def _swap(address, value):  # type: ignore[no-untyped-def]
    old = load_acquire(address)
    store_release(address, value)
    return old


@kernel
def _now():  # type: ignore[no-untyped-def]
    return monotonic_ns()


@kernel
def _not_below(a, b):  # type: ignore[no-untyped-def]
    return not a <= b


@kernel
def _sum(x):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(x.size):
        total += x[k]
    return total


def test_views_of_addresses() -> None:
    """An address seen as floats, half words or words reads and writes the tensor's memory in place."""
    floats, halves, words = torch.zeros(3), torch.tensor([1, 40_000], dtype=torch.uint16), torch.tensor([5, 6])
    _views(floats.data_ptr(), halves.data_ptr(), words.data_ptr())
    assert floats.tolist() == [0, 40_005, 0]


@pytest.mark.parametrize("value", [0, 1, -1, 2**62, -(2**63), 2**63 - 1])
def test_words_hold_any_value(value: int) -> None:
    """A word is stored and loaded whole."""
    word = torch.tensor([11, value, 22])
    assert _swap(word.data_ptr() + 8, 7) == value
    assert word.tolist() == [11, 7, 22]


def test_the_clock_is_pythons() -> None:
    """Kernels read the clock that `time.monotonic_ns` reads."""
    before = time.monotonic_ns()
    now = _now()
    assert before <= now <= time.monotonic_ns()


def test_nan_and_infinity_keep_their_meaning() -> None:
    """Sums may be reordered, but a NaN or an infinity in them comes out, and comparisons with NaN are false."""
    x = np.ones(577, dtype=np.float32)
    assert _sum(x) == 577
    x[300] = np.inf
    assert _sum(x) == np.inf
    x[301] = -np.inf
    assert math.isnan(_sum(x))
    assert _not_below(np.float32(np.nan), np.float32(0))


def test_edited_kernels_get_a_folder_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compiled code is kept under the user's cache, in a folder that depends on every file of the kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "jit.py"))
    folders = []
    for name, text in [("jit.py", "a"), ("other.py", ""), ("other.py", "b")]:
        (tmp_path / name).write_text(text)
        folders += [jit._cache_folder(), jit._cache_folder()]
    assert folders[::2] == folders[1::2]
    assert all(folder and folder.is_dir() for folder in folders)
    assert {folder.parent for folder in folders} == {tmp_path / "cache" / "tpplan"}
    assert len(set(folders)) == 2  # an empty file changes nothing


@pytest.mark.parametrize("cache", ["file/below", "/proc/nowhere"])
def test_no_place_to_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: str) -> None:
    """A user who can write nowhere is served without a cache instead of being turned away."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
    assert jit._cache_folder() is None
