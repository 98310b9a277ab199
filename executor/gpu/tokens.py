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
    bulk collective; `sites`: by number; `results`: offset of the ring of tokens that the host reads.
    """

    memory: HostMemory
    sites: dict[int, Site]
    results: int
    epoch: int = 0
    bulk: int = 1

    def token(self, epoch: int) -> int | None:
        """The likeliest token of pass `epoch`, None while it is not known."""
        return result(self.memory, self.results, epoch)
