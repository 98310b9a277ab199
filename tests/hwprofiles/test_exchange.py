"""The exchange that is measured: figures of every device, and damaged data that is noticed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tpplan.hwprofiles import timing
from tpplan.hwprofiles.device_names import available_cores
from tpplan.hwprofiles.exchange import Exchange, rendezvous_s
from tpplan.hwprofiles.timing import Bench
from tpplan.kernels.worker import Worker

CORES = available_cores()


@pytest.fixture
def benches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Bench]]:
    """As many devices as asked for (2 by default), one core each, with small pools."""
    monkeypatch.setattr(timing, "POOL_FLOATS", 2**12)
    workers = [Worker(f"device {d}", (CORES[d % len(CORES)],)) for d in range(getattr(request, "param", 2))]
    yield [Bench(worker) for worker in workers]
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("benches", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("values", [1, 577])
def test_every_device_is_timed(benches: list[Bench], values: int, extra: int) -> None:
    """One to three devices push and pull, alone and together, in positive times, and read what they should."""
    exchange = Exchange(benches, values)
    times = [*exchange.together(extra), *(exchange.alone(d, extra) for d in range(len(benches)))]
    assert len(times) == 2 * len(benches)
    assert all(0 < seconds < 1 for pair in times for seconds in pair)


@pytest.mark.parametrize("benches", [1, 2, 3], indirect=True)
def test_what_is_read_is_the_sum(benches: list[Bench]) -> None:
    """After an exchange every device holds the float32 sum of all parts, in device order."""
    exchange = Exchange(benches, 577)
    exchange.together()
    want = sum(exchange.parts[1:], exchange.parts[0])
    assert all(torch.equal(read, want) for read in exchange.sums)


@pytest.mark.parametrize("how", ["together", "alone"])
def test_a_damaged_part_is_noticed(benches: list[Bench], monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """One wrong bit in what a device reads stops the measurement with that device's name."""
    exchange, honest = Exchange(benches, 577), Exchange._part
    damaged = exchange.parts[0].clone()
    damaged.view(torch.int32)[300] ^= 1 << 12

    def part(self: Exchange, device: int, producer: int, site: int) -> tuple[int, int, int]:
        word, at, values = honest(self, device, producer, site)
        return word, damaged.data_ptr() if (device, producer) == (1, 0) else at, values

    monkeypatch.setattr(Exchange, "_part", part)
    with pytest.raises(ValueError, match="device 1 read wrong data through host memory"):
        exchange.together() if how == "together" else exchange.alone(1)


@pytest.mark.parametrize("how", ["together", "alone"])
def test_a_slot_that_nobody_wrote_is_noticed(benches: list[Bench], monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """What an earlier run left behind does not pass for what this one should have moved."""
    exchange = Exchange(benches, 64)
    exchange.together()
    exchange.alone(0)
    lost = torch.zeros(64)
    pushed_to = exchange.staging.slot
    monkeypatch.setattr(exchange.staging, "slot", lambda site, device: lost if device == 1 else pushed_to(site, device))
    honest = Exchange._part

    def part(self: Exchange, device: int, producer: int, site: int) -> tuple[int, int, int]:
        word, _, values = honest(self, device, producer, site)
        return word, pushed_to(site, producer).data_ptr() if word else exchange.parts[device].data_ptr(), values

    monkeypatch.setattr(Exchange, "_part", part)
    with pytest.raises(ValueError, match="device 0 read wrong data"):
        exchange.together() if how == "together" else exchange.alone(0)


@pytest.mark.parametrize("benches", [1, 2, 3], indirect=True)
def test_rendezvous(benches: list[Bench]) -> None:
    """A flag takes some time between two devices, none where there is only one."""
    seconds = rendezvous_s(benches)
    assert seconds < 0.1
    assert (seconds > 0) == (len(benches) > 1)
