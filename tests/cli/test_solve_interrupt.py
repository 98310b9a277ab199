"""Ctrl-C while CP-SAT searches in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from profiles import make_profile

from tpplan.hwprofiles.storage import save_profile

SPEEDS = [1.0, 0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2]  # the search takes many seconds
BY_HAND = ["--attention-split", "1,1,1,1,1,1,1,1"]  # so that CP-SAT is asked
LLAMA_70B = (
    '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 80, "hidden_size": 8192,'
    '"num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256,'
    '"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",'
    '"tie_word_embeddings": false}'
)


def children(pid: int) -> list[int]:
    """Processes that `pid` started and that still live."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def searching(solve: subprocess.Popen[str]) -> int:
    """The search process, once there is one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and solve.poll() is None:
        if found := children(solve.pid):
            return found[0]
        time.sleep(0.01)
    pytest.fail("no search was started")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the search process in /proc")
@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "parent alone"])
@pytest.mark.parametrize("wait_s", [0.0, 0.3])
def test_ends_at_once_and_leaves_nothing(tmp_path: Path, whole_group: bool, wait_s: float) -> None:
    """Exit 130 within a second, silently, without plan or search process, however early the signal comes."""
    save_profile(make_profile(SPEEDS, free_bytes=400 * 2**30), tmp_path / "profile.json")
    (tmp_path / "model.json").write_text(LLAMA_70B)
    command = [sys.executable, "-m", "tpplan", "solve", "model.json", *BY_HAND]
    solve = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    search = searching(solve)
    time.sleep(wait_s)
    started = time.monotonic()
    (os.killpg if whole_group else os.kill)(solve.pid, signal.SIGINT)
    stdout, stderr = solve.communicate(timeout=20)
    assert time.monotonic() - started < 1
    assert (solve.returncode, stdout, stderr.strip()) == (130, "", "")
    assert not Path(f"/proc/{search}").exists()
    assert not (tmp_path / "plan.json").exists()
