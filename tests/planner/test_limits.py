"""The limits that are said to contradict each other do, and each of them is needed for that."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations

import msgspec
import pytest
from profiles import make_model, make_profile

from tpplan.planner.infeasible import Case
from tpplan.planner.limits import _limits, contradiction, in_words, plain_size
from tpplan.planner.plan import Workload
from tpplan.planner.request import Request

MIB, GIB = 2**20, 2**30
MODEL = make_model(layers=6, vocab=4096)  # 90 MiB of weights


def case(request: Request, free_mib: list[int], host_mib: int = 2**20) -> Case:
    profile = make_profile([1.0] * len(free_mib), free_bytes=[mib * MIB for mib in free_mib], host_bytes=host_mib * MIB)
    request = msgspec.structs.replace(request, dtype="float32", cache_dtype="float32")
    return Case(MODEL, profile, request, time.perf_counter() + 60)


SHORT = Workload(64, 64, 1, 128)
CASES = {
    "weights alone": (Request(Workload(64, 64, 1, 1024)), [40, 40], ["cpu:0 (38 MiB usable)", "cpu:1 (38 MiB usable)"]),
    "cache": (
        Request(Workload(64, 64, 1, 8192), caps={"cpu:1": 60 * MIB}),
        [70, 90],
        ["cpu:0 (66 MiB usable)", "cpu:1 (--cap 60MiB)", "--context 8192"],
    ),
    "batch": (
        Request(Workload(64, 64, 64, 128)),
        [60, 60],
        ["cpu:0 (57 MiB usable)", "cpu:1 (57 MiB usable)", "--batch 64"],
    ),
    "heads where there is no room": (
        Request(SHORT, caps={"cpu:0": 0}, attention_split=(2, 1)),
        [400, 400],
        ["cpu:0 (--cap 0)", "--attention-split 2,1"],
    ),
    "two splits": (
        Request(SHORT, caps={"cpu:0": 30 * MIB}, attention_split=(3, 0), mlp_split=(1536, 0), mlp_strategy="row"),
        [400, 400],
        ["cpu:0 (--cap 30MiB)", "--mlp-split 1536,0"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_smallest_set_is_named(name: str) -> None:
    """As worked out by hand from 90 MiB of weights, 61 of them in MLPs, and 1.1 MiB of cache per 128 tokens."""
    request, free_mib, expected = CASES[name]
    assert contradiction(case(request, free_mib)) == expected


def test_every_limit_named_is_needed() -> None:
    """By trying all subsets of limits: the set named contradicts itself, and no smaller part of it does."""
    asked = case(Request(Workload(64, 64, 1, 8192), caps={"cpu:1": 60 * MIB}, attention_split=(2, 0, 1)), [70, 90, 20])
    limits = {limit.words: limit for limit in _limits(asked)}
    named = contradiction(asked)
    assert set(named) <= limits.keys()
    for count in range(len(named) + 1):
        for kept in combinations(named, count):
            lifted = asked
            for words, limit in limits.items():
                lifted = lifted if words in kept else limit.lifted(lifted)
            assert lifted.answer() is (count < len(named))


def test_shared_host_memory_is_one_limit() -> None:
    """Devices with room enough each, in a host without: the host alone is to blame."""
    assert contradiction(case(Request(SHORT), [400, 400], host_mib=60)) == [
        "all CPU devices together 57 MiB of host memory"
    ]


def test_no_time_drops_no_limit() -> None:
    """Past the deadline nothing is lifted, so nothing is claimed to be unneeded."""
    asked = replace(case(Request(Workload(64, 64, 1, 1024)), [40, 40]), deadline=0.0)
    assert len(contradiction(asked)) == 3


def test_words() -> None:
    """One, two and more limits; sizes as an option would take them."""
    assert in_words(["cpu:0 (1 MiB usable)"]) == "cpu:0 (1 MiB usable) cannot hold it"
    assert in_words(["a (1)", "b (2)"]) == "a (1) and b (2) cannot hold it together"
    assert in_words(["a (1)", "--batch 2"]) == "a (1) and --batch 2 cannot both hold"
    assert in_words(["a (1)", "b (2)", "--batch 2"]) == "a (1), b (2) and --batch 2 cannot all hold"
    sizes = [plain_size(n) for n in (0, 4 * GIB, 3 * 10**9, 100 * MIB, 10**6, 1234567)]
    assert sizes == ["0", "4GiB", "3GB", "100MiB", "1MB", "1234567"]
