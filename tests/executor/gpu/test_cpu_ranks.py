"""CPU devices that exchange in the GPUs' cells: against the cells of plain Python, and whole models without any GPU."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import tiny_checkpoint
from plans import plan_of
from quantised_checkpoints import checkpoint
from runs import TRIO, logits_of
from splits import describe, random_split

from tpplan.executor.failures import DeviceFailed
from tpplan.executor.gpu.cpu_ranks import CpuRanks
from tpplan.executor.gpu.exchanges import make_sites
from tpplan.executor.gpu.pieces import pieces
from tpplan.executor.gpu.residuals import Residuals
from tpplan.executor.gpu.state import FEW_ROWS
from tpplan.executor.gpu.tokens import Tokens
from tpplan.executor.opening import start_worker
from tpplan.executor.parts import PartsKeeper
from tpplan.executor.pass_runner import PassRunner
from tpplan.executor.phases import phase_steps, steps_of_any_phase
from tpplan.executor.rope_tables import rope_tables
from tpplan.executor.session import Session
from tpplan.executor.weight_files import open_weights
from tpplan.executor.weights import ShardReader
from tpplan.kernels import staging, tape
from tpplan.kernels.gpu.bulk import new_bulk_slots
from tpplan.kernels.gpu.host_memory import HostMemory, Layout
from tpplan.kernels.gpu.slots import Site, host_pull, host_push, new_site, slot
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import Phase, Split
from tpplan.planner.weight_formats import mlp_unit

SHAPE: dict[str, Any] = {"hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 2}
IDS = torch.randint(0, 2304, (144,), generator=torch.Generator().manual_seed(7)).tolist()
PROMPT = 141
ROWS = 64  # of a pass: more than cells take


def runners(
    model: ModelSpec, path: Path, split: Split, held: ExitStack, context: int = 256, as_stored: bool = False
) -> tuple[dict[Phase, PassRunner], Tokens, torch.Tensor]:
    """Programs of CPU devices only, which exchange through cells."""
    steps, logits = phase_steps(model, split), torch.zeros(model.vocab)
    layout, sites = Layout(len(TRIO)), {}
    for phase in steps:
        first = sum(map(len, sites.values()))
        sites[phase] = make_sites(layout, steps[phase], first, model.hidden, Residuals.of(split, True), torch.float32)
    widest = max((sum(site.widths) for each in sites.values() for site in each.values()), default=model.hidden)
    slots = new_bulk_slots(layout, ROWS, max(widest, model.hidden))
    host = Tokens(HostMemory(layout), {}, 0)
    busy = [d for d in range(len(TRIO)) if steps_of_any_phase(steps, d)]
    workers = {d: start_worker(TRIO[d], held) for d in busy}
    ropes = rope_tables(model.rope, model.head_dim, context)
    ranks = CpuRanks(model, workers, dict(enumerate(TRIO)), host, ropes, logits, ROWS, torch.float32)
    with open_weights(path, model) as files:
        for d in busy:
            mine = steps_of_any_phase(steps, d)
            how = {"dtype": None, "keeper": PartsKeeper()} if as_stored else {"dtype": torch.float32}
            ranks.add(d, mine, ShardReader(files, model, split, device=d, **how).read_all(mine))  # type: ignore[arg-type]
    return {phase: ranks.runner(steps[phase], sites[phase], slots) for phase in steps}, host, logits


def passes(runner: PassRunner, host: Tokens, ids: list[int], position: int) -> None:
    """As `GpuRunner.run` cuts them."""
    at, collectives = 0, 1 + max(step.collective for program in runner.programs for step in program.steps)
    for taken, bucket in pieces(len(ids), position, 256, ROWS, False):
        assert taken == bucket
        host.begin_pass(collectives, large=bucket > FEW_ROWS)
        runner.run(ids[at : at + taken], position + at, at + taken == len(ids))
        at += taken


@pytest.mark.parametrize("seed", range(12))
def test_a_model_split_over_cells(tmp_path: Path, seed: int) -> None:
    """Prompt and tokens over any split give the logits of the same plan run through the CPUs' own slots, bit for bit
    where the rows of a pass are the same, and in any case within rounding.
    """
    path = tiny_checkpoint(("llama", "qwen3")[seed % 2], tmp_path, **SHAPE)
    model = load_model(path)
    split = random_split(model, 3, seed)
    with Session.open(plan_of(model, TRIO, split), model, path) as session:
        session._runners["prefill"].run(IDS[:PROMPT], 0, True)
        truth = [session.logits.clone()]
        for at in range(PROMPT, len(IDS)):
            session._runners["decode"].run([IDS[at]], at, True)
            truth.append(session.logits.clone())
    with ExitStack() as held:
        by_phase, host, logits = runners(model, path, split, held)
        passes(by_phase["prefill"], host, IDS[:PROMPT], 0)
        found = [logits.clone()]
        for at in range(PROMPT, len(IDS)):
            passes(by_phase["decode"], host, [IDS[at]], at)
            found.append(logits.clone())
        best = by_phase["decode"].best_token()
    assert best == int(truth[-1].argmax())
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * float(other.abs().max()), msg=describe(split))


@pytest.mark.parametrize("name", ["gptq-act-order", "Q4_1"])
def test_matrices_that_stay_quantised(tmp_path: Path, name: str) -> None:
    """As above, in the formats of the checkpoint."""
    path = checkpoint(tmp_path, name, 2)
    model = load_model(path)
    split = random_split(model, 3, 2, mlp_unit(model, "native"))
    truth = logits_of(plan_of(model, TRIO, split, "native"), path, IDS, PROMPT)
    with ExitStack() as held:
        by_phase, host, logits = runners(model, path, split, held, as_stored=True)
        passes(by_phase["prefill"], host, IDS[:PROMPT], 0)
        found = [logits.clone()]
        for at in range(PROMPT, len(IDS)):
            passes(by_phase["decode"], host, [IDS[at]], at)
            found.append(logits.clone())
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()), msg=describe(split))


def instructions(memory: HostMemory, site: Site, device: int, part: torch.Tensor, out: torch.Tensor) -> Any:
    """Push and pull of one device, as `CellBinder` writes them."""
    base, copy = memory.address + site.offset, 16 * site.copy_cells
    begin, end = site.span(device)
    table = []
    for place, (producer, wide) in enumerate(zip(site.producers, site.widths, strict=True)):
        where = part.data_ptr() if producer == device else base + 16 * site.slot_cells[place]
        wanted = (begin, end - begin) if site.combine == "sum" else (0, wide)
        table.append((int(producer != device), where, *wanted, wide))
    parts = np.array(table, dtype=np.int64)
    how = tape.CONCAT if site.combine == "concat" else tape.SUM
    own_slot = base + 16 * site.slot_cells[site.producers.index(device)]
    push = (tape.PUSH_CELLS, part.data_ptr(), own_slot, part.shape[1], copy, 0, 0, 16)
    pull = (tape.PULL_CELLS, out.data_ptr(), parts.ctypes.data, len(parts), how, out.shape[1], copy, 16)
    return tape.table([push, pull]), parts


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_cells_are_those_of_the_gpus(rows: int, combine: str) -> None:
    """What a CPU device pushes, the reference of the GPUs' slots pulls, and the other way round, in both copies."""
    layout = Layout(3)
    widths = {0: 37, 1: 37, 2: 37} if combine == "sum" else {0: 5, 1: 37, 2: 12}
    spans = {1: (3, 30)} if combine == "sum" else None
    site = new_site(layout, 1, widths, (0, 1), combine, torch.float32, 16, spans)  # type: ignore[arg-type]
    memory = HostMemory(layout)
    begin, end = site.span(1)
    for epoch in (1, 2, 7):
        parts = {d: torch.randn(rows, width) for d, width in widths.items()}
        out = torch.full((rows, end - begin), torch.nan)
        program, kept = instructions(memory, site, 1, parts[1], out)
        for d in (0, 2):
            host_push(memory, site, d, parts[d], epoch)
        assert run(program, epoch, rows, memory)[0] == staging.ARRIVED
        assert torch.equal(out, host_pull(memory, site, 1, epoch, rows))
        whole = (parts[0] + parts[1]) + parts[2] if combine == "sum" else torch.cat(list(parts.values()), 1)
        assert torch.equal(out, whole[:, begin:end])
        del kept


def run(program: np.ndarray, epoch: int, rows: int, memory: HostMemory, limit_ns: int = 10**9) -> tuple[int, int]:
    """The outcome of a program on one lane, and the place of the producer that it waited for."""
    state, arrived = np.array([0, rows, epoch]), np.zeros((1, 8), np.int64)
    deadline = time.monotonic_ns()
    ends, trouble = np.zeros(len(program), np.int64), np.zeros(3, np.int64)
    outcome = tape.run(program, 0, len(program), state, arrived, 0, memory.address, deadline + limit_ns, ends, trouble)
    return int(outcome), int(trouble[2])


def test_a_missing_cell_is_told() -> None:
    """One stale cell of one producer ends the wait at the deadline, by that producer's place; an abort ends it too."""
    layout = Layout(3)
    site = new_site(layout, 1, {0: 9, 1: 9, 2: 9}, (1,), "sum", torch.float32, 16)
    memory, parts = HostMemory(layout), torch.ones(2, 9)
    out = torch.zeros(2, 9)
    program, kept = instructions(memory, site, 1, parts, out)
    host_push(memory, site, 0, parts, 3)
    host_push(memory, site, 2, parts, 3)
    slot(memory, site, 2, 3, 2)[1, 2, 1] = (1 << 32) | 5
    assert run(program, 3, 2, memory, limit_ns=10**7) == (staging.TIMED_OUT, 2)
    memory.abort()
    assert run(program, 3, 2, memory)[0] == staging.ABORTED
    del kept


def test_a_stalled_cpu_device_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that never runs: the other gives up within its limit and names device, layer and step."""
    path = tiny_checkpoint("llama", tmp_path, **SHAPE)
    model = load_model(path)
    split = random_split(model, 3, 1)
    monkeypatch.setattr("tpplan.executor.state.WAIT_LIMIT_S", 0.3)
    with ExitStack() as held:
        by_phase, host, _ = runners(model, path, split, held)
        decode = by_phase["decode"]
        decode.programs = decode.programs[1:]
        host.begin_pass(0, large=False)
        with pytest.raises(DeviceFailed, match=r"device cpu\S* failed in .*, step pull\w*: waited too long for device"):
            decode.run([1], 0, True)
