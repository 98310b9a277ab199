"""CPU devices as ranks beside GPUs: the CPU's program, with exchanges that go through the GPUs' cells.

Such plans exchange float32 only, and the first producer adds the residual, as the layer graph says.
"""

from __future__ import annotations

import numpy as np
import torch

from ...kernels import tape
from ...kernels.gpu.slots import CELL_BYTES, Site
from ...kernels.worker import Worker
from ...planner.layer_graph import device_steps
from ...planner.model_spec import ModelSpec
from ...planner.steps import Step
from ..pass_runner import DeviceProgram, PassRunner, Shared
from ..program import Bound, StepBinder
from ..state import DeviceState
from ..weights import Key, Shard
from .tokens import Tokens


class SharedPasses(Shared):
    """What the CPU devices' pass runner asks of the memory that they share with GPUs: to stop, and the pass's epoch."""

    def __init__(self, host: Tokens) -> None:
        self.host = host

    @property
    def abort_address(self) -> int:
        return self.host.memory.address

    @property
    def aborted(self) -> bool:
        return self.host.memory.aborted

    def abort(self) -> None:
        self.host.memory.abort()

    def number(self, collectives: int) -> int:
        """What the cells of the pass at hand carry."""
        return self.host.epoch


class CellBinder(StepBinder):
    """Binds a CPU device's steps to the call-sites of `sites`, by collective."""

    def __init__(self, model: ModelSpec, state: DeviceState, host: Tokens, sites: dict[int, Site]) -> None:
        super().__init__(model, state)
        self.host, self.sites = host, sites

    def _slot(self, site: Site, producer: int) -> int:
        """Address of the first cell of a producer's slot in passes of even epoch."""
        cells_before = site.slot_cells[site.producers.index(producer)]
        return self.host.memory.address + site.offset + CELL_BYTES * cells_before

    def _push(self, step: Step) -> Bound:
        s, site = self.state, self.sites[step.collective]
        assert site.wire == torch.float32
        where = s.at(self._produced(step)), self._slot(site, s.device)
        self.exchanged = True
        return Bound(step, (tape.PUSH_CELLS, *where, step.in_features, CELL_BYTES * site.copy_cells))

    def _pull(self, step: Step) -> Bound:
        s, site, mine = self.state, self.sites[step.collective], self._produced(step)
        target = self._pull_target(step)
        wanted = step.span if step.role == "pull_parts" else None
        parts = []
        for producer, wide in zip(step.peers, step.widths, strict=True):
            own = producer == s.device
            where = s.at(mine) if own else self._slot(site, producer)
            parts.append((int(not own), where, wanted[0] if wanted else 0, wide, self.model.hidden if wanted else wide))
        table = s.keep(np.array(parts, dtype=np.int64))
        how = tape.CONCAT if step.combine == "concat" else tape.SUM
        sizes = len(parts), how, step.out_features, CELL_BYTES * site.copy_cells
        return Bound(step, (tape.PULL_CELLS, s.at(target), table.ctypes.data, *sizes), awaited=step.peers)


class CpuRanks:
    """States of the CPU devices of a plan with GPUs, and the runners of their programs.

    `cpus`: their threads; `others`: names of the GPU devices.
    """

    def __init__(
        self,
        model: ModelSpec,
        cpus: dict[int, Worker],
        others: dict[int, str],
        host: Tokens,
        ropes: tuple[torch.Tensor, torch.Tensor],
        logits: torch.Tensor,
        rows: int,
        cache_dtype: torch.dtype,
    ) -> None:
        self.model, self.cpus, self.others, self.host, self.ropes = model, cpus, others, host, ropes
        self.logits, self.rows, self.cache_dtype, self.shared = logits, rows, cache_dtype, SharedPasses(host)
        self.states: dict[int, DeviceState] = {}

    def add(self, device: int, steps: list[Step], shards: dict[Key, Shard]) -> None:
        """On the device's own thread. `steps`: all that it will run, in any phase."""
        worker = self.cpus[device]
        self.states[device] = DeviceState(
            worker, device, self.model, steps, shards, self.ropes, self.logits, self.rows, self.cache_dtype
        )

    def runner(self, steps: list[Step], sites: dict[int, Site]) -> PassRunner:
        """Of one phase, whose exchanges go through `sites`."""
        programs = []
        for device, state in sorted(self.states.items()):
            if mine := device_steps(steps, device):
                bound = CellBinder(self.model, state, self.host, sites).bind(mine)
                programs.append(DeviceProgram(self.cpus[device].name, state, bound))
        return PassRunner(programs, self.shared, 0, self.others)
