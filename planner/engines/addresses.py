"""Device names as other engines address them: a backend and a number within it.

Knows the names of profiles (`cuda:1`, `cuda:0/16`, `cpu:0-3`) and of the catalogue (`rtx3090:1`). Knows no machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Backend = Literal["CPU", "CUDA", "ROCm", "SYCL"]

_CUDA = re.compile(r"cuda:(\d{1,4})(?:/\d{1,9})?")
_CORES = re.compile(r"cpu:(\d{1,5}(?:-\d{1,5})?)")
_MODEL = re.compile(r"[a-z0-9]+")
OTHER_BACKENDS: dict[str, Backend] = {"a770": "SYCL", "rx7900xtx": "ROCm"}
COMPUTE_CAPABILITIES = {"p40": 6.1, "rtx2080ti": 7.5}
"""Of the NVIDIA devices of the catalogue that some engine refuses; the others have 8.0 or more (NVIDIA's tables)."""


@dataclass(frozen=True)
class Address:
    """`index` counts the GPUs of one backend. `assumed`: the name does not say it, the order of the plan does.

    `cores`: of a CPU, as `0-3`, "" for all. `part`: the name means some multiprocessors of that GPU only.
    `capability`: of an NVIDIA GPU, as far as the name says it; 99 where it does not.
    """

    backend: Backend
    index: int = 0
    assumed: bool = False
    cores: str = ""
    part: bool = False
    capability: float = 99.0


def addresses(names: Sequence[str]) -> tuple[Address, ...]:
    """One address a name. GPUs whose names hold no number take the free ones of their backend in order."""
    fixed = {name: found for name in names if (found := _fixed(name))}
    taken: dict[Backend, set[int]] = {}
    for address in fixed.values():
        taken.setdefault(address.backend, set()).add(address.index)
    return tuple(fixed.get(name) or _next_free(name, taken) for name in names)


def _fixed(name: str) -> Address | None:
    """What a name says by itself."""
    if match := _CUDA.fullmatch(name):
        return Address("CUDA", int(match[1]), part="/" in name)
    if name.partition(":")[0] == "cpu":
        cores = _CORES.fullmatch(name)
        return Address("CPU", cores=cores[1] if cores else "")
    return None


def _next_free(name: str, taken: dict[Backend, set[int]]) -> Address:
    match = _MODEL.match(name.lower())
    model = match[0] if match else ""
    backend = OTHER_BACKENDS.get(model, "CUDA")
    used = taken.setdefault(backend, set())
    index = next(i for i in range(len(used) + 1) if i not in used)
    used.add(index)
    return Address(backend, index, assumed=True, capability=COMPUTE_CAPABILITIES.get(model, 99.0))
