"""Devices that die, stall or are interrupted: everything stops soon, and the message names device, layer and step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from checkpoints import tiny_checkpoint
from plans import plan_by_hand, plan_of, ranges
from runs import PAIR, TRIO

from tpplan.executor.failures import DeviceFailed
from tpplan.executor.pass_runner import DeviceProgram
from tpplan.executor.sampling import Sampler
from tpplan.executor.session import Session
from tpplan.kernels import tape
from tpplan.planner.model_files import load_model
from tpplan.planner.plan import BlockPlan, LayerPlan, Split
from tpplan.planner.steps import Kind

PROMPT = list(range(5, 25))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama."""
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("tiny"))


def open_pair(path: Path, context: int = 256) -> Session:
    model = load_model(path)
    return Session.open(plan_by_hand(model, PAIR, (2, 1), (64, 128), (1024, 1280), context=context), model, path)


def swap_call(program: DeviceProgram, name: str, call: Callable[[int, int], None]) -> None:
    """Puts `call` in place of the step called `name` (prefill)."""
    at = next(i for i, bound in enumerate(program.bound) if bound.step.name == name)
    program.bound[at] = replace(program.bound[at], call=call)


def stopped_within(seconds: float, act: Callable[[], object], message: str) -> None:
    started = time.perf_counter()
    with pytest.raises(DeviceFailed, match=message):
        act()
    assert time.perf_counter() - started < seconds


def test_death_in_prefill(checkpoint: Path) -> None:
    """A step that raises on one device stops the other at once, and the error says where it happened."""

    def die(rows: int, position: int) -> None:
        raise MemoryError("no room")

    with open_pair(checkpoint) as session:
        swap_call(session._runners["decode"].programs[1], "layer1.mlp.d1.down_proj", die)
        message = f"device {PAIR[1]} failed in layer 1, mlp, step down_proj: no room"
        stopped_within(2, lambda: session.generate(PROMPT, 8, Sampler()), message)


def test_stall_in_decode(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose tape never pushes makes the other give up at its deadline, naming whom it waited for."""
    monkeypatch.setattr("tpplan.executor.state.WAIT_LIMIT_S", 1.0)
    with open_pair(checkpoint) as session:
        program = session._runners["decode"].programs[1]
        at = next(i for i, b in enumerate(program.bound) if b.step.kind is Kind.PUSH and b.step.layer == 1)
        program.tape[at:] = program.tape[0]  # the embedding over and over
        message = (
            f"device {PAIR[0]} failed in layer 1, attention, step pull_hidden: waited too long for device {PAIR[1]}"
        )
        stopped_within(4, lambda: session.generate(PROMPT, 8, Sampler()), message)


def test_death_in_decode(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device thread that dies while the other decodes leaves nobody waiting."""
    run = tape.run

    def die(program: object, begin: int, end: int, *rest: object) -> int:
        if end and threading.current_thread().name.startswith(PAIR[1]):
            raise OSError("the device fell off the bus")
        return int(run(program, begin, end, *rest))

    with open_pair(checkpoint) as session:
        monkeypatch.setattr(tape, "run", die)
        message = f"device {PAIR[1]} failed in embed, step embed: the device fell off the bus"
        stopped_within(2, lambda: session.generate(PROMPT, 8, Sampler()), message)


def open_trio(path: Path) -> Session:
    """Units on two devices; the third adds up for them, in decode and in prefill."""
    model = load_model(path)
    sums = ranges((0, 0, model.hidden))
    attention = BlockPlan("row", ranges((3, 3, 0)), (), sums, sums)
    layer = LayerPlan(attention, BlockPlan("row", ranges((64, 128, 0)), (), sums, sums))
    split = Split(ranges((1024, 1280, 0)), (layer,) * model.layers, ranges((1024, 1280, 0)))
    return Session.open(plan_of(model, TRIO, split), model, path)


@pytest.mark.parametrize(
    ("stalled", "waiting", "role"),
    [(2, f"({PAIR[0]}|{PAIR[1]})", "pull_hidden"), (1, TRIO[2], "pull_parts")],
)
def test_stall_around_a_sum(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, stalled: int, waiting: str, role: str
) -> None:
    """Those who wait for a device that adds up, and a device that adds up and waits for parts, give up and say so; what
    is told is who waits for the stalled device, not who waits for the waiting.
    """
    with open_trio(checkpoint) as session:
        session.step(PROMPT[:1], 0, Sampler())
        monkeypatch.setattr("tpplan.executor.state.WAIT_LIMIT_S", 0.3)
        program = session._runners["decode"].programs[stalled]
        names = [f"layer1.mlp.d{stalled}.push_{name}" for name in ("parts", "hidden")]
        at = next(i for i, b in enumerate(program.bound) if b.step.name in names)
        program.tape[at:, 0] = -1  # nothing, over and over
        message = f"device {waiting} failed in layer 1, mlp, step {role}: .*waited .*for device {TRIO[stalled]}$"
        stopped_within(4, lambda: session.step(PROMPT[1:2], 1, Sampler()), message)


@pytest.mark.parametrize("dying", [1, 2])
def test_death_around_a_sum(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, dying: int) -> None:
    """A device that dies while others wait for its part or its sum stops them all at once, in prefill and in decode."""
    run, threads = tape.run, TRIO[dying] + " lane"

    def die(program: object, begin: int, end: int, *rest: object) -> int:
        if end and threading.current_thread().name.startswith(threads):
            raise OSError("the device fell off the bus")
        return int(run(program, begin, end, *rest))

    for ids in (PROMPT, PROMPT[:1]):
        with open_trio(checkpoint) as session, monkeypatch.context() as patch:
            patch.setattr(tape, "run", die)
            message = f"device {TRIO[dying]} failed in .*: the device fell off the bus"
            stopped_within(2, lambda: session.step(ids, 0, Sampler(), "prefill"), message)  # noqa: B023


def test_new_session_after_a_failure(checkpoint: Path) -> None:
    """After a failed session the same process opens another, and it gives what an undisturbed one gives."""
    with open_pair(checkpoint) as session:
        want = session.generate(PROMPT, 8, Sampler()).token_ids
    test_death_in_prefill(checkpoint)
    with open_pair(checkpoint) as session:
        assert session.generate(PROMPT, 8, Sampler()).token_ids == want


def test_damaged_logits(checkpoint: Path) -> None:
    """Logits that are not numbers end generation with an error instead of token 0."""
    with open_pair(checkpoint) as session:
        head = session._runners["decode"].programs[0].state.shards[-1, "head", "norm"].weight
        head.data.fill_(float("nan"))
        with pytest.raises(ValueError, match="not numbers"):
            session.generate(PROMPT, 8, Sampler())


def test_refusals_before_any_pass(checkpoint: Path) -> None:
    """Empty prompts, unknown ids and overflowing contexts are refused before anything runs."""
    with open_pair(checkpoint, context=24) as session:
        for prompt, new_tokens, message in (
            ([], 4, "prompt is empty"),
            ([2304], 4, "2304"),
            ([-1], 4, "id"),
            (PROMPT, 6, "--context 25"),
            (PROMPT, 0, "at least 1"),
        ):
            with pytest.raises(ValueError, match=message):
                session.generate(prompt, new_tokens, Sampler())
        assert session._runners["decode"].staging.base == 1
        assert len(session.generate(PROMPT, 5, Sampler()).token_ids) == 5  # exactly fills the context


def test_other_machine(checkpoint: Path) -> None:
    """A plan for a core that this machine lacks is refused before any weight is read."""
    model = load_model(checkpoint)
    plan = plan_by_hand(model, ["cpu:0", "cpu:4711"], (2, 1), (64, 128), (1024, 1280))
    with pytest.raises(ValueError, match=r"cpu:4711.*not on this machine"):
        Session.open(plan, model, checkpoint)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"devices": ("rtx3090", "cpu")}, r"'rtx3090'.*simulated and exported"),
        ({"devices": ("cpu:0", "rtx3060:1")}, r"'rtx3060:1'.*simulated and exported"),
        ({"dtype": "int4"}, "int4.*--dtype bfloat16"),
        ({"dtype": "int8"}, "int8.*--dtype bfloat16"),
    ],
)
def test_plans_that_are_not_for_running(checkpoint: Path, changes: Any, said: str) -> None:
    """A plan for a machine of the catalogue, or with weights in 8 or 4 bits, is refused before any weight is read."""
    model = load_model(checkpoint)
    plan = msgspec.structs.replace(plan_by_hand(model, PAIR, (2, 1), (64, 128), (1024, 1280)), **changes)
    with pytest.raises(ValueError, match=f"^[^\n]*{said}"):
        Session.open(plan, model, checkpoint)


def test_full_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without room for the plan refuses it, with both figures, before reading weights."""
    monkeypatch.setattr("tpplan.executor.opening.available_bytes", lambda: 1024)
    with pytest.raises(ValueError, match=r"needs .* MiB of host memory, 0 MiB are free"):
        open_pair(checkpoint)


def test_interrupt(demo_gguf: Path, tmp_path: Path) -> None:
    """ctrl-C in the middle of a text ends the command, all its threads included, at once and with exit code 130."""
    from tpplan.planner.storage import save_plan

    plan = plan_by_hand(load_model(demo_gguf), PAIR, (2, 1), (1024, 512), (24576, 24576), context=4096)
    save_plan(plan, tmp_path / "plan.json")
    command = [sys.executable, "-m", "tpplan", "run", "--plan", str(tmp_path / "plan.json"), "--model", str(demo_gguf)]
    options = ["--raw", "--prompt", "Once upon a time", "--max-new-tokens", "4000"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)  # the first text is out
        interrupted = time.perf_counter()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert time.perf_counter() - interrupted < 2
    assert process.returncode == 130
    assert b"Traceback" not in errors
