"""Of several devices' failures the one that caused the others is told, whatever their order."""

from __future__ import annotations

from itertools import permutations

from tpplan.executor.failures import DeviceFailed, WaitFailed, origin
from tpplan.kernels.staging import ABORTED, TIMED_OUT


def failed(cause: BaseException) -> DeviceFailed:
    """A failure as the runner raises it."""
    try:
        raise DeviceFailed(str(cause)) from cause
    except DeviceFailed as failure:
        return failure


def assert_told(first: BaseException, *others: BaseException) -> None:
    for order in permutations([first, *others]):
        assert origin(order) is first


def test_an_error_comes_before_waits() -> None:
    """A device that died is told of, not those that were stopped or gave up."""
    dead, stopped = failed(OSError("fell off the bus")), failed(WaitFailed(ABORTED, 0, 2))
    assert_told(dead, stopped, failed(WaitFailed(TIMED_OUT, 1, 2)))


def test_the_end_of_a_chain() -> None:
    """Device 0 waits for 1, 1 for 2, which waits for nobody: the wait of 1 is told, even if 0 gave up first."""
    assert_told(failed(WaitFailed(ABORTED, 1, 2)), failed(WaitFailed(TIMED_OUT, 0, 1)))
    assert_told(failed(WaitFailed(TIMED_OUT, 1, 2)), failed(WaitFailed(ABORTED, 0, 1)))


def test_lanes_that_wait_for_each_other() -> None:
    """A device stopped in its own work or at its own lanes' barrier does not hide whom others waited for."""
    itself = failed(WaitFailed(ABORTED, 1, 1))
    assert_told(failed(WaitFailed(TIMED_OUT, 0, 1)), itself)
    assert_told(failed(WaitFailed(TIMED_OUT, 0, 2)), failed(WaitFailed(TIMED_OUT, 0, 0)), itself)


def test_a_circle() -> None:
    """Where all wait for each other one that gave up is told, not one that was stopped."""
    assert_told(failed(WaitFailed(TIMED_OUT, 0, 1)), failed(WaitFailed(ABORTED, 1, 0)))
