"""Long lines are broken between words on a terminal, and whole elsewhere."""

from __future__ import annotations

import sys

import pytest

from tpplan.cli.output import print_lines

LINE = " ".join(f"word{i}" for i in range(40))


@pytest.mark.parametrize("bullet", ["- ", ""])
def test_lines_wrap_on_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bullet: str
) -> None:
    """Nothing is wider than the terminal, no word is lost, and pipes get one line."""
    monkeypatch.setenv("COLUMNS", "60")
    print_lines([LINE], bullet)
    assert capsys.readouterr().out == f"{bullet}{LINE}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_lines([LINE], bullet)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 60
    assert printed.removeprefix(bullet).split() == LINE.split()
