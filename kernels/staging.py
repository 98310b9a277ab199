"""Collectives through host memory: slots that producers push parts into, and words that say how far each device is.

Rules: one writer per word; words only grow; a word sits alone on its cache line; a slot is written again only after
its last readers have passed it; every wait ends, by arrival, by the abort word or by the deadline.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .jit import kernel, load_acquire, monotonic_ns, sched_yield, store_release

LINE_BYTES = 64
SLOT_RING = 2
ARRIVED, TIMED_OUT, ABORTED = 0, 1, 2
SPINS_BEFORE_YIELD = 4096


class Staging:
    """Host slots: `SLOT_RING` for each device, float32, as many values as `widths` says, taken in turn by collective.

    `pushed` and `pulled` hold, per device, the last collective it has pushed and pulled; `abort` stops every wait.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        self.slots = [torch.zeros(SLOT_RING, width) for width in widths]
        self.devices = len(widths)
        self.words = torch.zeros(2 * self.devices + 1, LINE_BYTES // 8, dtype=torch.int64)
        self.base = 1

    def slot(self, collective: int, device: int) -> torch.Tensor:
        """The part of `device` in collective `collective`: [width] float32."""
        return self.slots[device][collective % SLOT_RING]

    def numbers(self, collectives: int) -> tuple[int, ...]:
        """The first number of the next `collectives`: they are counted through, whatever program runs them."""
        self.base += collectives
        return (self.base - collectives,)

    def pushed_address(self, device: int) -> int:
        return self.words[device].data_ptr()

    def pulled_address(self, device: int) -> int:
        return self.words[self.devices + device].data_ptr()

    @property
    def abort_address(self) -> int:
        return self.words[2 * self.devices].data_ptr()

    def abort(self) -> None:
        """Ends every wait, now and later, until `reset`."""
        self.words[2 * self.devices, 0] = 1

    @property
    def aborted(self) -> bool:
        return bool(self.words[2 * self.devices, 0])

    def reset(self) -> None:
        """Forgets all progress; only while no device is at work."""
        self.words.zero_()
        self.base = 1


@kernel
def wait(address, value, abort, deadline_ns):  # type: ignore[no-untyped-def]
    """Until the word at `address` reaches `value`: ARRIVED; else ABORTED, or TIMED_OUT at `deadline_ns` (monotonic)."""
    spins = 0
    while load_acquire(address) < value:
        spins += 1
        if spins >= SPINS_BEFORE_YIELD:
            if load_acquire(abort) != 0:
                return ABORTED
            if monotonic_ns() > deadline_ns:
                return TIMED_OUT
            sched_yield()
    return ARRIVED


@kernel
def signal(address, value):  # type: ignore[no-untyped-def]
    """Publishes `value`, and with it everything that this thread wrote before."""
    store_release(address, value)


@kernel
def exchange_probe(mine, theirs, abort, first, rounds, deadline_ns):  # type: ignore[no-untyped-def]
    """`rounds` one-way signals each way between two threads, in turn; the outcome of the last wait."""
    for i in range(rounds):
        store_release(mine, first + i)
        outcome = wait(theirs, first + i, abort, deadline_ns)
        if outcome != ARRIVED:
            return outcome
    return ARRIVED
