"""What-if outcomes against solves of their own, limits by brute force, and sweeps that end where memory does."""

from __future__ import annotations

import math
import time
from functools import partial
from itertools import pairwise

import msgspec
import pytest
from profiles import make_model, make_profile

from tpplan.hwprofiles.changes import with_device, without_device
from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.errors import Infeasible
from tpplan.planner.infeasible import Case
from tpplan.planner.plan import Workload
from tpplan.planner.request import Request
from tpplan.planner.solve import solve
from tpplan.planner.sweeps import Point, batches, contexts, sweep
from tpplan.planner.variants import AS_IS, TOGETHER, variants
from tpplan.planner.whatif import NO_TIME, UNFIT, Outcome, largest_context, ranked, refusal, what_if
from tpplan.planner.whatif_report import curves, outcome_tables, problems, sweep_tables
from tpplan.planner.wishes import completed

MODEL = make_model(layers=4, hidden=256, heads=4, kv_heads=2, head_dim=64, mlp=512, vocab=4096, context=2048)
LONG = msgspec.structs.replace(MODEL, context=32768)
REQUEST = Request(Workload(prompt_tokens=64, new_tokens=32, context=256), time_limit_s=5.0)
MIB = 2**20


def quiet(task: str, fraction: float) -> None:
    assert task
    assert 0 <= fraction <= 1


def machine(speeds: list[float], free_mib: int = 8192) -> HardwareProfile:
    return make_profile(speeds, free_bytes=free_mib * MIB)


def faster(profile: HardwareProfile) -> HardwareProfile:
    """One more device, four times as fast, of another machine."""
    return with_device(msgspec.structs.replace(profile), _cuda(4.0))


def slower(profile: HardwareProfile) -> HardwareProfile:
    return with_device(profile, _cuda(0.01))


def _cuda(speed: float):
    return make_profile([speed], kind="cuda").devices[0]


def broken(profile: HardwareProfile) -> HardwareProfile:
    raise ValueError("no such\ndevice")


def test_each_outcome_is_a_solve_of_its_own() -> None:
    """Figures of every row are those of solving that machine alone, ranked by the time of the answer."""
    base = machine([1.0, 0.5])
    asked = variants(base, REQUEST, [("fast", faster), ("less", lambda p: without_device(p, "cpu:1"))])
    found = what_if(MODEL, asked, 60.0, quiet)
    assert [o.name for o in found] == [AS_IS, "fast", "less", TOGETHER]
    for variant, outcome in zip(asked[:2], found[:2], strict=True):
        alone = solve(MODEL, "", variant.profile, variant.request)
        assert outcome.answer_s == pytest.approx(alone.objective_s)
        assert outcome.decode_tokens_per_s == pytest.approx(alone.predicted.decode_tokens_per_s)
        assert outcome.speedup == pytest.approx(found[0].answer_s / alone.objective_s)
    times = [o.answer_s for o in ranked(found)]
    assert times == sorted(times)
    assert found[1].speedup > 1 > found[2].speedup


def test_changes_by_themselves_and_together() -> None:
    """A change starts from the machine as it is; together, each from the one before; one alone has no together."""
    base = machine([1.0])
    asked = variants(base, REQUEST, [("a", faster), ("b", slower)])
    assert [len(v.profile.devices) for v in asked] == [1, 2, 2, 3]
    assert [v.name for v in variants(base, REQUEST, [("a", faster)])] == [AS_IS, "a"]
    assert base == machine([1.0])


def test_a_change_that_cannot_be_is_refused() -> None:
    """Before any solve, in one line that names the change."""
    with pytest.raises(ValueError, match=r"^bad: no such device$"):
        variants(machine([1.0]), REQUEST, [("fast", faster), ("bad", broken)])


def test_changes_that_cannot_be_together_are_a_row() -> None:
    """Each of two devices can go, not both: the row says why on one line, comes last, and takes nobody with it."""
    changes = [(name, partial(without_device, name=name)) for name in ("cpu:0", "cpu:1")]
    found = what_if(MODEL, variants(machine([1.0, 1.0]), REQUEST, changes), 60.0, quiet)
    assert [o.fits for o in found] == [True, True, True, False]
    assert problems(found) == [f"{TOGETHER}: cpu:1 is the only device: nothing would be left"]
    assert ranked(found)[-1].name == TOGETHER
    assert refusal(found) is None


def test_caps_belong_to_the_machines_that_have_the_device() -> None:
    """A cap on a device that one change removes or another adds counts where the device is; one on none is refused."""
    request = msgspec.structs.replace(REQUEST, caps={"cuda:0": 100 * MIB, "cpu:1": 200 * MIB})
    asked = variants(machine([1.0, 1.0]), request, [("fast", faster), ("less", lambda p: without_device(p, "cpu:1"))])
    assert [sorted(v.request.caps) for v in asked] == [["cpu:1"], ["cpu:1", "cuda:0"], [], ["cuda:0"]]
    with pytest.raises(ValueError, match="'cuda:9' to cap"):
        variants(machine([1.0]), msgspec.structs.replace(REQUEST, caps={"cuda:9": 1}), [])


def test_largest_context_by_trying_all() -> None:
    """Bisection finds the last context that fits, checked against every one near it and at the ends."""
    for free_mib, room in ((20, "some"), (8192, "all"), (4, "none")):
        profile = machine([1.0, 1.0], free_mib)
        case = Case(LONG, profile, completed(REQUEST, LONG, profile), time.perf_counter() + 60)
        found = largest_context(case)
        if room == "none":
            assert found == 0
            assert not case.at_work(context=96).fits()
        elif room == "all":
            assert found == LONG.context
        else:
            assert 96 <= found < LONG.context
            fits = [n for n in range(found - 3, found + 4) if case.at_work(context=n).fits()]
            assert fits == list(range(found - 3, found + 1))


def test_what_does_not_fit_says_how_far_it_would_go() -> None:
    """Too long a context is a row with the largest that fits; if no row fits, that is the advice."""
    request = msgspec.structs.replace(REQUEST, workload=Workload(64, 32, 1, 16384))
    found = what_if(LONG, variants(machine([1.0, 1.0], 20), request, []), 60.0, quiet)
    assert (found[0].fits, found[0].problem) == (False, UNFIT)
    assert 96 <= found[0].largest_context < 16384
    error = refusal(found)
    assert isinstance(error, Infeasible)
    assert f"--context {found[0].largest_context}" in str(error)
    hopeless = what_if(LONG, variants(machine([1.0], 1), request, []), 60.0, quiet)
    assert "more memory" in str(refusal(hopeless))


def test_only_problems_are_a_user_error() -> None:
    """Requests that make no sense do not pass for machines that are too small."""
    request = msgspec.structs.replace(REQUEST, workload=Workload(64, 32, 1, 10**6))
    found = what_if(MODEL, variants(machine([1.0]), request, []), 60.0, quiet)
    assert "2048 positions" in found[0].problem
    assert not isinstance(refusal(found), Infeasible)
    assert isinstance(refusal(found), ValueError)


def test_time_runs_out_row_by_row() -> None:
    """Without time the rows say so, at once."""
    began = time.perf_counter()
    found = what_if(MODEL, variants(machine([1.0]), REQUEST, [("fast", faster)]), 0.0, quiet)
    assert time.perf_counter() - began < 2
    assert all(o.problem == NO_TIME for o in found)


def test_time_that_runs_out_within_a_row_is_no_lack_of_memory() -> None:
    """Whenever the clock stops, a machine that fits is never told to be too small."""
    for total_s in (0.001, 0.01, 0.03, 0.1, 0.3):
        found = what_if(LONG, variants(machine([1.0, 0.5]), REQUEST, []), total_s, quiet)
        assert found[0].fits or found[0].problem == NO_TIME
        assert not isinstance(refusal(found), Infeasible)


def test_too_little_time_is_no_advice_to_buy_memory() -> None:
    """Rows without an answer end the command as a user error that names the limit, also beside rows that do not fit."""
    late, unfit = Outcome("a", False, NO_TIME), Outcome("b", False, UNFIT, largest_context=0)
    for outcomes in ([late], [unfit, late]):
        error = refusal(outcomes)
        assert not isinstance(error, Infeasible)
        assert "--total-limit" in str(error)
        assert "memory" not in str(error)


def test_values_of_sweeps() -> None:
    """Contexts double up to the model's own, batches from 1; small models have one context."""
    assert contexts(MODEL, 32) == [1024, 2048]
    assert contexts(make_model(context=5000), 128) == [1024, 2048, 4096, 5000]
    assert contexts(make_model(context=100), 32) == [100]
    assert contexts(make_model(context=8192), 1000)[0] == 2000
    assert batches()[:4] == [1, 2, 4, 8]
    assert math.log2(batches()[-1]) == len(batches()) - 1


def test_context_sweep_fills_the_context_and_ends_with_memory() -> None:
    """Each point is a solve with a prompt that fills the context; the first that does not fit is the last."""
    model = make_model(layers=4, hidden=256, heads=4, kv_heads=2, head_dim=64, mlp=512, vocab=4096, context=2**20)
    base = variants(machine([1.0, 1.0], 20), REQUEST, [])
    points = sweep(model, base, "context", [], 60.0, quiet)
    assert [p.outcome.fits for p in points] == [True] * (len(points) - 1) + [False]
    first = solve(model, "", base[0].profile, msgspec.structs.replace(REQUEST, workload=Workload(992, 32, 1, 1024)))
    assert points[0].outcome.prefill_s == pytest.approx(first.predicted.prefill_s)
    assert points[0].outcome.largest_context is None


def test_batch_sweep_counts_all_sequences() -> None:
    """Tokens a second of the whole batch; twice the sequences never halve them."""
    points = sweep(MODEL, variants(machine([1.0]), REQUEST, []), "batch", [], 60.0, quiet)
    speeds = [p.outcome.decode_tokens_per_s for p in points if p.outcome.fits]
    assert len(speeds) > 3
    assert all(b > a for a, b in pairwise(speeds))


def test_link_sweep_has_every_link_on_every_machine() -> None:
    """A link that a machine cannot have is a point without figures, and the sweep goes on."""
    links = [("none", broken), ("slow", lambda p: p), ("fast", lambda p: p)]
    points = sweep(MODEL, variants(machine([1.0]), REQUEST, [("more", faster)]), "link", links, 60.0, quiet)
    assert [(p.machine, p.value) for p in points] == [(m, v) for m in (AS_IS, "more") for v in ("none", "slow", "fast")]
    assert [p.outcome.fits for p in points] == [False, True, True] * 2


def test_tables_and_series() -> None:
    """Every outcome is a row; two series a machine have one value for each step, None where nothing fits."""
    good = Outcome("a", True, "", 2.0, 0.5, 50.0, 1.25, 4096, ("cpu:0", "cpu:1"), 0.0)
    bad = Outcome("b", False, UNFIT, largest_context=0)
    odd = Outcome("c", False, "no such device")
    late = Outcome("d", False, NO_TIME)
    (title, columns, rows), (_, _, used) = outcome_tables([good, bad, odd, late], Workload())
    assert all(len(row) == len(columns) for row in rows)
    assert rows[0][1:] == ("2 s", "1.25x", "50.0", "500 ms", "4096")
    assert used == [("a", "cpu:0, cpu:1")]
    assert (rows[1][1], rows[1][5], rows[2][1], rows[3][1]) == (UNFIT, "none", "no plan", "no time")
    assert "512 prompt" in title
    points = [Point("m", 1, good), Point("m", 2, bad), Point("n", 1, odd)]
    assert [len(rows) for _, _, rows in sweep_tables(points, "batch")] == [3, 1]
    assert curves(points) == (
        ["1", "2"],
        {
            "m: decode tok/s": [50.0, None],
            "m: prefill s": [0.5, None],
            "n: decode tok/s": [None, None],
            "n: prefill s": [None, None],
        },
    )
    assert list(curves(points[:2])[1]) == ["decode tok/s", "prefill s"]
