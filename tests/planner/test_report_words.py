"""What a page says of a plan is no more than what is known."""

from __future__ import annotations

import msgspec
import pytest
from plans import plan_by_hand
from profiles import make_model

from tpplan.planner.plan import Baseline, Predicted, Workload
from tpplan.planner.report_words import against_baselines, headline, name, proof

PLAN = plan_by_hand(make_model(layers=2), ["cpu:0"], [3], [1536], [49152])


def changed(**changes: object):
    return msgspec.structs.replace(PLAN, **changes)


@pytest.mark.parametrize(
    ("status", "bound_s", "begins", "has"),
    [
        ("optimal", 10.0, "Proven", "no split of the space searched takes less time"),
        ("optimal", 9.95, "Proven", "more than 0.5% less"),
        ("optimal", 8.0, "The best split found in the time given", "more than 20.0% less"),
        ("feasible", 9.999, "The best split found", "less than 0.1% less"),
        ("feasible", 7.0, "The best split found", "more than 30.0% less"),
        ("feasible", 0.0, "The best split that was found", "Nothing is proven"),
    ],
)
def test_proof(status: str, bound_s: float, begins: str, has: str) -> None:
    """ "Proven" comes first only where the solver ended with a small gap; without a bound nothing is claimed."""
    said = proof(changed(status=status, objective_s=10.0, bound_s=bound_s, gap=(10.0 - bound_s) / 10.0))
    assert said.startswith(begins)
    assert has in said


@pytest.mark.parametrize(
    ("times", "has"),
    [
        ({"even": 10.0, "single_device": 12.0}, "(even) is as fast"),
        ({"even": 15.0, "single_device": 12.0}, "(single device) takes 20.0% longer"),
        ({"even": None, "single_device": 32.0}, "(single device) takes 3.2 times as long"),
        ({"even": None}, "No split by a rule of thumb fits"),
        ({}, ""),
    ],
)
def test_gain(times: dict[str, float | None], has: str) -> None:
    """The best baseline that fits is what the plan is compared with."""
    table = {name: Baseline(s is not None, s, None if s is None else 1.0) for name, s in times.items()}
    assert has in against_baselines(changed(objective_s=10.0, baselines=table))


def test_headline_counts_the_batch() -> None:
    """Rates are of all sequences together, and the words say so."""
    plan = changed(workload=Workload(batch=4, prompt_tokens=100), predicted=Predicted(2.0, 0.1, 40.0))
    (decode, how), (prefill, what), _ = headline(plan)
    assert (decode, how) == ("40.0 tok/s", "decode: 100 ms a step for all of them")
    assert (prefill, what) == ("2 s", "prefill of 100 tokens for each of 4 sequences, 200 tok/s")


@pytest.mark.parametrize(
    ("path", "called"),
    [("/m/llama/model.json", "llama"), ("/m/llama/config.json", "llama"), ("/m/x.gguf", "x.gguf"), ("/m/dir", "dir")],
)
def test_name(path: str, called: str) -> None:
    """Files that are all called alike go by their folder."""
    assert name(path) == called


def test_a_split_by_hand_can_lose_to_a_rule_of_thumb() -> None:
    """A baseline that is faster than the plan is told as faster, with the price of what was fixed."""
    faster = {"even": Baseline(feasible=True, objective_s=0.8, decode_tokens_per_s=1.0)}
    plan = msgspec.structs.replace(PLAN, objective_s=1.0, baselines=faster)
    assert "costs time: a split by a rule of thumb (even) takes 20.0% less" in against_baselines(plan)
