"""`tpplan doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import click

from .output import emit, print_tables

NEEDED = ("torch", "numba", "ortools", "networkx", "msgspec", "safetensors", "tokenizers", "gguf")
OPTIONAL = ("triton",)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def command(as_json: bool) -> None:
    """Say what this machine has, what is missing, and what to do about it.

    \b
    tpplan doctor
    tpplan doctor --json
    """
    findings = _findings()
    problems = _problems(findings)
    if as_json:
        emit(findings | {"problems": problems})
    else:
        print_tables([("This machine", ("", "found"), [(key, _cell(value)) for key, value in findings.items()])])
        print("\n".join(problems) or "Everything that tpplan needs is here.")


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
        "gpus": _gpus(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _problems(findings: dict[str, Any]) -> list[str]:
    missing = [name for name in NEEDED if findings[name] is None]
    problems = [f"missing: {', '.join(missing)}: run `pip install tpplan` in this environment"] if missing else []
    if len(findings["cores_of_this_process"]) < 2:
        problems.append("one core only: two CPU devices need two; lift the affinity or container limit")
    if findings["free_memory_bytes"] < 2**30:
        problems.append("less than 1 GiB of memory is free: close something or lift the container's limit")
    return problems


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not installed" if value is None else str(value)
