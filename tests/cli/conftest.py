"""Runs commands as a user does, in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from profiles import make_profile

from tpplan.cli.main import main
from tpplan.hwprofiles.storage import save_profile


class Done(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def tpplan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`tpplan("solve", "model.json")` in an empty current directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["tpplan", *arguments])
        capsys.readouterr()
        handler = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            signal.signal(signal.SIGINT, handler)
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A directory with `profile.json` of two devices, one twice as fast, and `model.json`, small."""
    save_profile(make_profile([2.0, 1.0]), tmp_path / "profile.json")
    (tmp_path / "model.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 576,'
        '"num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 4096,'
        '"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",'
        '"tie_word_embeddings": true}'
    )
    return tmp_path
