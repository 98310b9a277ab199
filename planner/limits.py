"""Which of the user's limits cannot all hold: a smallest set of them, each shown to be needed.

Knows limits by name and how to lift one. Knows nothing of what would help (see `fixes`).

The set is found by deletion: each limit is lifted in turn, and stays lifted if even so nothing fits. Lifting only ever
lets more splits in, so in what is left every limit is needed: with it lifted too, something fits. CP-SAT could name a
set of its own from assumption literals, but not a minimal one; it would have to be shrunk by these same questions, of
which there are about as many as devices, at some 50 ms each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from .changes import with_memory
from .memory import device_caps, host_cap
from .wishes import given_by_hand

if TYPE_CHECKING:
    from .infeasible import Case

GIB, MIB = 2**30, 2**20
ENOUGH = 2**50  # bytes; more than any model that can be planned for
TOGETHER = "cannot hold it together"


@dataclass(frozen=True)
class Limit:
    """One limit in the user's words, and the case without it."""

    words: str
    lifted: Callable[[Case], Case]


def contradiction(case: Case) -> list[str]:
    """The limits that cannot all hold. Where time runs out, some of them may not be needed."""
    kept = []
    for limit in _limits(case):
        without = limit.lifted(case)
        if without.answer() is False:
            case = without
        else:
            kept.append(limit.words)
    return kept[::-1]


def in_words(limits: list[str]) -> str:
    """As a clause: `cuda:0 (8.00 GiB usable) and --context 4096 cannot both hold`."""
    if len(limits) == 1:
        return f"{limits[0]} cannot hold it"
    both = "cannot all hold" if len(limits) > 2 else "cannot both hold"
    return f"{', '.join(limits[:-1])} and {limits[-1]} {both if any('--' in w[:2] for w in limits) else TOGETHER}"


def _limits(case: Case) -> list[Limit]:
    """Those that matter least to blame come first: what comes last is named if anything is."""
    w, request = case.request.workload, case.request
    least = w.prompt_tokens + w.new_tokens
    limits = [Limit(option(n, request), partial(_without_wish, n)) for n in given_by_hand(request)]
    if w.batch > 1:
        limits.append(Limit(f"--batch {w.batch}", lambda c: c.at_work(batch=1)))
    if w.context > least:
        limits.append(Limit(f"--context {w.context}", lambda c: c.at_work(context=least)))
    on_cpu = sum(cap for d, cap in zip(case.profile.devices, case.caps) if d.kind == "cpu")
    shared = host_cap(case.profile) < on_cpu
    if shared:
        words = f"all CPU devices together {size(host_cap(case.profile))} of host memory"
        limits.append(Limit(words, _without_host))
    for device, cap in list(zip(case.profile.devices, case.caps))[::-1]:
        limits.append(Limit(_device_words(case, device.name, cap), partial(_without_device, device.name, shared)))
    return limits


def _without_wish(name: str, case: Case) -> Case:
    return case.but(**{name: None})


def _without_host(case: Case) -> Case:
    host = msgspec.structs.replace(case.profile.host, memory_bytes=ENOUGH)
    return replace(case, profile=msgspec.structs.replace(case.profile, host=host))


def _without_device(name: str, shared: bool, case: Case) -> Case:
    """`shared`: the host's memory is a limit of its own, which stays."""
    profile, request = with_memory(case.profile, case.request, name, ENOUGH)
    if shared:
        profile = msgspec.structs.replace(profile, host=case.profile.host)
    return replace(case, profile=profile, request=request)


def _device_words(case: Case, name: str, cap: int) -> str:
    capped = name in case.request.caps and cap < device_caps(case.profile, {})[_index(case, name)]
    return f"{name} ({f'--cap {plain_size(cap)}' if capped else f'{size(cap)} usable'})"


def _index(case: Case, name: str) -> int:
    return [d.name for d in case.profile.devices].index(name)


def option(name: str, request: object) -> str:
    """A field of a request as it is written on the command line."""
    value = getattr(request, name)
    return f"--{name.replace('_', '-')} {value if isinstance(value, str) else ','.join(map(str, value))}"


def size(count: int) -> str:
    """Bytes for reading."""
    return f"{count / MIB:.0f} MiB" if count < 8 * GIB else f"{count / GIB:.2f} GiB"


def plain_size(count: int) -> str:
    """Bytes exactly, as an option takes them."""
    for unit, each in (("GiB", GIB), ("GB", 10**9), ("MiB", MIB), ("MB", 10**6)):
        if count and count % each == 0:
            return f"{count // each}{unit}"
    return str(count)
