"""The PTX that makes 16-bit floats of codes, run by a small reading of PTX: every code, plane, format and zero."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from tpplan.kernels.gpu.planes import asm, base, carried, raw_asm


def _floats(register: np.ndarray, brain: bool) -> np.ndarray:
    """uint32 [n] -> the two floats of each, float64 [n, 2]."""
    halves = torch.from_numpy(register.view(np.int16).reshape(-1, 2).copy())
    return halves.view(torch.bfloat16 if brain else torch.float16).double().numpy()


def _bits(values: np.ndarray, brain: bool) -> np.ndarray:
    """The inverse, rounded once."""
    rounded = torch.from_numpy(values).to(torch.bfloat16 if brain else torch.float16)
    return rounded.view(torch.int16).numpy().copy().view(np.uint32).reshape(-1)


def _lop3(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: int) -> np.ndarray:
    result = np.zeros_like(a)
    for at, (x, y, z) in enumerate(itertools.product([0, 1], repeat=3)):
        if table >> at & 1:
            result |= (a if x else ~a) & (b if y else ~b) & (c if z else ~c)
    return result


def run(text: str, words: np.ndarray, added: np.ndarray) -> np.ndarray:
    """$0 after the text ran on registers $1 and $2, uint32 [n] each."""
    registers = {"$1": words, "$2": added}

    def value(name: str) -> np.ndarray:
        return registers[name] if name in registers else np.full_like(words, int(name, 0))

    for line in text.strip("{} ").split(";"):
        operation, _, rest = line.strip().partition(" ")
        to, *sources = (name.strip() for name in rest.split(","))
        if operation == "shr.u32":
            registers[to] = value(sources[0]) >> value(sources[1])
        elif operation == "mov.b32":
            registers[to] = value(sources[0])
        elif operation == "lop3.b32":
            registers[to] = _lop3(*(value(name) for name in sources[:3]), int(sources[3]))
        elif operation.startswith("fma.rn"):
            brain = operation.endswith("bf16x2")
            a, b, c = (_floats(value(name), brain) for name in sources)
            registers[to] = _bits(a * b + c, brain)
        else:
            assert operation in ("", ".reg"), operation
    return registers["$0"]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("brain", [False, True])
def test_codes_become_floats_exactly(bits: int, brain: bool) -> None:
    """Whatever the other codes of the word; for zeros of the whole matrix and of each row."""
    words = np.random.default_rng(bits + brain).integers(0, 2**32, 4096, dtype=np.uint32)
    for plane, zero in itertools.product(range(16 // bits), (0, 1, 7, 8, 16, *((100, 128, 255) if bits == 8 else ()))):
        codes = words.view(np.uint16).reshape(-1, 2) >> (bits * plane) & (2**bits - 1)
        assert len(np.unique(codes)) == 2**bits
        expected = (codes ^ (128 if bits == 8 else 0)).astype(float) - zero
        added = _bits(np.full((len(words), 2), base(bits, plane, brain) - zero), brain)
        for text in (asm(bits, plane, brain, zero), asm(bits, plane, brain, None)):
            assert np.array_equal(_floats(run(text, words, added), brain), expected), (plane, zero, text)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("brain", [False, True])
def test_raw_codes_are_what_they_are_said_to_be(bits: int, brain: bool) -> None:
    words = np.random.default_rng(bits + brain).integers(0, 2**32, 4096, dtype=np.uint32)
    added, unit = carried(bits, brain)
    for plane in range(16 // bits):
        codes = (words.view(np.uint16).reshape(-1, 2) >> (bits * plane) & (2**bits - 1)) ^ (128 if bits == 8 else 0)
        factor = unit * (16 if bits == 4 and not brain and plane % 2 else 1)
        found = _floats(run(raw_asm(bits, plane, brain), words, words), brain)
        assert np.array_equal(found, (codes.astype(float) + added) * factor), plane
