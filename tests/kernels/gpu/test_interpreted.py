"""The GPU kernels in Triton's interpreter, in float32 and float16 (its bfloat16 is wrong)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

CASES = Path(__file__).with_name("cases.py")


@pytest.mark.parametrize(
    "names",
    [
        ["norm", "rope", "embed", "argmax"],
        ["products", "products_on_parts"],
        ["decode", "prefill"],
        ["quantised"],
        ["quantised_on_parts", "quantised_many", "quantised_embed"],
    ],
)
def test_kernels_equal_references_in_the_interpreter(names: list[str]) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run([sys.executable, CASES, *names], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [word for name in names for word in ("ok", name)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_kernels_equal_references_on_a_gpu() -> None:
    ran = subprocess.run([sys.executable, CASES], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
