"""The picture of the split shows each device's share of each block at its place and to scale."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest
from pages import text_places, titled_boxes
from plans import plan_by_hand
from profiles import make_model

from tpplan.planner.split_figure import BAR, LETTER, TEXT, runs, split_svg, strategy_words

MODEL = make_model(layers=10)
ASCENT, DESCENT = 8, 2  # pixels of letters of 10 pixels


def mixture():
    """Layers 0 to 3 by both devices, 4 to 9 by the second alone; the head on the first."""
    devices = ["one", "two", "three"]
    both = plan_by_hand(MODEL, devices, [2, 1, 0], [384, 1152, 0], [49152, 0, 0], attention="column")
    alone = plan_by_hand(MODEL, devices, [0, 3, 0], [0, 1536, 0], [49152, 0, 0])
    return msgspec.structs.replace(both, layers=both.layers[:4] + alone.layers[4:])


def test_runs_are_neighbours_cut_alike() -> None:
    """Runs cover the layers in order; their strategy is named, and is none where one device has all."""
    told = [(begin, end, strategy_words(cut)) for begin, end, cut in runs(mixture(), "attention")]
    assert told == [(0, 4, "column"), (4, 10, "one device")]


def test_boxes_are_to_scale() -> None:
    """Heights are shares, widths are layers, devices stand one below the other, a device without a part has no box."""
    boxes = titled_boxes(ElementTree.fromstring(split_svg(mixture())))
    (large,) = boxes["layers 0 to 3: 6 of 9 query heads (67%)"]
    (small,) = boxes["layers 0 to 3: 3 of 9 query heads (33%)"]
    (whole,) = boxes["layers 4 to 9: 9 of 9 query heads (100%)"]
    assert [large[3], small[3], whole[3]] == pytest.approx([BAR * 2 / 3, BAR / 3, BAR], abs=1e-3)
    assert whole[2] / large[2] == pytest.approx(6 / 4, rel=1e-3)
    assert whole[0] == pytest.approx(large[0] + large[2], abs=1e-3)
    assert small[1] > large[1] + large[3]
    (quarter,) = boxes["layers 0 to 3: 384 of 1,536 MLP columns (25%)"]
    assert quarter[3] == pytest.approx(BAR / 4, abs=1e-3)
    assert sum(len(found) for title, found in boxes.items() if "query heads" in title) == 3
    assert len(boxes["head: 49,152 of 49,152 vocabulary rows (100%)"]) == 1
    assert boxes.keys() >= {"attention of layers 0 to 3: column", "mlp of layers 4 to 9: one device"}


def test_words_stand_above_their_bars() -> None:
    """No edge of a fill runs through words, each begins where its bar does, so that narrow windows show it."""
    svg = ElementTree.fromstring(split_svg(mixture()))
    boxes = {title: found for title, found in titled_boxes(svg).items() if "%" in title}
    shares = [place for place in text_places(svg) if place[0].endswith(("%", "%)"))]
    assert sorted(words for words, _, _ in shares) == sorted(
        title.split(": ")[1] if title.startswith("layers") else "100%" for title in boxes for _ in boxes[title]
    )
    for words, left, baseline in shares:
        own = [box for title, found in boxes.items() if words in title for box in found]
        assert any(abs(left - box[0]) < 0.5 and 0 < box[1] - baseline < BAR + TEXT for box in own)
        for x, y, width, height in (box for found in boxes.values() for box in found):
            beside = x + width <= left or left + LETTER * len(words) <= x
            assert beside or y + height <= baseline - ASCENT or baseline + DESCENT <= y, (words, y)


@pytest.mark.parametrize("layers", [1, 2, 500])
def test_any_number_of_layers(layers: int) -> None:
    """Very short and very long models are drawn."""
    plan = plan_by_hand(make_model(layers=layers), ["one"], [3], [1536], [49152])
    assert "one" in "".join(ElementTree.fromstring(split_svg(plan)).itertext())
