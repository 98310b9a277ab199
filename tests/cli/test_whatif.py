"""`tpplan whatif`: a ranking of changed machines, curves, and one line for what cannot be."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tpplan.cli.output import print_tables
from tpplan.planner.plan import Workload
from tpplan.planner.sweeps import Point
from tpplan.planner.whatif import UNFIT, Outcome
from tpplan.planner.whatif_report import outcome_tables, sweep_tables

FAST = ("--hardware", "rtx3060@4.0x4", "--context", "1024")


def test_rows_and_ranking(tpplan, box: Path) -> None:
    """A faster card beside the slow one comes before the machine as it is, in figures and in devices."""
    done = tpplan("whatif", "model.json", *FAST, "--add", "rtx5090@5.0x16")
    assert done.code == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("with", "as it is"))]
    assert rows[0].startswith("with rtx5090@5.0x16")
    assert rows[1].startswith("as it is")
    assert rows[-1].endswith("rtx3060")
    assert "as it is" in done.stderr  # progress


def test_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Long machines and many devices fold: no line of a table is wider than 80 columns."""
    name, devices = f"with {'3xrtx3060@3.0x4/switch=3.0x1+' * 4}rtx3090", tuple(f"rtx3060:{i}" for i in range(16))
    long = Outcome(name, True, "", 3599.0, 3599.0, 12345.6, 100.25, 131072, devices, 0.0)
    unfit = Outcome("rtx3060:10 on oculink", False, UNFIT, largest_context=131072)
    print_tables(outcome_tables([long, unfit], Workload(10**6, 10**6, 100, 10**7)))
    print_tables(sweep_tables([Point(o.name, "5.0x16", o) for o in (long, unfit)], "link"))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("devices in use") == 2
    assert all(printed.count(f"{device}") >= 2 for device in devices)


def test_time_runs_out(tpplan, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without time rows say so, and the command ends with 1 and the option to raise, not with advice on memory."""
    monkeypatch.setattr("tpplan.planner.whatif.deadline_in", lambda total_s: time.perf_counter())
    done = tpplan("whatif", "model.json", *FAST, "--add", "rtx3090")
    assert done.code == 1
    assert "no time was left" in done.stdout
    assert done.stderr.splitlines()[-1] == "tpplan: no time was left: raise --total-limit"


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
    assert sum(line.startswith("as it is") for line in table) == len(points) + sum(p["outcome"]["fits"] for p in points)


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
        (["--add", "rtx3091"], 1, "with rtx3091: unknown"),
        (["--add", "missing.json"], 1, "with missing.json: "),
        (["--remove", "cuda:7"], 1, "without cuda:7: no device"),
        (["--hardware", "rtx3090", "--remove", "rtx3090"], 1, "only device"),
        (["--hardware", "2xrtx3090", "--remove", "rtx3090"], 1, "name rtx3090:0 or rtx3090:1"),
        (["--hardware", "rtx3090", "--link", "rtx3090=4.0x32"], 1, "unknown link '4.0x32'"),
        (["--hardware", "rtx3090", "--link", "rtx3060=4.0x8"], 1, "no device 'rtx3060'"),
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
    assert "as it is" not in done.stderr or "9000" in arguments or "nan" in arguments  # nothing was solved
    assert set(box.iterdir()) == before


def test_nothing_fits(tpplan, box: Path) -> None:
    """Where no row fits the rows are still told, and the command ends with 3 and what would help."""
    caps = ("--cap", "cpu:0=10MB", "--cap", "cpu:1=10MB")
    done = tpplan("whatif", "model.json", *caps, "--remove", "cpu:1")
    assert done.code == 3, done.stderr
    assert "does not fit" in done.stdout
    assert "nothing fits" in done.stderr
