"""A plan that was saved comes back; a file that is no plan does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plans import plan_by_hand
from profiles import make_model

from tpplan.planner.report import memory_table, plan_tables, verdict
from tpplan.planner.storage import load_plan, save_plan

PLAN = plan_by_hand(make_model(layers=2), ["cpu:0", "cpu:1"], [2, 1], [1024, 512], [32768, 16384], "column")


def test_round_trip(tmp_path: Path) -> None:
    """Saved and loaded, a plan is the same."""
    save_plan(PLAN, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == PLAN


@pytest.mark.parametrize(
    "change",
    [{"schema_version": 1}, {"layers": 3}, {"head": [[0, -1]]}, {"gap": float("nan")}, {"dtype": "int3"}, {"x": 0}],
)
def test_what_is_no_plan(tmp_path: Path, change: dict[str, Any]) -> None:
    """Another version, wrong types and impossible figures give one line with the fix."""
    path = tmp_path / "plan.json"
    save_plan(PLAN, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="run `tpplan solve`"):
        load_plan(path)


def test_tables_tell_the_split() -> None:
    """The split table shows each device's share of a layer as the plan has it."""
    title, columns, rows = plan_tables(PLAN)[0]
    assert "attention by column, MLP by row" in title
    assert [dict(zip(columns, row, strict=True))["KV heads"] for row in rows] == ["2", "1"]
    assert [row[2:4] for row in rows] == [("1024", "32768"), ("512", "16384")]
    assert [row[0] for row in memory_table(PLAN)[2]] == ["cpu:0", "cpu:1"]
    assert "prefill of 512 tokens" in verdict(PLAN)


def test_the_verdict_says_what_the_gap_means() -> None:
    """The gap is a share of the plan's time; without a bound none is claimed."""
    assert "no bound was found" in verdict(PLAN)
    bounded = msgspec.structs.replace(PLAN, objective_s=2.0, bound_s=1.9, gap=0.05)
    assert "no split of this space can take more than 5.0% less time" in verdict(bounded)
    assert "could take less than 0.1% less time" in verdict(msgspec.structs.replace(bounded, gap=0.0004))
