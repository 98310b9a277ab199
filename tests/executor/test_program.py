"""One vocabulary of steps: each kind is measured, priced and bound; its tape and its calls give the same numbers."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
import torch
from checkpoints import tiny_checkpoint
from plans import plan_by_hand
from profiles import make_model
from small_probes import shrink

from tpplan.executor.pass_runner import PassRunner
from tpplan.executor.program import Binder
from tpplan.executor.sampling import Sampler
from tpplan.executor.session import Session
from tpplan.hwprofiles.device_names import available_cores
from tpplan.hwprofiles.measure import measure
from tpplan.kernels import tape
from tpplan.planner.cost import CostModel
from tpplan.planner.layer_graph import pass_steps
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import Dtype
from tpplan.planner.steps import Kind, Step

CORES = available_cores()
PAIR = [f"cpu:{CORES[0]}", f"cpu:{CORES[-1]}" if len(CORES) > 1 else "cpu"]
STRATEGIES = [("row", "row"), ("row", "column"), ("column", "row"), ("column", "column")]
IDS = [5, 1999, 0, 77, 1024, 300]


def steps_of_all_kinds(model: ModelSpec, rows: int) -> list[Step]:
    """A pass of a split with both strategies on two devices."""
    plan = plan_by_hand(model, PAIR, (2, 1), (64, 128), (1024, model.vocab - 1024), "row", "column")
    return pass_steps(model, plan.split, rows, context=rows + 20)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_kind_is_priced_from_a_measurement(dtype: Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measured profile prices every kind of step, in decode and in prefill, contended and alone."""
    shrink(monkeypatch)
    profile = measure(PAIR, quick=True, progress=lambda what, share: None)
    model = make_model(layers=2, hidden=96, mlp=192, vocab=2304)
    cost = CostModel(profile, dtype)
    for rows in (1, 7, 256):
        steps = steps_of_all_kinds(model, rows)
        assert {step.kind for step in steps} == set(Kind)
        assert all(0 < cost.step_s(step) < 1 for step in steps)


def test_a_profile_without_a_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that lacks any one kind is refused with the kind's name, not priced as free."""
    shrink(monkeypatch)
    profile = measure(PAIR, quick=True, progress=lambda what, share: None)
    steps = {step.kind: step for step in steps_of_all_kinds(make_model(layers=1, hidden=96, mlp=192, vocab=2304), 1)}
    for kind in Kind:
        devices = tuple(
            msgspec.structs.replace(d, ops=tuple(p for p in d.ops if p.op != kind)) for d in profile.devices
        )
        lacking = CostModel(msgspec.structs.replace(profile, devices=devices), "float32")
        with pytest.raises(ValueError, match=f"the profile has no {kind} figures"):
            lacking.step_s(steps[kind])


def test_every_kind_is_bound() -> None:
    """The binder and the tape know every kind of step, and the binder nothing else of that name."""
    assert all(callable(getattr(Binder, f"_{kind}", None)) for kind in Kind)
    opcodes = [getattr(tape, kind.name) for kind in Kind] + [tape.PUSH_CELLS, tape.PULL_CELLS]
    assert sorted(opcodes) == list(range(len(Kind) + 2))


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "mistral"])
@pytest.mark.parametrize(("attention", "mlp"), STRATEGIES)
def test_tape_and_calls_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, attention: str, mlp: str
) -> None:
    """One token by the tape alone and by the calls of prefill gives every device the same hidden state and logits."""
    overrides = {"sliding_window": 3} if name == "mistral" else {}
    path = tiny_checkpoint(name, tmp_path, **overrides)
    model = load_model(path)
    plan = plan_by_hand(model, PAIR, (2, 1), (64, 128), (1024, 1280), attention, mlp)
    sampler = Sampler(temperature=1.0, seed=0)  # so that logits come to the host
    with Session.open(plan, model, path) as session:
        session.step(IDS[:-1], 0, sampler)

        @torch.inference_mode()
        def step() -> tuple[list[torch.Tensor], torch.Tensor]:
            """What each device leaves in its buffers, and the logits."""
            for buffer in buffers:
                buffer.fill_(torch.nan)
            session.step(IDS[-1:], len(IDS) - 1, sampler)
            return [buffer.clone() for buffer in buffers], session.logits.clone()

        buffers = [b for program in session._runners["decode"].programs for b in program.state.buffers.values()]
        by_tape, tape_logits = step()
        monkeypatch.setattr(
            PassRunner,
            "_start",
            lambda self, program, rows, position, logits: [
                program.state.worker.submit(lambda: self._run_rows(program, len(program.bound), rows, position))
            ],
        )
        by_calls, call_logits = step()
    assert torch.isfinite(tape_logits).all()
    close = {"rtol": 0, "atol": 1e-5 * float(tape_logits.abs().max())}
    torch.testing.assert_close(call_logits, tape_logits, **close)
    for one, other in zip(by_tape, by_calls, strict=True):
        assert math.isfinite(float(one[0]))
        torch.testing.assert_close(other, one, equal_nan=True, **close)
