"""What all runners of a plan share on the host: pinned memory, call-sites, counts of passes, tokens that come back.

Knows words. Knows nothing of devices.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...kernels.gpu.handover import result
from ...kernels.gpu.host_memory import HostMemory
from ...kernels.gpu.slots import Site


@dataclass
class Tokens:
    """`epoch`: of the last pass that was begun, as every device counts in its own memory; `bulk`: number of the next
    bulk collective, even where a pass begins; `bulk_before`: where the last pass that had any began; `sites`: by
    number; `results`: offset of the ring of tokens that the host reads.
    """

    memory: HostMemory
    sites: dict[int, Site]
    results: int
    epoch: int = 0
    bulk: int = 2
    bulk_before: int = -(1 << 20)
    numbers: tuple[int, int] = (0, 0)  # of the pass at hand: where `bulk` and `bulk_before` were

    def begin_pass(self, collectives: int, large: bool) -> tuple[int, int]:
        """Counts a pass of so many exchanges, which are bulk ones where it is `large`: where their numbers begin, and
        those of the last such pass.
        """
        self.epoch += 1
        self.numbers = self.bulk, self.bulk_before
        if large:
            self.bulk, self.bulk_before = self.bulk + collectives + collectives % 2, self.bulk
        return self.numbers

    def token(self, epoch: int) -> int | None:
        """The likeliest token of pass `epoch`, None while it is not known."""
        return result(self.memory, self.results, epoch)
