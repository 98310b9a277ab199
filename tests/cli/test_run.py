"""`tpplan run`: bad input before any weight is read, and the demo model end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tpplan.hwprofiles.device_names import available_cores
from tpplan.hwprofiles.profile import SCHEMA_VERSION

CORES = [f"--device=cpu:{core}" for core in available_cores()[:2]]


def test_no_plan_names_the_fix(tpplan) -> None:
    """Without a plan the line says which command makes one."""
    done = tpplan("run", "--prompt", "Hi")
    assert (done.code, done.stdout) == (1, "")
    assert "tpplan solve" in done.stderr


def test_wrong_files_are_told_by_kind(tpplan, box: Path) -> None:
    """A profile for a plan, a plan for a profile, and a model without weights: each line says which file it is."""
    assert tpplan("solve", "model.json").code == 0
    for arguments, said in [
        (["run", "--prompt", "Hi", "--plan", "profile.json"], "it is a profile, not a plan"),
        (["solve", "model.json", "--hardware", "plan.json", "-o", "other.json"], "it is a plan, not a profile"),
        (["run", "--prompt", "Hi"], "without weights: name the weights with --model"),
        (["run", "--prompt", "Hi", "--trace", "plan.json"], "choose another path"),
    ]:
        done = tpplan(*arguments)
        assert (done.code, done.stderr.count("\n")) == (1, 1)
        assert said in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--temperature", "-1"], ["--temperature", "nan"], ["--top-p", "2"], ["--seed", "-5"]]
)
def test_bad_sampling(tpplan, box: Path, arguments: list[str]) -> None:
    """Sampling parameters out of range are refused by name."""
    assert tpplan("solve", "model.json").code == 0
    done = tpplan("run", "--prompt", "Hi", *arguments)
    assert done.code == 1
    assert arguments[0].removeprefix("--") in done.stderr


def test_three_commands(tpplan, demo_gguf: Path) -> None:
    """profile, solve and run on this machine: the JSON of run is whole, and its text is the text of its ids."""
    done = tpplan("profile", "--quick", *CORES, "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["schema_version"] == SCHEMA_VERSION
    assert tpplan("solve", str(demo_gguf), "--context", "1024").code == 0
    done = tpplan("run", "--prompt", "Name a city.", "--max-new-tokens", "4", "--trace", "t.json", "--json")
    assert done.code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["finish_reason"] in ("length", "stop")
    assert told["text"]
    for figures in (told["predicted"], told["measured"]):
        assert figures.keys() == {"prefill_s", "decode_s_per_token", "decode_tokens_per_s"}
        assert figures["decode_s_per_token"] > 0
    assert json.loads(Path("t.json").read_text())["traceEvents"]
    streamed = tpplan("run", "--prompt", "Name a city.", "--max-new-tokens", "4")
    assert streamed.stdout.strip() == told["text"].strip()
    assert "measured" in streamed.stderr
