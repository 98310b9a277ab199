"""The layer graph: order, names, members, collectives, and prices that equal its longest path."""

from __future__ import annotations

from collections import defaultdict

import networkx as nx
import pytest
from profiles import make_model, make_profile

from tpplan.planner.layer_graph import layer_graph, pass_steps
from tpplan.planner.plan import BlockPlan, LayerPlan, Split, Workload
from tpplan.planner.price import Pricer
from tpplan.planner.steps import Kind

MODEL = make_model(layers=4, vocab=4096)
UNEVEN = ((0, 2), (2, 3), (3, 3))
COLUMNS = ((0, 1024), (1024, 1024), (1024, 1536))
TABLE = ((0, 0), (0, 3072), (3072, 4096))
OUT = ((0, 576), (576, 576), (576, 576))


def split_of(attention: str, mlp: str) -> Split:
    """Attention on devices 0 and 1, MLP on 0 and 2, vocabulary on 1 and 2; column outputs on device 0 alone."""
    layer = LayerPlan(
        BlockPlan(attention, UNEVEN, OUT if attention == "column" else ()),
        BlockPlan(mlp, COLUMNS, OUT if mlp == "column" else ()),
    )
    return Split(TABLE, (layer,) * 4, TABLE)


@pytest.mark.parametrize("attention", ["row", "column"])
@pytest.mark.parametrize("mlp", ["row", "column"])
def test_steps_form_a_graph_whose_collectives_touch_members_only(attention: str, mlp: str) -> None:
    """The graph has no cycle, names are unique, and only producers push and only consumers pull."""
    steps = pass_steps(MODEL, split_of(attention, mlp), rows=3, context=7)
    graph = layer_graph(steps)
    assert nx.is_directed_acyclic_graph(graph)
    assert len({s.name for s in steps}) == len(steps) == graph.number_of_nodes()
    producers, consumers = defaultdict(set), defaultdict(set)
    for step in steps:
        if step.collective >= 0:
            (producers if step.kind is Kind.PUSH else consumers)[step.collective].add(step.device)
    for step in steps:
        if step.kind is Kind.PULL:
            assert producers[step.collective] | {step.device} >= set(step.peers)
        if step.kind is Kind.PUSH:
            assert consumers[step.collective] == set(step.peers)


@pytest.mark.parametrize(("strategy", "expected"), [("row", 2), ("column", 4)])
def test_collectives_a_layer(strategy: str, expected: int) -> None:
    """A layer shared by the same devices throughout costs 2 collectives under row and 4 under column."""
    spans = ((0, 1), (1, 3))
    outputs = ((0, 288), (288, 576)) if strategy == "column" else ()
    layer = LayerPlan(BlockPlan(strategy, spans, outputs), BlockPlan(strategy, ((0, 512), (512, 1536)), outputs))
    table = ((0, 2048), (2048, 4096))
    steps = pass_steps(MODEL, Split(table, (layer,) * 4, table), rows=1, context=1)
    assert len({s.collective for s in steps if s.collective >= 0}) == 1 + 4 * expected


def test_every_kind_of_step_occurs_and_has_a_price() -> None:
    """A split with both strategies uses every kind of step, and the cost model prices each above zero."""
    pricer = Pricer(MODEL, make_profile([1.0, 0.5, 0.3]), "float32", Workload())
    steps = pass_steps(MODEL, split_of("row", "column"), rows=3, context=7)
    assert {s.kind for s in steps} == set(Kind)
    assert all(pricer.cost.step_s(s) > 0 for s in steps)


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("windows", [(0, 0, 0, 0), (0, 4, 4, 0)])
@pytest.mark.parametrize("strategies", [("row", "row"), ("column", "row"), ("row", "column"), ("column", "column")])
def test_price_of_a_pass_is_the_longest_path(
    logits: bool, windows: tuple[int, ...], strategies: tuple[str, str]
) -> None:
    """The fast price of a pass equals the longest node-weighted path that networkx finds in the full graph."""
    model = make_model(layers=4, vocab=4096, windows=windows)
    pricer = Pricer(model, make_profile([1.0, 0.5, 0.3]), "float32", Workload())
    split = split_of(*strategies)
    graph = layer_graph(pass_steps(model, split, 5, 9, logits))
    for before, _, edge in graph.edges(data=True):
        edge["weight"] = pricer.cost.step_s(before)
    end = object()
    graph.add_weighted_edges_from([(s, end, pricer.cost.step_s(s)) for s in list(graph)])
    longest_s = nx.dag_longest_path_length(graph)
    overhead_s = max(d.step_overhead_s for d in pricer.profile.devices)
    assert pricer.pass_s(split, 5, 9, logits) == pytest.approx(longest_s + overhead_s, rel=1e-12)
