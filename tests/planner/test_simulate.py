"""Simulated passes: the pricer's time where nothing is shared, fair sharing where something is, and where time goes."""

from __future__ import annotations

import time
from random import Random

import networkx as nx
import pytest
from linked import random_split, with_links
from profiles import make_model, make_profile

from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.layer_graph import layer_graph, pass_steps
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import BlockPlan, LayerPlan, Range, Split, Workload
from tpplan.planner.price import Pricer
from tpplan.planner.simulate import predicted_pass_s, shown_chunk, simulate, simulate_pass, simulated_prefill_s
from tpplan.planner.steps import Kind
from tpplan.planner.timeline import Timeline
from tpplan.planner.timeline_report import compared

MODEL, MODEL_2 = make_model(layers=5, vocab=4096), make_model(layers=2, vocab=4096)
WORK = Workload(700, 16, 1, 1024)
SPEEDS = [1.0, 0.5, 0.3, 2.0]
RATES = [2e9, 1e9, 1.5e9, 1e9]


def pricer_for(profile: HardwareProfile, model: ModelSpec = MODEL, work: Workload = WORK) -> Pricer:
    return Pricer(model, profile, "float32", work)


def shared_ports(host: float = 3e9) -> HardwareProfile:
    return with_links(make_profile(SPEEDS), RATES, ["a", "a", "b", "b"], {"a": 1.5e9, "b": 1e9}, host)


def row_split(*blocks: tuple[tuple[Range, ...], tuple[Range, ...]]) -> Split:
    """Row blocks alone, attention and MLP of each layer; the vocabulary on the first of two devices."""
    layers = tuple(LayerPlan(BlockPlan("row", attention), BlockPlan("row", mlp)) for attention, mlp in blocks)
    table = ((0, 4096), (4096, 4096))
    return Split(table, layers, table)


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize("seed", range(20))
def test_equals_stage_sums_and_longest_path_where_nothing_is_shared(seed: int, phase) -> None:
    """Any mixture of layers, strategies, device sets and reducers: as long as the pricer and networkx say."""
    split, pricer = random_split(Random(seed), MODEL, 4), pricer_for(make_profile(SPEEDS))
    timeline, chunk = simulate(split, pricer, phase), shown_chunk(pricer, phase)
    assert timeline.length_s == pytest.approx(predicted_pass_s(split, pricer, phase), rel=1e-9)
    assert timeline.length_s == timeline.uncontended_s
    graph = layer_graph(pass_steps(MODEL, split, chunk.rows, chunk.context, chunk.logits, phase))
    end = object()
    graph.add_edges_from([(step, end) for step in list(graph)])
    for before, _, edge in graph.edges(data=True):
        edge["weight"] = pricer.cost.step_s(before)
    assert timeline.length_s - timeline.overhead_s == pytest.approx(nx.dag_longest_path_length(graph), rel=1e-9)


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize("seed", range(20))
def test_contention_lies_between_none_and_the_worst(seed: int, phase) -> None:
    """On shared ports and memory a pass takes no less than without sharing, no more than the solver charges."""
    split, pricer = random_split(Random(seed), MODEL, 4), pricer_for(shared_ports())
    timeline = simulate(split, pricer, phase)
    assert timeline.uncontended_s * (1 - 1e-9) <= timeline.length_s
    assert timeline.length_s <= predicted_pass_s(split, pricer, phase) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_the_solver_is_met_where_links_decide(seed: int) -> None:
    """Links of their own on ports wide enough for all: contention never binds and both agree."""
    ports = {name: 1e12 for name in "abcd"}
    pricer = pricer_for(with_links(make_profile(SPEEDS), RATES, list("abcd"), ports, host=1e13))
    split = random_split(Random(seed), MODEL, 4)
    for phase in ("decode", "prefill"):
        timeline = simulate(split, pricer, phase)
        assert timeline.length_s == pytest.approx(predicted_pass_s(split, pricer, phase), rel=1e-9)
        assert not any(span.contention_s for span in timeline.spans)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("profile", [make_profile(SPEEDS), shared_ports()], ids=["own", "shared"])
def test_a_whole_prefill_is_its_chunks(profile: HardwareProfile, seed: int) -> None:
    """The short way, with repeated layers counted instead of played, equals playing all layers of all chunks."""
    model = make_model(layers=7, vocab=4096, windows=(0, 0, 0, 100, 100, 100, 0))
    pricer, split = pricer_for(profile, model, Workload(700, 16, 2, 1024)), random_split(Random(seed), model, 4)
    played_s = sum(c.count * simulate_pass(split, pricer, c, "prefill").length_s for c in pricer.chunks)
    assert simulated_prefill_s(split, pricer) == pytest.approx(2 * played_s, rel=1e-9)
    if profile.host.bytes_per_s == 0:
        assert simulated_prefill_s(split, pricer) == pytest.approx(pricer.prefill_s(split), rel=1e-9)


def test_two_pulls_on_one_port_take_twice_as_long_for_their_bytes() -> None:
    """Two devices on a port as fast as one link: each pulls the other's part in its own time plus that of the bytes
    once more, which are 4 * 256 * 576 over 1e10 a second.
    """
    profile = with_links(make_profile([1.0, 1.0]), [1e10, 1e10], ["a", "a"], {"a": 1e10})
    pricer, bytes_s = pricer_for(profile, MODEL_2), 4 * 256 * 576 / 1e10
    layer = ((0, 5), (5, 9)), ((0, 768), (768, 1536))
    timeline = simulate(row_split(layer, layer), pricer, "prefill")
    pulls = [s for s in timeline.spans if s.step.kind is Kind.PULL and s.step.peers == (0, 1)]
    assert len(pulls) == 6
    for span in pulls:
        assert span.contention_s == pytest.approx(bytes_s, rel=1e-9)
        assert span.end_s - span.begin_s == pytest.approx(pricer.cost.own_path_s(span.step) + bytes_s, rel=1e-9)


def test_more_than_the_solver_charges_is_said() -> None:
    """The first device pulls nothing, since it alone had the attention, and pushes its MLP columns while the second
    still pulls: the solver charges that pull as if alone. The report says so.
    """
    model = make_model(layers=1, vocab=4096, mlp=320)
    pricer = pricer_for(with_links(make_profile([500.0, 500.0]), [1e9, 1e9], ["", ""], {}, host=1e9), model)
    attention, table = BlockPlan("row", ((0, 9), (9, 9))), ((0, 4096), (4096, 4096))
    mlp = BlockPlan("column", ((0, 288), (288, 320)), ((0, 0), (0, 576)))
    split = Split(table, (LayerPlan(attention, mlp),), table)
    length_s, predicted_s = simulate(split, pricer, "prefill").length_s, predicted_pass_s(split, pricer, "prefill")
    assert length_s > predicted_s * 1.001
    assert "more than the solver predicts" in compared(length_s, predicted_s)
    assert "less than the solver predicts" in compared(predicted_s, length_s)
    assert compared(predicted_s, predicted_s) == "as the solver predicts"


@pytest.mark.parametrize(("share", "told"), [(9e-4, False), (-9e-4, False), (1.2e-3, True), (-1.2e-3, True)])
def test_less_than_a_thousandth_is_no_difference(share: float, told: bool) -> None:
    """Only a simulated time that differs by 0.1 % or more is told apart from the predicted one."""
    assert (compared(2.0 * (1 + share), 2.0) != "as the solver predicts") == told


def passes() -> list[Timeline]:
    return [
        simulate(random_split(Random(seed), MODEL, 4), pricer_for(profile), phase)
        for seed in range(5)
        for profile in (make_profile(SPEEDS), shared_ports())
        for phase in ("decode", "prefill")
    ]


@pytest.mark.parametrize("timeline", passes())
def test_every_second_is_accounted_for(timeline: Timeline) -> None:
    """A device's seconds add up to the pass, steps of a device never overlap, and it waits only before pulls."""
    for device in range(len(timeline.devices)):
        use = timeline.usage(device)
        assert use.busy_s + use.wait_s == pytest.approx(timeline.length_s, rel=1e-9)
        free_s = 0.0
        for span in (s for s in timeline.spans if s.step.device == device):
            assert span.free_s == free_s <= span.begin_s < span.end_s
            assert span.begin_s == free_s or span.step.kind is Kind.PULL
            free_s = span.end_s


@pytest.mark.parametrize("timeline", passes())
def test_the_critical_path_has_no_gaps(timeline: Timeline) -> None:
    """From 0 to the end each step begins as the one before ends, on its own device or after a push it waited for; what
    it is spent on adds up to the pass.
    """
    path, at_s = timeline.critical_path, 0.0
    for before, span in zip([None, *path], path):
        assert span.begin_s == at_s
        at_s = span.end_s
        if before is not None and before.step.device != span.step.device:
            assert before.step.collective == span.step.collective >= 0
            assert (before.step.kind, span.step.kind) == (Kind.PUSH, Kind.PULL)
    assert at_s + timeline.overhead_s == timeline.length_s
    parts = timeline.critical_parts()
    assert sum(parts.values()) == pytest.approx(timeline.length_s, rel=1e-9)
    assert list(parts.values()) == sorted(parts.values(), reverse=True)


def test_the_last_full_chunk_is_shown() -> None:
    """Of 700 tokens the second chunk of 256, which makes no logits; of 100 tokens the only chunk, which does."""
    profile = make_profile(SPEEDS)
    split = random_split(Random(1), MODEL, 4)
    for tokens, rows, head in ((700, 256, False), (512, 256, True), (100, 100, True)):
        timeline = simulate(split, pricer_for(profile, work=Workload(tokens, 16, 1, 1024)), "prefill")
        assert timeline.rows == rows
        assert any(span.step.block == "head" for span in timeline.spans) == head


def test_eighty_layers_on_eight_devices_take_under_a_second() -> None:
    """The best of two, on a machine where all contend; also for the whole prefill of a long prompt."""
    shape = {"hidden": 8192, "heads": 64, "kv_heads": 8, "head_dim": 128, "mlp": 28672, "vocab": 131072}
    model = make_model(layers=80, **shape)
    profile = with_links(make_profile([1.0] * 8), [6e9] * 8, list("aabbccdd"), dict.fromkeys("abcd", 8e9), 2e10)
    pricer = pricer_for(profile, model, Workload(3000, 64, 1, 4096))

    def spans(total: int) -> tuple[Range, ...]:
        return tuple((total * d // 8, total * (d + 1) // 8) for d in range(8))

    blocks = [BlockPlan("column", spans(total), spans(8192)) for total in (64, 28672)]
    split = Split(spans(131072), (LayerPlan(*blocks),) * 80, spans(131072))
    took_s = []
    for _ in range(2):
        started = time.perf_counter()
        timeline = simulate(split, pricer, "decode")
        simulated_prefill_s(split, pricer)
        took_s.append(time.perf_counter() - started)
    assert len(timeline.spans) > 12000
    assert min(took_s) < 1.0
