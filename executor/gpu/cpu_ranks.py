"""CPU devices as ranks beside GPUs: the CPU's program, with exchanges that go through the GPUs' cells.

Such plans exchange float32 only, and the first producer adds the residual, as the layer graph says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from ...kernels import tape
from ...kernels.flagged import LINE_BYTES
from ...kernels.gpu.bulk import RING, BulkSlots, chunk_rows
from ...kernels.gpu.slots import CELL_BYTES, Site
from ...kernels.worker import Worker
from ...planner.layer_graph import device_steps
from ...planner.model_spec import ModelSpec
from ...planner.steps import Kind, Step
from ..pass_runner import DeviceProgram, PassRunner, Shared
from ..program import Bound, StepBinder
from ..state import DeviceState
from ..weights import Key, Shard
from .state import FEW_ROWS
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

    def numbers(self, collectives: int) -> tuple[int, ...]:
        """What cells of the pass at hand carry, then where the numbers of its large exchanges begin, and before it."""
        return self.host.epoch, *self.host.numbers


class CellBinder(StepBinder):
    """Binds a CPU device's steps to the call-sites of `sites`, by collective: few rows by cells, more by `slots`."""

    def __init__(
        self, model: ModelSpec, state: DeviceState, host: Tokens, sites: dict[int, Site], slots: BulkSlots
    ) -> None:
        super().__init__(model, state)
        self.memory, self.sites, self.slots = host.memory, sites, slots
        self.pushes: list[tuple[int, np.ndarray]] = []  # exchanges that this device pushes in, with their operands

    def bind(self, steps: Iterable[Step]) -> list[Bound]:
        """In the order of a pass."""
        bound = super().bind(steps)
        return [self._with_readers(each) if each.step.kind is Kind.PUSH else each for each in bound]

    def _with_readers(self, bound: Bound) -> Bound:
        """Whom a push of many rows waits for: those who read this device's part before in the same slot."""
        at = [collective for collective, _ in self.pushes].index(bound.step.collective)
        alike = [n for n, (collective, _) in enumerate(self.pushes) if (collective - bound.step.collective) % RING == 0]
        before = alike[alike.index(at) - 1]
        collective, operands = self.pushes[before][0], self.pushes[at][1]
        readers = tuple(d for d in self.sites[collective].consumers if d != self.state.device)
        words = [self.memory.address + self.slots.pulled + d * LINE_BYTES for d in readers]
        table = self.state.keep(np.array(words, dtype=np.int64))
        operands[6:10] = collective, int(before >= at), table.ctypes.data, len(readers)
        return replace(bound, awaited=readers)

    def _cells(self, site: Site, producer: int) -> int:
        """Address of the first cell of a producer's slot in passes of even epoch."""
        return self.memory.address + site.offset + CELL_BYTES * site.slot_cells[site.producers.index(producer)]

    def _rows(self, collective: int, producer: int) -> tuple[int, int]:
        """Addresses of a producer's slot for many rows, and of its flags."""
        s, turn = self.slots, producer * RING + collective % RING
        return self.memory.address + s.data + turn * s.slot_bytes, self.memory.address + s.flags + turn * s.flag_bytes

    def _operands(self, *values: int) -> np.ndarray:
        operands = np.zeros(tape.WIDTH, dtype=np.int64)
        operands[: len(values)] = values
        return self.state.keep(operands)

    def _push(self, step: Step) -> Bound:
        s, site = self.state, self.sites[step.collective]
        assert site.wire == torch.float32
        part, sizes = s.at(self._produced(step)), (step.in_features, CELL_BYTES * site.copy_cells)
        self.exchanged = True
        rows = self._rows(step.collective, s.device)
        more = self._operands(part, *rows, step.in_features, _chunk_rows(site), step.collective)
        self.pushes.append((step.collective, more))
        where = part, self._cells(site, s.device)
        return Bound(step, (tape.PUSH_CELLS, *where, *sizes, 0, 0, FEW_ROWS, more.ctypes.data))

    def _pull(self, step: Step) -> Bound:
        s, site, mine = self.state, self.sites[step.collective], self._produced(step)
        target = self._pull_target(step)
        wanted = step.span if step.role == "pull_parts" else None
        few, many = [], []
        for producer, wide in zip(step.peers, step.widths, strict=True):
            values = (wanted[0], wide, self.model.hidden) if wanted else (0, wide, wide)
            if producer == s.device:
                few.append((0, s.at(mine), *values))
                many.append((0, s.at(mine), *values))
            else:
                rows, flags = self._rows(step.collective, producer)
                few.append((1, self._cells(site, producer), *values))
                many.append((flags, rows, *values))
        tables = [s.keep(np.array(parts, dtype=np.int64)).ctypes.data for parts in (few, many)]
        how = tape.CONCAT if step.combine == "concat" else tape.SUM
        sizes, word = (len(few), how, step.out_features), self.memory.address + self.slots.pulled
        ends = _chunk_rows(site), step.collective, word + s.device * LINE_BYTES
        more = self._operands(s.at(target), tables[1], *sizes, *ends)
        by_cells = s.at(target), tables[0], *sizes, CELL_BYTES * site.copy_cells
        return Bound(step, (tape.PULL_CELLS, *by_cells, FEW_ROWS, more.ctypes.data), awaited=step.peers)


def _chunk_rows(site: Site) -> int:
    return chunk_rows(sum(site.widths) // len(site.widths))


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

    def runner(self, steps: list[Step], sites: dict[int, Site], slots: BulkSlots) -> PassRunner:
        """Of one phase, whose exchanges go through `sites` and `slots`."""
        programs = []
        for device, state in sorted(self.states.items()):
            if mine := device_steps(steps, device):
                bound = CellBinder(self.model, state, self.host, sites, slots).bind(mine)
                programs.append(DeviceProgram(self.cpus[device].name, state, bound))
        return PassRunner(programs, self.shared, 0, self.others)
