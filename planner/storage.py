"""`plan.json`: a Plan saved and loaded. Knows the file; whether the plan is sound is for `check` to say."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..hwprofiles.files import read_struct, write_atomically
from .plan import SCHEMA_VERSION, Plan


def save_plan(plan: Plan, path: str | Path) -> None:
    """Writes `plan` as JSON, without the time that its solve took, so that the same input gives the same bytes.

    OSError if that cannot be done.
    """
    lasting = msgspec.structs.replace(plan, solve_s=0.0)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(lasting), indent=1) + b"\n")


def load_plan(path: str | Path) -> Plan:
    """The plan in `path`; ValueError (with the fix) if it is none or of another version, OSError if unreadable."""
    return read_struct(path, Plan, SCHEMA_VERSION, "run `tpplan solve`")
