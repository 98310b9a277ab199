"""`tpplan doctor`: what this machine has, what is missing, and what to do about it.

Needs nothing but click itself, so that it can say what else is missing.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
from importlib import metadata
from typing import Any

import click

from ..hwprofiles.units import binary_bytes

NEEDED = (
    "click", "gguf", "jinja2", "matplotlib", "msgspec", "networkx", "numba", "numpy", "ortools", "rich", "safetensors",
    "tokenizers", "torch",
)  # fmt: skip
OPTIONAL = ("triton", "cuda-bindings")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def command(as_json: bool) -> None:
    """Say what this machine has, what is missing, and what to do about it.

    \b
    tpplan doctor
    tpplan doctor --json
    """
    findings = _findings()
    gpus, gpu_problems = _gpus()
    problems = _problems(findings) + gpu_problems
    if as_json:
        print(json.dumps(findings | {"gpus": gpus, "problems": problems}))
    else:
        for name, value in findings.items():
            print(f"{name.removesuffix('_bytes').replace('_', ' '):<24}{_cell(name, value)}")
        for line in _lines(gpus):
            print(f"{'GPU':<24}{line}")
        print("", *(problems or ["Everything that tpplan needs is here."]), sep="\n")


def _findings() -> dict[str, Any]:
    from ..hwprofiles.device_names import available_cores
    from ..hwprofiles.host_memory import available_bytes

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in (*NEEDED, *OPTIONAL)},
        "cores": os.cpu_count(),
        "cores_of_this_process": list(available_cores()),
        "free_memory_bytes": available_bytes(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _broken(package: str) -> str | None:
    """Why an installed package cannot be imported; None if it can."""
    try:
        importlib.import_module(package)
    except Exception as error:
        return f"{package} does not load ({' '.join(str(error).split())[:200]}): reinstall it"
    return None


def _gpus() -> tuple[list[dict[str, Any]], list[str]]:
    """Figures of each GPU, and what is wrong with them; none where torch does not load, which is told elsewhere."""
    try:
        from ..executor.gpu.findings import gpu_findings
    except Exception:
        return [], []
    return gpu_findings()


def _lines(gpus: list[dict[str, Any]]) -> list[str]:
    if not gpus:
        return ["none"]
    from ..executor.gpu.findings import described

    return [described(gpu) for gpu in gpus]


def _problems(findings: dict[str, Any]) -> list[str]:
    missing = [name for name in NEEDED if findings[name] is None]
    problems = [f"missing: {', '.join(missing)}: run `pip install tpplan` in this environment"] if missing else []
    problems += filter(None, (_broken(name) for name in NEEDED if name not in missing))
    if len(findings["cores_of_this_process"]) < 2:
        problems.append("one core only: two CPU devices need two; lift the affinity or container limit")
    if findings["free_memory_bytes"] < 2**30:
        problems.append("less than 1 GiB of memory is free: close something or lift the container's limit")
    return problems


def _cell(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return binary_bytes(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not installed" if value is None else str(value)
