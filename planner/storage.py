"""`plan.json`: a Plan saved, and loaded only if its ranges make sense by themselves.

Knows the file. Whether the plan fits a model and its predictions hold is `check`'s business.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..hwprofiles.files import read_struct, write_atomically
from .plan import SCHEMA_VERSION, BlockPlan, Plan, Range, members

FIX = "run `tpplan solve`"


def save_plan(plan: Plan, path: str | Path) -> None:
    """Writes `plan` as JSON; OSError if that cannot be done."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")


def load_plan(path: str | Path) -> Plan:
    """The plan in `path`; ValueError (with the fix) if it is of another version or makes no sense, OSError if unreadable."""
    plan = read_struct(path, Plan, SCHEMA_VERSION, FIX)
    try:
        check_ranges(plan)
    except ValueError as error:
        raise ValueError(f"cannot use {path}: {error}; {FIX}") from error
    return plan


def check_ranges(plan: Plan) -> None:
    """ValueError unless devices are named once and every split gives each of them a range, in order, without gap or overlap."""
    devices = len(plan.devices)
    if not devices or len(set(plan.devices)) < devices:
        raise ValueError("its devices are missing or named twice")
    if not plan.layers or len(plan.device_use) != devices:
        raise ValueError("it has no layers, or no memory use for each device")
    _check_cover(plan.embedding, devices, "embedding")
    _check_cover(plan.head, devices, "head")
    for number, layer in enumerate(plan.layers):
        _check_block(layer.attention, devices, f"layer {number} attention")
        _check_block(layer.mlp, devices, f"layer {number} mlp")


def _check_block(block: BlockPlan, devices: int, what: str) -> None:
    _check_cover(block.units, devices, what)
    if bool(block.outputs) != (block.strategy == "column"):
        raise ValueError(f"{what} has the outputs of another strategy than {block.strategy}")
    if block.outputs:
        _check_cover(block.outputs, devices, f"{what} outputs")
        if not set(members(block.outputs)) <= set(members(block.units)):
            raise ValueError(f"{what} outputs are on a device that holds none of its units")


def _check_cover(spans: tuple[Range, ...], devices: int, what: str) -> None:
    if len(spans) != devices:
        raise ValueError(f"{what} has {len(spans)} ranges for {devices} devices")
    end = 0
    for span in (span for span in spans if span[0] != span[1]):
        if span[0] != end or span[1] < span[0]:
            raise ValueError(f"{what} has a gap or overlap at {end}")
        end = span[1]
    if not end:
        raise ValueError(f"{what} is on no device")
