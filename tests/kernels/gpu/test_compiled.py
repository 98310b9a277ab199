"""Every GPU kernel compiles, as its wrapper launches it, for every supported architecture; no GPU needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]


def test_kernels_compile_for_all_architectures(tmp_path: Path) -> None:
    """In a process of its own, since other tests may have chosen the interpreter."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, Path(__file__).with_name("compiling.py"), *map(str, ARCHITECTURES)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("ok") == 28 * len(ARCHITECTURES), ran.stdout
