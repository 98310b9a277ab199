"""What `explain` answers is what solving the changed case by hand gives, and it keeps its time."""

from __future__ import annotations

import time

import msgspec
import pytest
from profiles import make_model, make_profile

from tpplan.hwprofiles.profile import HardwareProfile, Link
from tpplan.planner.errors import Undecided
from tpplan.planner.explain import Asker, explain, tight_words
from tpplan.planner.explain_tables import explanation_tables
from tpplan.planner.explanation import BlockUse, Change, Explanation, Rest
from tpplan.planner.plan import Plan, Workload
from tpplan.planner.questions import Case, for_one_phase, granularity_questions
from tpplan.planner.request import Request
from tpplan.planner.solve import solve
from tpplan.planner.storage import load_plan, save_plan

MIB = 2**20
MODEL = make_model(layers=3, hidden=64, heads=4, kv_heads=2, head_dim=16, mlp=256, vocab=4096)
SHORT = Request(Workload(prompt_tokens=64, new_tokens=32, context=1024), time_limit_s=1)


def machine(*speeds: float) -> HardwareProfile:
    """Devices between which so small a model is worth splitting."""
    return make_profile(list(speeds), overhead_s=2e-7, link_s=2e-7)


@pytest.fixture(scope="module")
def usual() -> tuple[Plan, Explanation]:
    """Two devices with room, all questions answered."""
    return explained(machine(1.0, 0.6), SHORT)


def explained(profile: HardwareProfile, request: Request, limit_s: float = 30.0) -> tuple[Plan, Explanation]:
    plan = solve(MODEL, "m", profile, request)
    return plan, explain(plan, MODEL, profile, request, limit_s)


def change(found: Explanation, words: str) -> Change:
    return next(c for c in found.changes if c.words == words)


def test_memory_that_binds_is_named_with_what_more_would_buy() -> None:
    """A capped fast device: a GiB more gives what solving with that cap gives, and memory is said to be tight."""
    profile, request = machine(1.0, 0.2), msgspec.structs.replace(SHORT, caps={"cpu:0": 2 * MIB})
    plan, found = explained(profile, request)
    wider = solve(MODEL, "m", profile, msgspec.structs.replace(request, caps={"cpu:0": 1026 * MIB}))
    more = change(found, "1 GiB more on cpu:0")
    assert more.figures.objective_s == pytest.approx(wider.objective_s, rel=0.002)
    assert more.gain == pytest.approx(1 - wider.objective_s / plan.objective_s, abs=0.002)
    assert found.tight[0].startswith("memory holds the plan back")
    assert any(line.startswith("memory of cpu:0 holds the plan back") for line in found.tight)


def test_memory_that_does_not_bind_costs_one_question(usual: tuple[Plan, Explanation]) -> None:
    """With room everywhere no GiB is asked about, and more memory is said to buy nothing."""
    _, found = usual
    assert change(found, "no memory limits at all").gain == 0
    assert not [c for c in found.changes if c.words.startswith("1 GiB")]
    assert any("more memory would buy nothing" in line for line in found.tight)


def test_one_more_device_is_one_more(usual: tuple[Plan, Explanation]) -> None:
    """A copy of the fastest device buys what a machine that has it reaches."""
    _, found = usual
    three = solve(MODEL, "m", machine(1.0, 0.6, 1.0), SHORT)
    assert change(found, "one more device like cpu:0").figures.objective_s == pytest.approx(three.objective_s, rel=0.01)


def test_the_other_strategy_is_the_best_with_that_strategy(usual: tuple[Plan, Explanation]) -> None:
    """Row and column each stand for a solve in which they are given by hand."""
    plan, found = usual
    other = {"row": "column", "column": "row"}[plan.layers[0].mlp.strategy]
    by_hand = solve(MODEL, "m", machine(1.0, 0.6), msgspec.structs.replace(SHORT, mlp_strategy=other))
    there = change(found, f"MLP by {other}")
    assert there.figures.objective_s == pytest.approx(by_hand.objective_s, rel=0.01)
    assert there.gain <= 0


def test_the_ends_bracket_the_plan() -> None:
    """The best for a phase is at least as good in it as the plan, and as any other split shown."""
    request = msgspec.structs.replace(SHORT, workload=Workload(300, 100, 1, 1024))
    _, found = explained(machine(1.0, 0.5), request)
    prefill, decode = found.ends
    everyone = [found.plan, prefill.figures, decode.figures]
    assert prefill.figures.prefill_s == min(f.prefill_s for f in everyone)
    assert decode.figures.decode_s_per_token == min(f.decode_s_per_token for f in everyone)
    assert min(f.objective_s for f in everyone) >= found.plan.objective_s * 0.994


def test_links_are_asked_about_where_there_are_links() -> None:
    """The slowest link of a device in use comes first; with a link twice as fast a plan is no slower."""
    profile = make_profile([1.0, 0.8], kind="cuda", overhead_s=2e-7, link_s=2e-7)
    devices = [
        msgspec.structs.replace(d, link=Link(d.name, rate, rate)) for d, rate in zip(profile.devices, (4e9, 2e9))
    ]
    _, found = explained(msgspec.structs.replace(profile, devices=tuple(devices)), SHORT)
    links = [c for c in found.changes if c.subject == "link"]
    assert [c.device for c in links] == ["cuda:1", "cuda:0"]
    assert all(c.gain >= 0 for c in links)


def test_finer_heads_are_the_same_work() -> None:
    """The question about granularity changes neither weights nor cache."""
    profile = machine(1.0, 0.6)
    plan = solve(MODEL, "m", profile, SHORT)
    (question,) = granularity_questions(Case(MODEL, profile, SHORT), plan)
    finer = question.case.model
    assert finer.weights == MODEL.weights
    assert finer.kv_heads * finer.head_dim == MODEL.kv_heads * MODEL.head_dim
    assert finer.kv_heads == 2 * MODEL.kv_heads


@pytest.mark.parametrize("w", [Workload(512, 128, 1, 4096), Workload(4000, 90, 1, 4096), Workload(1, 1, 1, 2)])
def test_decode_alone_keeps_context_and_position(w: Workload) -> None:
    """The workload for decode alone is one that may be asked for, at the plan's mean position where there is room."""
    case = Case(MODEL, make_profile([1.0]), msgspec.structs.replace(SHORT, workload=w))
    alone = for_one_phase(case, "decode").request.workload
    assert (alone.context, alone.batch, alone.prompt_tokens) == (w.context, w.batch, 1)
    assert 1 <= alone.new_tokens <= w.context - 1
    if w.prompt_tokens == 512:
        assert 1 + alone.new_tokens // 2 == 512 + 64


def test_time_is_kept_and_what_was_not_reached_is_said() -> None:
    """Without time every question stands there unanswered; the tables say so."""
    began = time.perf_counter()
    plan, found = explained(machine(1.0, 0.6), SHORT, limit_s=0.0)
    assert time.perf_counter() - began < plan.solve_s + 2
    assert all(c.figures is None and c.gain is None for c in found.changes)
    assert found.tight[-1].startswith("not answered in the time there was: no memory limits at all")
    assert sum("not reached" in row for _, _, rows in explanation_tables(found) for row in rows) >= 4


def test_an_undecided_solve_is_no_answer() -> None:
    """Where the time limit was too short for any split, the question stays open."""

    def undecided(*_: object) -> Plan:
        raise Undecided("too short")

    asker = Asker(undecided, time.perf_counter() + 10, 10, 0.1)
    assert asker.plan(Case(MODEL, make_profile([1.0]), SHORT)) is None


def test_nothing_unproven_is_called_none(usual: tuple[Plan, Explanation]) -> None:
    """A gain of 0 that was not proven does not make a limit harmless."""
    _, found = usual
    figures = msgspec.structs.replace(found.plan, proven=False)
    open_ = [Change("memory", "no memory limits at all", "", figures, 0.0, 0.05)]
    assert tight_words(open_) == ("no limit was found to hold the plan back, but the time was too short to be sure",)
    shown = explanation_tables(msgspec.structs.replace(found, changes=tuple(open_)))[-1][2][0]
    assert shown[-2:] == ("none", "5.0%")


def test_every_figure_of_who_does_what_has_a_name(usual: tuple[Plan, Explanation]) -> None:
    """Time without a share is called exchanges; workspace memory and waiting have rows of their own."""
    _, found = usual
    uses = (
        BlockUse("cpu:0", "attention", 2.0, 4 * MIB, 0.5, 0.25),
        BlockUse("cpu:1", "attention", 0.0, 0, 0.125, 0.0625),
    )
    rests = Rest("cpu:0", MIB, 0.5, 0.75), Rest("cpu:1", 2 * MIB, 0.875, 0.9375), Rest("cpu:2", 0, 1.0, 1.0)
    _, _, rows = explanation_tables(msgspec.structs.replace(found, uses=uses, rests=rests))[0]
    assert rows[3:] == [
        ("cpu:1", "attention", "exchanges only", "-", "12.5%", "6.2%"),
        ("", "workspace", "-", "2.00 MiB", "-", "-"),
        ("", "waiting", "-", "-", "87.5%", "93.8%"),
        ("cpu:2", "no part", "-", "-", "-", "-"),
    ]


def test_findings_survive_json(tmp_path) -> None:
    """An Explanation encodes and decodes; the plan itself is as it was saved."""
    plan, found = explained(machine(1.0, 0.6), SHORT, limit_s=0.0)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Explanation) == found
    save_plan(plan, tmp_path / "p.json")
    assert load_plan(tmp_path / "p.json") == msgspec.structs.replace(plan, solve_s=0.0)
