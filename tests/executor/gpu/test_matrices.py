"""Matrices that stay quantised on GPUs: every format, split at random, gives the unsplit dequantised model's logits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

PROGRAMS = Path(__file__).with_name("packed_programs.py")
TESTS = Path(__file__).parents[2]
NAMES = (
    ["gptq", "gptq-act-order", "compressed-tensors-channels"],
    ["gptq-act-order-8-bits", "awq-mixed"],
    ["Q4_0", "Q4_1", "Q8_0"],
    ["Q4_K", "Q6_K"],
)


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_programs_in_the_interpreter(tmp_path: Path, names: list[str]) -> None:
    """Stacked, apart, as halves, in an order of their own; embeddings and heads too."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    ran = subprocess.run(
        [sys.executable, PROGRAMS, tmp_path, *names], env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [word for name in names for word in ("ok", name)]
