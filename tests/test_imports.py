"""What importing one part must not load: the planner works without torch, the executor without the solver."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import tpplan.planner.solve, tpplan.cli.solve", "torch transformers matplotlib jinja2"),
        ("import tpplan.planner.report_page, tpplan.planner.figures", "torch ortools matplotlib jinja2"),
        ("import tpplan.planner.check, tpplan.planner.model_files", "torch ortools"),
        ("import tpplan.planner.simulate, tpplan.planner.chrome_trace", "torch ortools"),
        ("import tpplan.executor.session", "ortools transformers matplotlib"),
        ("import tpplan.hwprofiles.measure, tpplan.executor.gpu.devices", "numba triton cuda"),
        ("import tpplan", "torch ortools numba msgspec click"),
        (
            "from tpplan.cli.main import commands; commands.main(['--help'], standalone_mode=False)",
            "torch ortools numba rich networkx msgspec matplotlib tpplan.cli.run tpplan.cli.solve",
        ),
    ],
)
def test_import_leaves_out(code: str, unwanted: str) -> None:
    """A fresh process that runs `code` has loaded none of the unwanted modules."""
    check = f"import sys; print([name for name in {unwanted.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
