"""Many small collectives among parts of one GPU, of random sizes and members, with ranks that are late at random."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

STRESS = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu_stress.py"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_no_word_is_lost_or_of_another_pass() -> None:
    """Every value of 60,000 collectives on 2 and 3 ranks is what its producers sent in that pass; a part that is sent
    with the values of the pass before is noticed.
    """
    ran = subprocess.run([sys.executable, STRESS, "--collectives", "60000"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count(" 0 values wrong") == 6, ran.stdout
    assert "noticed" in ran.stdout
