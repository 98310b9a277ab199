"""A device's threads: where they run, in which order, and how they end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from tpplan.hwprofiles.device_names import available_cores
from tpplan.kernels.worker import Worker

CORES = available_cores()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A device of all cores of this process."""
    worker = Worker("cpu", CORES)
    yield worker
    worker.close()


def test_lanes_are_pinned_to_the_devices_cores(worker: Worker) -> None:
    """There is a thread a core, all of them may run on the device's cores only, and this thread is left as it was."""
    pinned = Worker("one", CORES[-1:])
    jobs = [pinned.submit(lambda: os.sched_getaffinity(0))]
    jobs += [worker.submit(lambda: os.sched_getaffinity(0), lane) for lane in range(worker.lanes)]
    first, *others = (job.result() for job in jobs)
    pinned.close()
    assert (pinned.lanes, worker.lanes) == (1, len(CORES))
    assert first == {CORES[-1]}
    assert others == [set(CORES)] * len(CORES)
    assert os.sched_getaffinity(0) == set(CORES)


def test_torch_uses_the_devices_cores(worker: Worker) -> None:
    """torch operations of a lane use as many threads as the device has cores, on each device by itself."""
    single = Worker("one", CORES[:1])
    assert worker.submit(torch.get_num_threads).result() == len(CORES)
    assert single.submit(torch.get_num_threads).result() == 1
    assert worker.submit(torch.get_num_threads).result() == len(CORES)
    single.close()


def test_jobs_of_a_lane_run_in_order(worker: Worker) -> None:
    """A lane takes one job at a time, in the order in which they came, always on the same thread."""
    done: list[tuple[int, int]] = []
    jobs = [worker.submit(lambda n=n: done.append((n, threading.get_ident()))) for n in range(50)]
    for job in jobs:
        job.result()
    assert [n for n, _ in done] == list(range(50))
    assert len({thread for _, thread in done}) == 1


def test_jobs_keep_no_gradients(worker: Worker) -> None:
    """Jobs run without autograd, whatever the weights say."""
    weight = torch.ones(2, requires_grad=True)
    assert not worker.submit(lambda: weight * 2).result().requires_grad


def test_a_jobs_error_is_its_own(worker: Worker) -> None:
    """An error comes back to who asked; the lane takes the next job."""
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: 1 / 0).result()
    assert worker.submit(lambda: 7).result() == 7


def test_close_ends_the_threads() -> None:
    """Closing waits for the job at hand, drops those that have not begun, and leaves no thread behind."""
    before = threading.active_count()
    worker = Worker("cpu", CORES[:1])
    started = threading.Event()
    at_hand = worker.submit(lambda: (started.set(), time.sleep(0.1)))
    never = worker.submit(lambda: None)
    started.wait(5)
    worker.close()
    assert at_hand.done()
    assert never.cancelled()
    assert threading.active_count() == before
