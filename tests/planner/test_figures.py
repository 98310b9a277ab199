"""Curves are drawn to scale, mark what does not fit, and are written whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tpplan.planner.figures import save_curve

CONTEXTS = [1024.0, 2048.0, 4096.0, 8192.0, 16384.0]
SERIES = {"decode, tok/s": [20.0, 18.0, 12.0, None, float("nan")], "prefill, s": [1.0, 1.0, 2.0, None, None]}
PNG = b"\x89PNG\r\n\x1a\n"


def draw(path: Path, **changes: object) -> Path:
    arguments = {"title": "a & <b>", "x_label": "context, tokens", "y_label": "", "x": CONTEXTS, "series": SERIES}
    save_curve(path, **arguments | changes)
    return path


def test_svg_has_axes_with_units_and_says_what_does_not_fit(tmp_path: Path) -> None:
    """Title, labels, a tick at each context and a legend for the missing points are text in well-formed XML."""
    root = ElementTree.parse(draw(tmp_path / "c.svg")).getroot()
    texts = {text.strip() for text in root.itertext() if text.strip()}
    wanted = {"a & <b>", "context, tokens", "decode, tok/s", "prefill, s", "1,024", "16,384", "does not fit"}
    assert wanted <= texts


def test_line_is_to_scale(tmp_path: Path) -> None:
    """Heights are in proportion to the values above the mark of what does not fit, at zero; contexts are log-spaced."""
    text = draw(tmp_path / "c.svg", series={"decode, tok/s": [20.0, 15.0, 5.0, 10.0, None]}).read_text()
    line = re.search(r'<path d="([^"]*)"[^>]*stroke: #0f7b8a', text, re.DOTALL)
    points = [tuple(map(float, pair)) for pair in re.findall(r"[ML] ([\d.]+) ([\d.]+)", line[1])]
    zero = max(map(float, re.findall(r'<use [^>]* y="([\d.]+)"[^>]*#ee8866', text)))  # the other is the legend's
    (x0, y0), (x1, y1), (x2, y2), _ = points
    assert x1 - x0 == pytest.approx(x2 - x1, rel=1e-3)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(5 / 15, rel=1e-3)
    assert (zero - y0) / (y2 - y0) == pytest.approx(20 / 15, rel=1e-3)


def test_png_by_the_ending(tmp_path: Path) -> None:
    """A .png is one, whatever the case of its ending."""
    assert draw(tmp_path / "c.PNG").read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", ["c.svg", "c.png"])
def test_same_bytes(tmp_path: Path, name: str) -> None:
    """The same curve gives the same file, with names for x as well."""
    (tmp_path / "again").mkdir()
    links = {"x": ["3.0x1", "3.0x4", "$4.0x4", "4.0x8", "<x>"]}
    assert draw(tmp_path / name, **links).read_bytes() == draw(tmp_path / "again" / name, **links).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"series": {"s": [None] * 5}},
        {"x": [0.0, 0.0, 0.0, 0.0, 0.0]},
        {"x": [7.0], "series": {"s": [1e-9]}},
        {"x": list(range(300)), "series": {"s": [1e300] * 300}},
        {"title": "$\\frac{\x00", "x_label": "名前" * 99, "series": {"\ud800$": [0.0] * 5}},
    ],
)
def test_odd_curves_are_drawn(tmp_path: Path, changes: dict[str, object]) -> None:
    """Nothing that fits, one point, equal points, many points and hostile words are drawn."""
    ElementTree.parse(draw(tmp_path / "c.svg", **changes))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("c.jpg", {}, r"\.svg or \.png"),
        ("c", {}, r"\.svg or \.png"),
        ("c.svg", {"x": [], "series": {"s": []}}, "no points"),
        ("c.svg", {"series": {}}, "no points"),
        ("no/such/c.svg", {}, "cannot write"),
    ],
)
def test_refusals(tmp_path: Path, name: str, changes: dict[str, object], said: str) -> None:
    """Each says what to change, and leaves no file."""
    with pytest.raises((ValueError, OSError), match=said):
        draw(tmp_path / name, **changes)
    assert not list(tmp_path.iterdir())
