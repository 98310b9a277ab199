"""Transfers under way at once: rates that are max-min fair, and ends worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpplan.planner.schedule import Job, schedule
from tpplan.planner.sharing import fair_rates

PORT = ("port", 10.0)
PATHS = st.lists(
    st.sampled_from([("a", 3.0), ("b", 10.0), ("c", 0.5), ("d", 7.0)]), min_size=1, max_size=4, unique=True
)


@given(st.lists(PATHS.map(tuple), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_rates_are_max_min_fair(transfers: list[tuple[tuple[str, float], ...]]) -> None:
    """No path carries more than it can, and each transfer has a full path on which none is faster than it: by a known
    theorem that is max-min fairness.
    """
    rates = fair_rates(tuple(transfers))
    on = {path: [r for r, paths in zip(rates, transfers) if path in paths] for paths in transfers for path in paths}
    assert all(sum(on[path]) <= path[1] * (1 + 1e-9) for path in on)
    for rate, paths in zip(rates, transfers):
        assert any(sum(on[p]) >= p[1] * (1 - 1e-9) and rate >= max(on[p]) * (1 - 1e-9) for p in paths)


def ends(jobs: list[Job], edges: tuple[tuple[int, int], ...] = ()) -> list[float]:
    return [ran.end_s for ran in schedule(jobs, edges)]


def link(number: int, rate: float = 10.0) -> tuple[str, float]:
    return f"link{number}", rate


def test_two_on_one_port_take_twice_as_long_for_their_bytes() -> None:
    """1 s of latency each, then 20 bytes at 10 a second: 3 s alone, 1 + 4 together."""
    jobs = [Job(1.0, 20.0, (link(d), PORT)) for d in range(2)]
    assert jobs[0].alone_s == 3.0
    assert ends(jobs) == pytest.approx([5.0, 5.0], rel=1e-12)
    assert ends([Job(1.0, 20.0, (link(d),)) for d in range(2)]) == pytest.approx([3.0, 3.0], rel=1e-12)


def test_three_of_unequal_size_leave_one_after_the_other() -> None:
    """10, 20 and 30 bytes over 10 a second: thirds until 3 s, halves until 5 s, then one alone until 6 s."""
    jobs = [Job(0.0, size, (link(d), PORT)) for d, size in enumerate((10.0, 20.0, 30.0))]
    assert ends(jobs) == pytest.approx([3.0, 5.0, 6.0], rel=1e-12)


def test_a_late_one_shares_what_is_left() -> None:
    """20 bytes from 1 s on and 20 from 2 s on: 10 are through by 2 s, halves until 4 s, the rest of 10 until 5 s."""
    jobs = [Job(1.0, 20.0, (link(0), PORT)), Job(2.0, 20.0, (link(1), PORT))]
    assert ends(jobs) == pytest.approx([4.0, 5.0], rel=1e-12)


def test_a_slow_link_leaves_the_rest_of_the_port_to_others() -> None:
    """A link of 2 and one of 10 on a port of 10: 8 bytes a second for the second, not 5."""
    jobs = [Job(0.0, 8.0, (link(0, 2.0), PORT)), Job(0.0, 32.0, (link(1), PORT))]
    assert ends(jobs) == pytest.approx([4.0, 4.0], rel=1e-12)


def test_host_memory_holds_back_all_ports() -> None:
    """Two ports of 10 over a memory of 15: 7.5 each; in the end the one left has its port to itself."""
    memory = ("memory", 15.0)
    jobs = [Job(0.0, size, (link(d), (f"port{d}", 10.0), memory)) for d, size in enumerate((15.0, 25.0))]
    assert ends(jobs) == pytest.approx([2.0, 3.0], rel=1e-12)
