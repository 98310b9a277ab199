"""A pass priced by stages lasts as long as the longest path through the graph of all its steps."""

from __future__ import annotations

import msgspec
import networkx as nx
import pytest
from linked import with_links
from profiles import make_model, make_profile
from splits import describe, random_split

from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.layer_graph import layer_graph, pass_steps
from tpplan.planner.plan import Phase, Split, Workload, devices_used
from tpplan.planner.price import Pricer

MODEL = make_model(layers=5, vocab=5000, mlp=1000, windows=(0, 0, 64, 64, 0), tied_embeddings=False)
OWN = make_profile([1.0, 0.5, 2.0])
SHARED = with_links(make_profile([1.0, 0.5, 2.0], kind="cuda"), [2e9, 1e9, 3e9], ["a", "a", ""], {"a": 1e9}, 4e9)


def longest_path_s(pricer: Pricer, split: Split, rows: int, context: int, phase: Phase) -> float:
    """By networkx, which wants times on edges: each edge has that of the step it leads to."""
    steps = pass_steps(pricer.model, split, rows, context, 1, phase)
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_weighted_edges_from(("begin", step, pricer.cost.step_s(step)) for step in steps)
    graph.add_weighted_edges_from((a, b, pricer.cost.step_s(b)) for a, b in layer_graph(steps).edges)
    overhead_s = max(pricer.profile.devices[d].step_overhead_s for d in devices_used(split))
    return nx.dag_longest_path_length(graph) + overhead_s


@pytest.mark.parametrize("profile", [OWN, SHARED], ids=["own", "shared"])
@pytest.mark.parametrize("seed", range(8))
def test_stages_add_up_to_the_longest_path(profile: HardwareProfile, seed: int) -> None:
    """Random splits, every layer its own, with every strategy and way of summing; both phases, one row and many."""
    pricer, split = Pricer(MODEL, profile, "float32", Workload(700, 16, 2, 1024)), random_split(MODEL, 3, seed)
    for rows, phase in ((1, "decode"), (2, "decode"), (188, "prefill")):
        expected_s = longest_path_s(pricer, split, rows, 300, phase)
        assert pricer.pass_s(split, rows, 300, 1, phase) == pytest.approx(expected_s, rel=1e-9), describe(split)


def test_runs_of_equal_layers_cost_what_each_costs() -> None:
    """Layers in runs, which are priced once and counted, against the same layers told apart by their windows."""
    layers = random_split(MODEL, 3, 3).layers
    runs = tuple(layers[i // 3] for i in range(12))
    split = msgspec.structs.replace(random_split(MODEL, 3, 4), layers=runs)
    plain = make_model(layers=12, vocab=5000, mlp=1000, tied_embeddings=False)
    apart = msgspec.structs.replace(plain, windows=tuple(10**6 + i for i in range(12)))
    one, other = (Pricer(model, OWN, "float32", Workload(700, 16, 1, 1024)) for model in (plain, apart))
    assert one.split_s(split) == pytest.approx(other.split_s(split), rel=1e-12)
