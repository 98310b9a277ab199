"""The solver against baselines, limits and wishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest
from profiles import make_model, make_profile

from tpplan.planner.errors import Infeasible
from tpplan.planner.plan import Workload, size
from tpplan.planner.request import Request
from tpplan.planner.solve import solve

MIB = 2**20
SHORT = Workload(prompt_tokens=64, new_tokens=32, context=256)


def tiny(**changes: object):
    shape = {"layers": 3, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 128, "vocab": 2048}
    return make_model(**shape | changes)


@pytest.mark.parametrize("speeds", [[1.0], [1.0, 0.6], [1.0, 1.0], [0.3, 1.0], [1.0, 0.6, 0.05]])
@pytest.mark.parametrize("link_s", [1e-7, 2e-5, 1e-3])
def test_never_slower_than_a_baseline(speeds: list[float], link_s: float) -> None:
    """Whatever the links, the plan is at least as fast as each of the six baselines that fit."""
    model = make_model(layers=6, vocab=8192)
    plan = solve(model, "m", make_profile(speeds, link_s=link_s), Request(workload=SHORT))
    prices = [b.objective_s for b in plan.baselines.values() if b.feasible]
    assert len(plan.baselines) == 6
    assert plan.objective_s <= min(prices)


def test_demo_shape_is_proven_fast() -> None:
    """SmolLM2's shape on two devices is proven optimal within 1 s inside the solver; a busy machine gets twice that."""
    plan = solve(make_model(), "m", make_profile([1.0, 0.6]), Request())
    assert plan.status == "optimal"
    assert plan.gap < 0.01
    assert plan.solve_s < 2


@pytest.mark.parametrize("attention", ["row", "column"])
@pytest.mark.parametrize("mlp", ["row", "column"])
@pytest.mark.parametrize("heads", [(2, 1), (0, 3)])
@pytest.mark.parametrize("columns", [(1504, 32), (1536, 0)])
def test_splits_by_hand_are_honoured(
    attention: str, mlp: str, heads: tuple[int, ...], columns: tuple[int, ...]
) -> None:
    """Shares and strategies given by hand appear in every layer exactly as given."""
    request = Request(
        workload=SHORT,
        attention_split=heads,
        attention_strategy=attention,
        mlp_split=columns,
        mlp_strategy=mlp,
    )
    plan = solve(make_model(layers=2, vocab=4096), "m", make_profile([1.0, 0.6]), request)
    for layer in plan.layers:
        assert tuple(size(span) // 3 for span in layer.attention.units) == heads
        assert tuple(map(size, layer.mlp.units)) == columns
        assert (layer.attention.strategy, layer.mlp.strategy) == (attention, mlp)


def test_what_was_given_by_hand_is_told_as_such() -> None:
    """Space and reasons name what the solver did not choose; without wishes they say nothing of the kind."""
    wishes = {"attention_split": (3, 0), "mlp_strategy": "row"}
    plan = solve(tiny(heads=6, kv_heads=3), "m", make_profile([1.0, 0.6]), Request(workload=SHORT, **wishes))
    assert plan.space.startswith("attention split 3:0, mlp strategy row as given by hand; the proof covers the rest: ")
    assert plan.reasons[0].startswith("attention split 3:0, mlp strategy row as given by hand; for the rest ")
    free = solve(tiny(), "m", make_profile([1.0, 0.6]), Request(workload=SHORT))
    assert "by hand" not in " ".join([free.space, *free.reasons])


def test_a_ragged_last_unit_by_hand() -> None:
    """With 100 MLP columns the last share may be ragged, an inner one may not."""
    profile = make_profile([1.0, 0.6])
    plan = solve(tiny(mlp=100), "m", profile, Request(workload=SHORT, mlp_split=(64, 36)))
    assert plan.layers[0].mlp.units == ((0, 64), (64, 100))
    with pytest.raises(ValueError, match="multiples of 32"):
        solve(tiny(mlp=100), "m", profile, Request(workload=SHORT, mlp_split=(36, 64)))


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"attention_split": (3,)}, "1 shares for 2 devices"),
        ({"attention_split": (4, -1)}, "negative"),
        ({"attention_split": (2, 2)}, "sums to 4, the model has 3 KV heads"),
        ({"mlp_split": (1000, 536)}, "multiples of 32"),
        ({"caps": {"cuda:7": 1}}, "no device 'cuda:7'"),
        ({"caps": {"cpu:0": -1}}, "negative"),
        ({"workload": Workload(prompt_tokens=0)}, "prompt_tokens must be at least 1"),
        ({"workload": Workload(prompt_tokens=4000, new_tokens=200)}, "exceed the context"),
        ({"workload": Workload(context=10**6)}, "exceeds the 8192 positions"),
        ({"time_limit_s": 0.0}, "time limit"),
    ],
)
def test_senseless_requests_are_refused(wish: dict[str, object], reason: str) -> None:
    """A request that no plan could honour is a one-line ValueError, not Infeasible."""
    with pytest.raises(ValueError, match=reason) as caught:
        solve(make_model(), "m", make_profile([1.0, 0.6]), Request(**wish))
    assert not isinstance(caught.value, Infeasible)
    assert "\n" not in str(caught.value)


def test_caps_are_kept() -> None:
    """A cap on the fast device moves units to the slow one, and every device stays within its cap."""
    profile, caps = make_profile([1.0, 0.3]), {"cpu:0": 200 * MIB}
    free = solve(make_model(), "m", profile, Request())
    capped = solve(make_model(), "m", profile, Request(caps=caps))
    assert free.device_use[0].bytes > 200 * MIB >= capped.device_use[0].bytes
    assert capped.objective_s > free.objective_s


def test_a_split_by_hand_that_does_not_fit_is_infeasible() -> None:
    """All heads on a device too small for their cache: exit code 3, not a silently different split."""
    request = Request(attention_split=(3, 0), caps={"cpu:0": 100 * MIB})
    with pytest.raises(Infeasible):
        solve(make_model(), "m", make_profile([1.0, 0.6]), request)


def test_a_slow_device_is_left_out_and_the_plan_says_why() -> None:
    """A device a hundred times slower holds nothing, and the reasons name it."""
    plan = solve(make_model(layers=6), "m", make_profile([1.0, 0.8, 0.01], link_s=2e-5), Request())
    assert plan.device_use[2].bytes == 0
    assert any("cpu:2 has no part in attention" in reason for reason in plan.reasons)


def test_same_input_same_plan() -> None:
    """Two solves of one request differ in nothing but the time they took."""
    plans = [
        solve(make_model(layers=4, vocab=8192), "m", make_profile([1.0, 1.0]), Request(workload=SHORT))
        for _ in range(3)
    ]
    assert len({msgspec.json.encode(msgspec.structs.replace(p, solve_s=0.0)) for p in plans}) == 1


def test_windows_make_classes() -> None:
    """Layers with another window are a class of their own, alike among themselves."""
    model = make_model(layers=6, windows=(0, 128) * 3, vocab=4096)
    workload = Workload(prompt_tokens=3000, new_tokens=500, context=4096)
    plan = solve(model, "m", make_profile([1.0, 0.6]), Request(workload=workload))
    assert len(set(plan.layers[0::2])) == len(set(plan.layers[1::2])) == 1


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_head(tied: bool) -> None:
    """Tied embeddings share their ranges with the head; untied ones may differ and a plan is found."""
    plan = solve(tiny(tied_embeddings=tied, vocab=5000), "m", make_profile([1.0, 0.6]), Request(workload=SHORT))
    assert plan.embedding[-1][1] == plan.head[-1][1] == 5000
    assert not tied or plan.embedding == plan.head


def test_the_planner_never_loads_torch() -> None:
    """Solving imports OR-Tools, not torch."""
    code = "import sys, tpplan.planner.solve, ortools.sat.python.cp_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_crashed_solver_leaves_the_best_known_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CP-SAT dies, the plan is the best split that needs no solver, and says that it is not proven."""
    die = "tpplan.planner.guarded_solver._search"
    monkeypatch.setattr(die, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr("tpplan.planner.proof.set_search", lambda *arguments: None)
    plan = solve(tiny(), "model", make_profile([1.0, 0.5]), Request(workload=SHORT))
    best = min(b.objective_s for b in plan.baselines.values() if b.objective_s is not None)
    assert plan.status == "feasible"
    assert plan.objective_s <= best
    assert "no proof" in plan.space
