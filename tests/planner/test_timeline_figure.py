"""The picture of a pass shows its steps at their times, and only the ends of a long one."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from pages import titled_boxes
from plans import plan_by_hand
from profiles import make_model, make_profile
from timelines import make_timeline

from tpplan.planner.bar_figures import BARS_WIDTH, usage_svg
from tpplan.planner.plan import Workload
from tpplan.planner.price import Pricer
from tpplan.planner.timeline import Timeline
from tpplan.planner.timeline_figure import stretches, timeline_svg


def timeline(layers: int, phase: str = "decode") -> Timeline:
    model, profile = make_model(layers=layers), make_profile([2.0, 1.0])
    plan = plan_by_hand(model, ["cpu:0", "cpu:1"], [2, 1], [1024, 512], [49152, 0])
    return make_timeline(Pricer(model, profile, "float32", Workload()), plan, phase)


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_short_passes_are_drawn_whole(phase: str) -> None:
    """Each step has one box; boxes of one device are as wide as their steps are long, and as far apart."""
    passed = timeline(2, phase)
    boxes = titled_boxes(ElementTree.fromstring(timeline_svg(passed)))
    assert sum(map(len, boxes.values())) == len(passed.spans)
    first, last = (
        next(s for s in passed.spans if s.step.device == 1 and s.step.role == "gate_up" and s.step.layer == layer)
        for layer in (0, 1)
    )
    drawn = {title: found for title, found in boxes.items() if "MLP, gate_up" in title}
    left, right = (max(found for t, found in drawn.items() if t.startswith(f"layer {n}")) for n in (0, 1))
    scale = left[-1][2] / (first.end_s - first.begin_s)
    assert right[-1][0] - left[-1][0] == pytest.approx(scale * (last.begin_s - first.begin_s), rel=0.01)


def test_long_passes_are_drawn_at_their_ends() -> None:
    """Embedding and two layers, then the last layer and the head; nothing between."""
    (_, first), (title, tail) = stretches(timeline(30))
    assert {s.step.layer for s in first} == {-1, 0, 1}
    assert {s.step.block for s in first if s.step.layer < 0} == {"embed"}
    assert {s.step.layer for s in tail} == {-1, 29}
    assert {s.step.block for s in tail if s.step.layer < 0} == {"head"}
    assert "head" in title


def test_usage_adds_up() -> None:
    """The coloured parts of a device's bar are as long as its busy share of the pass."""
    passed = timeline(4)
    boxes = titled_boxes(ElementTree.fromstring(usage_svg(passed)))
    drawn = sum(box[2] for title, found in boxes.items() if title[0] in "cp" for box in found)
    busy = sum(1 - passed.usage(d).wait_s / passed.length_s for d in range(2))
    assert drawn == pytest.approx(busy * (BARS_WIDTH - 2), rel=0.01)


def test_nothing_happened() -> None:
    """A pass without steps is drawn, as lanes alone."""
    assert "cpu:0" in timeline_svg(Timeline("decode", ("cpu:0",), (), 0.0, 0.0))
    assert "takes no part" in usage_svg(Timeline("decode", ("cpu:0",), (), 0.0, 0.0))
