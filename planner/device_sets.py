"""Sets of devices that may share a block: one of those that differ only in which of several equal devices they name.

Knows devices, and which are equal. Knows nothing of costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import msgspec
import numpy as np

from ..hwprofiles.profile import DeviceProfile, HardwareProfile

Set = tuple[int, ...]


@dataclass(frozen=True)
class DeviceSets:
    """`sets`: of each run of equal devices next to each other the first few, as few sets as that leaves.

    Sets chosen so overlap as much as sets of their kinds can, which makes exchanges cheapest: what no such choice
    of sets undercuts, no choice at all does. `of`: for every device the first that equals it, wherever it is.
    """

    sets: tuple[Set, ...]
    of: tuple[int, ...]

    @property
    def kinds(self) -> int:
        """How many sets there are, of equal devices in a row only how many counting."""
        return len(self.sets)

    @cached_property
    def held(self) -> np.ndarray:
        """[set, device]: whether the device is in the set."""
        return np.array([[d in each for d in range(len(self.of))] for each in self.sets])

    @cached_property
    def sizes(self) -> np.ndarray:
        """[set]: how many devices it has."""
        return np.asarray(self.held.sum(axis=1))

    @cached_property
    def within(self) -> np.ndarray:
        """[one, other]: whether set `one` is a part of set `other`."""
        return np.asarray(~(self.held[:, None, :] & ~self.held[None, :, :]).any(axis=2))

    @cached_property
    def index(self) -> dict[Set, int]:
        return {each: i for i, each in enumerate(self.sets)}


def device_sets(profile: HardwareProfile, caps: tuple[int, ...]) -> DeviceSets:
    """The sets of a machine whose devices may use `caps` bytes."""
    plain = [(_nameless(device), cap) for device, cap in zip(profile.devices, caps)]
    runs: list[list[int]] = []
    for d, device in enumerate(plain):
        if runs and plain[runs[-1][0]] == device:
            runs[-1].append(d)
        else:
            runs.append([d])
    counts = product(*(range(len(run) + 1) for run in runs))
    sets = (tuple(d for run, n in zip(runs, each) for d in run[:n]) for each in counts)
    return DeviceSets(tuple(sorted(filter(None, sets), key=lambda s: (len(s), s))), tuple(map(plain.index, plain)))


def _nameless(device: DeviceProfile) -> DeviceProfile:
    return msgspec.structs.replace(device, name="", cores=())
