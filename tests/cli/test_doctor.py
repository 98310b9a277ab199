"""What `tpplan doctor` looks for, and that it speaks where something is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tpplan.cli.doctor import NEEDED

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_every_dependency_is_looked_for() -> None:
    """The packages doctor tries are those that pip installs."""
    dependencies = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    assert sorted(NEEDED) == sorted(re.split("[<>=]", name)[0] for name in dependencies)


def test_works_without_what_is_missing() -> None:
    """Packages that cannot be imported are told, each with its reason; sizes have units for people."""
    code = (
        "import sys; sys.modules |= dict.fromkeys({'msgspec', 'rich', 'torch', 'numba', 'ortools'})\n"
        "from tpplan.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "doctor", "--json"], capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert done.returncode == 0
    for name in ("msgspec", "rich", "torch", "numba", "ortools"):
        assert any(problem.startswith(f"{name} does not load") for problem in told["problems"])
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True)
    assert re.search(r"free memory +[\d.]+ GiB\n", done.stdout)
