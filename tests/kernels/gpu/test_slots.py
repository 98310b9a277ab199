"""The cells of small exchanges in host memory, as a CPU device reads and writes them."""

from __future__ import annotations

import pytest
import torch

from tpplan.kernels.gpu.host_memory import VALID, HostMemory, Layout, Trouble
from tpplan.kernels.gpu.slots import host_pull, host_push, new_site, slot

TYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("wire", TYPES)
def test_a_sum_is_of_rounded_parts_in_producer_order(wire: torch.dtype) -> None:
    layout = Layout(3)
    site = new_site(layout, 1, {0: 7, 1: 0, 2: 7}, (0, 1), "sum", wire, rows=2, spans={0: (0, 4), 1: (4, 7)})
    memory, first, last = HostMemory(layout), torch.randn(2, 7), torch.randn(2, 7)
    host_push(memory, site, 0, first, 3)
    host_push(memory, site, 2, last, 3)
    whole = first.to(wire).float() + last.to(wire).float()
    assert torch.equal(host_pull(memory, site, 0, 3, 2), whole[:, :4])
    assert torch.equal(host_pull(memory, site, 1, 3, 2), whole[:, 4:])


@pytest.mark.parametrize("wire", TYPES)
def test_uneven_slices_are_concatenated(wire: torch.dtype) -> None:
    layout = Layout(2)
    site = new_site(layout, 1, {0: 5, 1: 2}, (0, 1), "concat", wire)
    memory, first, last = HostMemory(layout), torch.randn(1, 5), torch.randn(1, 2)
    host_push(memory, site, 0, first, 1)
    host_push(memory, site, 1, last, 1)
    assert torch.equal(host_pull(memory, site, 1, 1), torch.cat([first, last], 1).to(wire).float())


def test_a_cell_is_payloads_then_epoch_and_epochs_alternate() -> None:
    layout = Layout(1)
    site = new_site(layout, 1, {0: 7}, (0,), "concat", torch.bfloat16)
    memory = HostMemory(layout)
    host_push(memory, site, 0, torch.tensor([[1.0, -2.0, 2.0, 4.0, -1.0, 0.5, 8.0]]), 5)
    cells = [[0x4080_4000_C000_3F80, 0x5_3F00_BF80], [0x4100, 0x5_0000_0000]]
    assert slot(memory, site, 0, 5, 1).tolist() == [cells]
    assert slot(memory, site, 0, 6, 1).tolist() == [[[0, 0], [0, 0]]]


def test_a_late_producer_is_named_and_stops_everybody() -> None:
    layout = Layout(2)
    site = new_site(layout, 4, {0: 2, 1: 2}, (0, 1), "sum", torch.float32)
    memory = HostMemory(layout)
    host_push(memory, site, 0, torch.ones(1, 2), 1)
    with pytest.raises(TimeoutError, match="device 0 waited for device 1 at call-site 4"):
        host_pull(memory, site, 0, 1, limit_s=0.02)
    assert memory.aborted
    memory.reset()
    assert not memory.aborted


def test_trouble_words_name_device_site_and_producer() -> None:
    memory = HostMemory(Layout(2))
    memory.words[memory.trouble_offset(1) // 8] = 9 << 32 | VALID | 300 << 8 | 2
    assert memory.troubles() == [Trouble(device=1, site=300, producer=2, epoch=9)]
