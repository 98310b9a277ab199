"""Jobs that wait for each other, against networkx's longest path."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpplan.planner.schedule import Job, schedule

EDGES = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda e: e[0] < e[1]), unique=True)


@given(st.lists(st.floats(1e-6, 1e3), min_size=12, max_size=12), EDGES)
@settings(max_examples=100, deadline=None)
def test_the_end_is_the_longest_path(lengths: list[float], edges: list[tuple[int, int]]) -> None:
    """Jobs that share nothing end when the longest path through the graph does; each begins as its cause ends."""
    ran = schedule([Job(seconds) for seconds in lengths], edges)
    graph = nx.DiGraph()
    graph.add_weighted_edges_from((i, 12, seconds) for i, seconds in enumerate(lengths))
    graph.add_weighted_edges_from((before, after, lengths[before]) for before, after in edges)
    assert max(r.end_s for r in ran) == pytest.approx(nx.dag_longest_path_length(graph), rel=1e-12)
    for i, r in enumerate(ran):
        assert r.begin_s == (ran[r.cause].end_s if r.cause >= 0 else 0.0)
        assert all(ran[before].end_s <= r.begin_s for before, after in edges if after == i)


def test_a_circle_is_our_own_mistake() -> None:
    """Jobs that wait for each other never begin, which is said instead of left out."""
    with pytest.raises(AssertionError, match="circle"):
        schedule([Job(1.0)] * 3, [(0, 1), (1, 2), (2, 1)])
