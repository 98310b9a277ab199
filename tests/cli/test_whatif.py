"""`tpplan whatif`: a ranking of changed machines, curves, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FAST = ("--hardware", "rtx3060@4.0x4", "--context", "1024")


def test_rows_and_ranking(tpplan, box: Path) -> None:
    """A faster card beside the slow one comes before the machine as it is, an unknown one is told about at the end."""
    done = tpplan("whatif", "model.json", *FAST, "--add", "rtx5090@5.0x16", "--add", "rtx3091")
    assert done.code == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("with", "as it is"))]
    assert rows[0].startswith("with rtx5090@5.0x16")
    assert "no plan" in rows[-1]
    assert "- with rtx3091: " in done.stdout
    assert "did you mean" in done.stdout
    assert "as it is" in done.stderr  # progress


def test_json_has_every_figure(tpplan, box: Path) -> None:
    """One object: the baseline, each change, and all together, in the order of their answers."""
    done = tpplan("whatif", "model.json", *FAST, "--add", "rtx3060@3.0x1", "--link", "rtx3060=4.0x16", "--json")
    assert done.code == 0, done.stderr
    told = json.loads(done.stdout)
    assert {o["name"] for o in told["outcomes"]} == {
        "as it is",
        "with rtx3060@3.0x1",
        "rtx3060 on 4.0x16",
        "all together",
    }
    answers = [o["answer_s"] for o in told["outcomes"]]
    assert answers == sorted(answers)
    assert all(o["largest_context"] == 8192 for o in told["outcomes"])
    assert told["workload"]["context"] == 1024


def test_measured_profile_is_the_default(tpplan, box: Path) -> None:
    """Without --hardware the profile in the folder is changed."""
    done = tpplan("whatif", "model.json", "--remove", "cpu:1", "--json")
    assert done.code == 0, done.stderr
    slower = {o["name"]: o["speedup"] for o in json.loads(done.stdout)["outcomes"]}
    assert slower["without cpu:1"] <= 1.0


@pytest.mark.parametrize("kind", ["context", "batch", "link"])
def test_sweeps(tpplan, box: Path, kind: str) -> None:
    """A row for each step, the same in the object."""
    arguments = ("whatif", "model.json", *FAST[:2], "--sweep", kind, "--new-tokens", "16")
    done = tpplan(*arguments, "--json")
    assert done.code == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    assert len(points) >= 4
    assert all(p["machine"] == "as it is" for p in points)
    if kind != "batch":
        return
    table = tpplan(*arguments).stdout.splitlines()
    assert sum(line.startswith("as it is") for line in table) == len(points)


def test_picture(tpplan, box: Path) -> None:
    """The curves become a picture."""
    pytest.importorskip("tpplan.planner.figures")
    done = tpplan("whatif", "model.json", *FAST[:2], "--sweep", "context", "--picture", "c.svg")
    assert done.code == 0, done.stderr
    assert "<svg" in (box / "c.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--hardware", "rtx3091"], 1, "did you mean"),
        (["--hardware", "missing.json"], 1, "missing.json"),
        (["--picture", "a.svg"], 2, "--sweep"),
        (["--sweep", "context", "--picture", "a.pdf"], 1, ".svg or .png"),
        (["--sweep", "context", "--picture", "no/such/a.svg"], 1, "cannot write"),
        (["--sweep", "layers"], 2, "context"),
        (["--link", "rtx3060"], 2, "write it as"),
        (["--add", "\x1b[2J"], 2, "is no name"),
        (["--add", "a" * 501], 2, "is no name"),
        (["--cap", "cuda:7=1GB"], 1, "to cap"),
        (["--context", "9000"], 1, "8192"),
        (["--time-limit", "0"], 2, "0.1"),
        (["--total-limit", "nan"], 1, "--total-limit"),
    ],
)
def test_refusals(tpplan, box: Path, arguments: list[str], code: int, said: str) -> None:
    """What cannot be asked ends in one clear line and leaves no file."""
    before = set(box.iterdir())
    done = tpplan("whatif", "model.json", *arguments)
    assert done.code == code, done.stderr
    assert said in done.stderr
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr
    assert set(box.iterdir()) == before


def test_nothing_fits(tpplan, box: Path) -> None:
    """Where no row fits the rows are still told, and the command ends with 3 and what would help."""
    caps = ("--cap", "cpu:0=10MB", "--cap", "cpu:1=10MB")
    done = tpplan("whatif", "model.json", *caps, "--remove", "cpu:1")
    assert done.code == 3, done.stderr
    assert "does not fit" in done.stdout
    assert "nothing fits" in done.stderr
