"""Exit codes, and where text goes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tpplan.cli import main as main_module
from tpplan.planner.errors import Infeasible


def test_help_lists_every_command(tpplan) -> None:
    """`--help` ends well and names each command; each command's own help shows an example."""
    done = tpplan("--help")
    assert done.code == 0
    for name in main_module.SUMMARIES:
        assert name in done.stdout
        helped = tpplan(name, "--help")
        assert helped.code == 0
        assert f"tpplan {name}" in helped.stdout.split("Options:")[0].split("\n", 1)[1]


def test_help_starts_fast() -> None:
    """The best of three starts of `--help` takes under 0.2 s more than Python itself."""

    def best_s(*arguments: str) -> float:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        return min(times)

    assert best_s("-m", "tpplan", "--help") - best_s("-c", "pass") < 0.2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("two\nlines"), 1, "tpplan: two lines"),
        (FileNotFoundError(2, "No such file", "x.gguf"), 1, "tpplan: x.gguf: No such file"),
        (RuntimeError("cpu:1 died"), 1, "tpplan: cpu:1 died"),
        (Infeasible("fits at context 64"), 3, "tpplan: fits at context 64"),
        (KeyError("x"), 1, "tpplan: internal error: KeyError: 'x'; TPPLAN_DEBUG=1 shows where"),
        (
            ImportError("No module named 'nope'", name="nope"),
            1,
            "tpplan: cannot import nope: No module named 'nope'; `tpplan doctor` says what is missing",
        ),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_errors_become_one_line(
    tpplan, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    """Each kind of failure has its exit code and one line on stderr, never a traceback."""

    def fail(self, ctx):
        raise error

    monkeypatch.setattr(main_module.click.Command, "invoke", fail)
    done = tpplan("doctor")
    assert (done.code, done.stdout, done.stderr.strip()) == (code, "", line)


def test_debug_shows_the_traceback(tpplan, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TPPLAN_DEBUG=1 the error itself comes out."""
    monkeypatch.setenv("TPPLAN_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        tpplan("solve", "nothing.gguf")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["solve"], ["run"], ["solve", "m", "--cap", "cpu:0"], ["solve", "m", "--attention-split", "2;1"]],
)
def test_usage_errors(tpplan, arguments: list[str]) -> None:
    """A command line that is not understood ends with 2 and nothing on stdout."""
    done = tpplan(*arguments)
    assert (done.code, done.stdout) == (2, "")
    assert "Error:" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_stdout_is_one_line() -> None:
    """Output that cannot be written ends with 1 and one line."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tpplan", "doctor", "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("tpplan: standard output: ")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str) -> None:
    """A stream that the caller closed is no reason to fail."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m tpplan --help {closed}', sys.executable], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt_that_a_library_turned_into_an_error(tpplan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes of a ctrl-C, the command ends with 130 and no word."""

    def fail(self, ctx):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("half loaded") from None

    monkeypatch.setattr(main_module.click.Command, "invoke", fail)
    assert tpplan("doctor") == (130, "", "")
