"""What to say when devices fail: which one, where, why, and of several that wait for each other the one that matters.

Knows waits and their ends. Knows nothing of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from ..kernels import staging


class WaitFailed(RuntimeError):
    """Device `device` waited for `peer`, itself where its own lanes wait for each other, and the wait ended without it.

    `outcome`: staging.TIMED_OUT, or ABORTED where another device had failed.
    """

    def __init__(self, outcome: int, device: int, peer: int) -> None:
        super().__init__(f"device {device} waiting for device {peer}")
        self.outcome, self.device, self.peer = outcome, device, peer


class DeviceFailed(RuntimeError):
    """A device that died or waited in vain; the message names device, layer and step."""


def wait_for(jobs: Sequence[Future[Any]], stop: Callable[[], None]) -> None:
    """Returns when all `jobs` have ended, well or not; calls `stop` as soon as one has failed.

    Not `concurrent.futures.wait`: a ctrl-C inside it can leave locks of jobs taken, on which their threads then wait.
    """
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    for job in jobs:
        job.add_done_callback(ended.put)
    for _ in jobs:
        if ended.get().exception():
            stop()


def was_stopped(error: BaseException) -> bool:
    """Whether a device ended only because another one had failed."""
    return isinstance(error.__cause__, WaitFailed) and error.__cause__.outcome == staging.ABORTED


def origin(failures: Sequence[BaseException]) -> BaseException:
    """The failure that caused the others: an error in a device's own work, else the wait for a device that itself
    waited for nobody. All that wait in a chain give up at about the same time.
    """
    waits = [f.__cause__ for f in failures if isinstance(f.__cause__, WaitFailed)]
    waiting = {wait.device for wait in waits if wait.peer != wait.device}

    def rank(failure: BaseException) -> tuple[bool, bool, bool, bool]:
        wait = failure.__cause__
        if not isinstance(wait, WaitFailed):
            return False, False, False, False
        return True, wait.peer == wait.device, wait.peer in waiting, wait.outcome == staging.ABORTED

    return min(failures, key=rank)
