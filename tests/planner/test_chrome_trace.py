"""Chrome traces of simulated passes: steps by name on tracks where nothing overlaps, and arrows between them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from linked import random_split, with_links
from profiles import make_model, make_profile

from tpplan.planner.chrome_trace import chrome_trace, save_trace
from tpplan.planner.layer_graph import pass_steps
from tpplan.planner.plan import Workload
from tpplan.planner.price import Pricer
from tpplan.planner.simulate import simulate
from tpplan.planner.steps import Kind, moved_bytes

MODEL = make_model(layers=3, vocab=4096)
PROFILE = with_links(make_profile([1.0, 0.5, 2.0]), [1e9] * 3, ["a", "a", ""], {"a": 1e9})
PRICER = Pricer(MODEL, PROFILE, "float32", Workload(512, 16, 1, 1024))
SPLIT = random_split(Random(3), MODEL, 3)
TIMELINES = [simulate(SPLIT, PRICER, phase) for phase in ("decode", "prefill")]


@pytest.fixture
def events(tmp_path: Path) -> list[dict]:
    """Of both phases, written and read again by another library."""
    save_trace(chrome_trace(TIMELINES), tmp_path / "t.json")
    return json.loads((tmp_path / "t.json").read_bytes())["traceEvents"]


def steps_of(events: list[dict], process: int) -> list[dict]:
    return [e for e in events if e["ph"] == "X" and e["pid"] == process]


def test_every_step_is_there_under_its_name(events: list[dict]) -> None:
    """Names and kinds are those of the layer graph; a push or pull says its bytes; the last one ends with the pass."""
    for process, timeline, rows in ((1, TIMELINES[0], 1), (2, TIMELINES[1], 256)):
        chunk = (rows, 528, 1) if process == 1 else (rows, 384, 1)
        steps = {s.name: s for s in pass_steps(MODEL, SPLIT, *chunk, timeline.phase)}
        found = steps_of(events, process)
        assert [e["name"] for e in found] == list(steps)
        for event in found:
            step, args = steps[event["name"]], event["args"]
            assert (event["cat"], args["block"], args["layer"]) == (step.kind.value, step.block, step.layer)
            assert args["rows"] == step.rows
            assert args.get("bytes") == (moved_bytes(step) if step.kind in (Kind.PUSH, Kind.PULL) else None)
        assert max(e["ts"] + e["dur"] for e in found) == pytest.approx(timeline.length_s * 1e6, abs=0.002)
        assert min(e["ts"] for e in found) == pytest.approx(timeline.overhead_s * 1e6, abs=0.002)


def test_tracks_are_named_and_hold_one_event_at_a_time(events: list[dict]) -> None:
    """Each device computes, pushes and pulls on tracks of its own; on none do events overlap."""
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tracks = defaultdict(list)
    for event in (e for e in events if e["ph"] == "X"):
        suffix = {"push": " push", "pull": " pull"}.get(event["cat"], "")
        device = re.search(r"\.d(\d+)\.", event["name"])[1]
        assert names[event["pid"], event["tid"]] == f"cpu:{device}{suffix}"
        tracks[event["pid"], event["tid"]].append(event)
    for on_track in tracks.values():
        for before, after in pairwise(on_track):
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-6


def test_arrows_lead_from_pushes_to_pulls(events: list[dict]) -> None:
    """Each arrow begins within a push and ends where a pull begins that waited for that exchange; ids are unique."""
    arrows = defaultdict(list)
    for event in (e for e in events if e["ph"] in "sf"):
        arrows[event["id"]].append(event)
    assert len(arrows) > 5
    for begin, end in arrows.values():
        steps = steps_of(events, begin["pid"])
        push = next(e for e in steps if e["tid"] == begin["tid"] and 0 <= begin["ts"] - e["ts"] <= e["dur"])
        pull = next(e for e in steps if e["tid"] == end["tid"] and abs(e["ts"] - end["ts"]) < 0.002)
        assert (push["cat"], pull["cat"]) == ("push", "pull")
        assert push["name"].rsplit("push_")[1] == pull["name"].rsplit("pull_")[1]
        assert push["ts"] + push["dur"] == pytest.approx(pull["ts"], abs=0.002)
