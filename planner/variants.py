"""Machines that a user asks about: as it is, with each change by itself, and with all of them.

Knows changes as functions of a profile. Knows nothing of what they change, or what that is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from ..hwprofiles.profile import HardwareProfile
from .request import Request

AS_IS, TOGETHER = "as it is", "all together"
Change = tuple[str, Callable[[HardwareProfile], HardwareProfile]]
"""What the user calls it, and the machine that it makes of one; ValueError or OSError where it cannot be made."""


@dataclass(frozen=True)
class Variant:
    """A machine, and the request as far as it concerns it. `problem`: why there is no such machine, or ""."""

    name: str
    profile: HardwareProfile
    request: Request
    problem: str = ""


def variants(profile: HardwareProfile, request: Request, changes: Sequence[Change]) -> list[Variant]:
    """As it is, each change, and all together where there are several; that may have a problem.

    ValueError for a change that cannot be made, and for a cap on a device that no variant has.
    """
    found = [Variant(AS_IS, profile, request), *(_changed(name, profile, request, [(name, c)]) for name, c in changes)]
    for variant in found:
        if variant.problem:
            raise ValueError(f"{variant.name}: {variant.problem}")
    if len(changes) > 1:
        found.append(_changed(TOGETHER, profile, request, changes))
    known = {device.name for variant in found for device in variant.profile.devices}
    for name in request.caps:
        if name not in known:
            raise ValueError(f"there is no device {name!r} to cap; there are {', '.join(sorted(known))}")
    return [_with_own_caps(variant) for variant in found]


def _changed(name: str, profile: HardwareProfile, request: Request, changes: Sequence[Change]) -> Variant:
    try:
        for _, change in changes:
            profile = change(profile)
    except (ValueError, OSError) as error:
        return Variant(name, profile, request, " ".join(str(error).split()))
    return Variant(name, profile, request)


def _with_own_caps(variant: Variant) -> Variant:
    """Caps of devices that this machine has."""
    names = {device.name for device in variant.profile.devices}
    caps = {name: cap for name, cap in variant.request.caps.items() if name in names}
    request = msgspec.structs.replace(variant.request, caps=caps)
    return Variant(variant.name, variant.profile, request, variant.problem)
