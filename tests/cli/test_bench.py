"""`tpplan bench`: lengths that are asked for or planned, bad input before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tpplan.hwprofiles.device_names import available_cores

CORE = f"--device=cpu:{available_cores()[0]}"


def test_a_description_cannot_be_timed(tpplan, box: Path) -> None:
    """A plan of a model without weights: one line that says how to name them."""
    assert tpplan("solve", "model.json").code == 0
    done = tpplan("bench")
    assert (done.code, done.stderr.count("\n")) == (1, 1)
    assert "name the weights with --model" in done.stderr


@pytest.mark.parametrize("arguments", [["-p", "0"], ["-n", "x"], ["--rounds", "0"]])
def test_bad_lengths_are_usage_errors(tpplan, box: Path, arguments: list[str]) -> None:
    """Numbers out of range are refused by the option's name."""
    done = tpplan("bench", *arguments)
    assert done.code == 2
    assert arguments[0].lstrip("-") in done.stderr


def test_the_demo_model_is_timed(tpplan, demo_gguf: Path) -> None:
    """Medians lie within their spread, decode is told as both time and speed, and a context too short is refused."""
    assert tpplan("profile", "--quick", CORE, "--json").code == 0
    assert tpplan("solve", str(demo_gguf), "--context", "64", "--prompt-tokens", "16", "--new-tokens", "8").code == 0
    done = tpplan("bench", "-n", "5", "--rounds", "3", "--json")
    assert done.code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["prompt_tokens"], told["new_tokens"], told["rounds"]) == (16, 5, 3)
    for name, (least, most) in told["spread"].items():
        assert 0 < least <= told["measured"][name] <= most
    assert told["measured"]["decode_tokens_per_s"] == pytest.approx(1 / told["measured"]["decode_s_per_token"])
    done = tpplan("bench", "-p", "8", "-n", "1", "--rounds", "1", "--hardware", "gone.json")
    assert done.code == 0, done.stderr
    prefill, speed = (
        next(line for line in done.stdout.splitlines() if line.startswith(name))
        for name in ("prefill", "decode, tok/s")
    )
    assert prefill.split()[-1] == speed.split()[-1] == "-"
    done = tpplan("bench", "-p", "60", "-n", "20")
    assert done.code == 1
    assert "--context 79" in done.stderr
