"""`tpplan export`: the command alone on stdout, what is lost on stderr, or all of it as one object."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plans import plan_by_hand
from profiles import make_model

from tpplan.planner.storage import load_plan, save_plan


@pytest.fixture
def plan(box: Path) -> Path:
    """`plan.json`: two thirds of every layer on one GPU, a third on another."""
    save_plan(plan_by_hand(make_model(), ["cuda:0", "cuda:1"], [2, 1], [1024, 512], [32768, 16384]), box / "plan.json")
    return box / "plan.json"


@pytest.mark.parametrize("engine", ["llama.cpp", "ik_llama.cpp", "exllamav3", "vllm"])
def test_command_and_json_agree(tpplan, plan: Path, engine: str) -> None:
    """stdout is one line for a shell; --json says the same command, and stderr the same losses."""
    done = tpplan("export", "--to", engine, "--model", "a 'b' $(c)")
    assert done.code == 0, done.stderr
    assert done.stdout.count("\n") == 1
    told = json.loads(tpplan("export", str(plan), "--to", engine, "--model", "a 'b' $(c)", "--json").stdout)
    assert told.keys() == {"engine", "command", "environment", "cannot_express", "notes"}
    assert shlex.split(done.stdout)[len(told["environment"]) :] == told["command"]
    assert "a 'b' $(c)" in told["command"]
    for line in told["cannot_express"] + told["notes"]:
        assert f"- {line}\n" in done.stderr


def test_a_solved_plan_exports(tpplan, box: Path) -> None:
    """What solve writes, export reads."""
    assert tpplan("solve", "model.json").code == 0
    done = tpplan("export", "--to", "llama.cpp")
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("taskset -c 0")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (lambda plan: {"layers": plan.layers[:1]}, "1 layers, the model 2"),
        (lambda plan: {"head": ((0, 2048), (2048, 8192)), "embedding": ((0, 2048), (2048, 8192))}, "not at 4096"),
        (lambda plan: {"devices": ("cpu:0", "cpu:0")}, "repeated"),
        (lambda plan: {"workload": msgspec.structs.replace(plan.workload, batch=10**7)}, "bytes"),
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_edited_plans_are_refused(tpplan, box: Path, changes: Any, said: str, moved: bool) -> None:
    """Where the model can be read, from the plan or --model, a plan that is none of it ends in one line and 1."""
    assert tpplan("solve", "model.json", "--time-limit", "1").code == 0
    plan = load_plan(box / "plan.json")
    save_plan(msgspec.structs.replace(plan, **changes(plan)), box / "plan.json")
    if moved:
        (box / "model.json").rename(box / "moved.json")
    done = tpplan("export", "--to", "llama.cpp", *(["--model", "moved.json"] if moved else []))
    assert (done.code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--to", "ollama"], 2, "llama.cpp"),
        ([], 2, "--to"),
        (["missing.json", "--to", "vllm"], 1, "tpplan solve"),
        (["profile.json", "--to", "vllm"], 1, "it is a profile"),
        (["model.json", "--to", "vllm"], 1, "tpplan solve"),
        (["--to", "vllm", "--model", ""], 1, "--model"),
        (["--to", "vllm", "--model", "a\x1b[2Jb"], 1, "--model"),
    ],
)
def test_refusals(tpplan, plan: Path, arguments: list[str], code: int, said: str) -> None:
    """Unknown engines, files that are no plans and paths that no terminal should see end in one line, no command."""
    done = tpplan("export", *arguments)
    assert (done.code, done.stdout) == (code, "")
    assert said in done.stderr
    assert "\x1b" not in done.stderr
