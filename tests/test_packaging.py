"""The package that is shipped is the tree that is here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PARTS = ("cli", "executor", "hwprofiles", "kernels", "planner")


def test_every_package_is_listed() -> None:
    """`packages` names the root and every folder with Python in it, so a wheel has what an editable install has."""
    folders = {path.parent.relative_to(ROOT) for part in PARTS for path in (ROOT / part).rglob("*.py")}
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)
    found = {"tpplan", *("tpplan." + ".".join(folder.parts) for folder in folders)}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_root_holds_no_stray_modules() -> None:
    """Every .py file in the root would be shipped as part of the package."""
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_the_catalogue_is_shipped() -> None:
    """Every data file inside a package matches a pattern of `package-data`."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for package, globs in patterns.items()
        for glob in globs
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(glob)
    }
    data = {path for part in PARTS for path in (ROOT / part).rglob("*.json")}
    assert len(data) > 12
    assert data <= shipped


def test_every_dependency_is_pinned() -> None:
    """`constraints.txt` gives one exact version for each direct dependency, extras included."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = {_name(line) for line in lines}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {_name(line) for lines in (PROJECT["project"]["dependencies"], *extras.values()) for line in lines}
    assert wanted - {"tpplan"} <= pinned


def test_every_import_is_declared() -> None:
    """Third-party modules imported by the package are among its dependencies, extras included."""
    files = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    imported = {name for path in files for name in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.M)}
    project = PROJECT["project"]
    declared = {_name(line) for line in project["dependencies"] + project["optional-dependencies"]["gpu"]}
    bundled = {"llvmlite": "numba"}  # numba pins its own llvmlite
    third_party = {bundled.get(name, name) for name in imported - _standard_library() - {"__future__"}}
    assert third_party <= declared


def _standard_library() -> set[str]:
    import sys

    return set(sys.stdlib_module_names)


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
