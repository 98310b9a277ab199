"""The machines and models of the planning benchmarks exist, and are as many as promised."""

from __future__ import annotations

import pytest
from boxes import COMPARED_FOR, COMPARED_ON, SOLVED_FOR, example, markdown

from tpplan.hwprofiles.machine import load_hardware


@pytest.mark.parametrize("count", SOLVED_FOR)
def test_machines_have_the_devices_they_are_listed_under(count: int) -> None:
    assert [len(load_hardware(machine).devices) for machine in SOLVED_FOR[count]] == [count] * len(SOLVED_FOR[count])


def test_plans_are_compared_on_twelve_machines_for_six_models_at_least() -> None:
    fingerprints = {load_hardware(machine).fingerprint for machine in COMPARED_ON}
    models = {example(name).fingerprint for name in COMPARED_FOR}
    assert len(fingerprints) == len(COMPARED_ON) >= 12
    assert len(models) == len(COMPARED_FOR) >= 6


def test_a_table_has_one_line_each() -> None:
    assert markdown(("a", "b"), [("1", "2"), ("3", "4")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
