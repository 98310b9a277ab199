"""Pictures in files of their own: how figures change over a sweep.

Knows numbers with names. Knows nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from ..hwprofiles.files import write_atomically
from .drawing import LIGHT, drawing, printable, sheet, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE_WIDTH, PANEL = 640, 220
MOST_TICKS = 12


def save_curve(
    path: str | Path,
    title: str,
    x_label: str,
    y_label: str,
    x: Sequence[float | str],
    series: dict[str, Sequence[float | None]],
) -> None:
    """Draws each of `series` over `x` in a panel of its own, since their units differ, and writes SVG or PNG by the
    ending of `path`. None (or what is not finite) does not fit, and is marked so. `y_label` names the series together.

    ValueError for another ending or nothing to draw, OSError if the file cannot be written.
    """
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in ("svg", "png"):
        raise ValueError(f"cannot draw {path}: pictures are .svg or .png; name the file so")
    if not x or not series:
        raise ValueError(f"cannot draw {path}: there are no points")
    with drawing():
        write_atomically(path, _curves(form, title, x_label, y_label, x, series))


def _curves(
    form: str,
    title: str,
    x_label: str,
    y_label: str,
    x: Sequence[float | str],
    series: dict[str, Sequence[float | None]],
) -> bytes:
    """The picture's bytes: panels one below the other, on paper."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "curve"
    figure = sheet(CURVE_WIDTH, PANEL * len(series) + 70)
    figure.set_layout_engine("constrained")
    figure.suptitle(short(title, 90), x=0.01, ha="left", weight="bold")
    panels = figure.subplots(len(series), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, values) in zip(panels, series.items(), strict=True):
        _curve(axes, x, [v if v is not None and isfinite(v) else None for v in values])
        axes.set_title(short(name, 80))
    _x_axis(panels[-1], x)
    panels[-1].set_xlabel(printable(x_label))
    figure.supylabel(printable(y_label), color=LIGHT["faint"], size=10)
    buffer = BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    figure.savefig(buffer, format=form, dpi=72 if form == "svg" else 160, metadata=metadata)
    return buffer.getvalue()


def _curve(axes: Axes, x: Sequence[float | str], y: Sequence[float | None]) -> None:
    places = _places(x)
    line = [float("nan") if value is None else value for value in y]
    axes.plot(places, line, "o-", color=LIGHT["accent"], markersize=5, clip_on=False)
    axes.set_ylim(0, max((value for value in y if value is not None), default=0.0) * 1.08 or 1.0)
    unfit = [place for place, value in zip(places, y, strict=True) if value is None]
    if unfit:
        axes.plot(unfit, [0.0] * len(unfit), "x", color=LIGHT["mlp"], markersize=8, clip_on=False, label="does not fit")
        axes.legend(frameon=False, loc="best")
    axes.grid(axis="y", color=LIGHT["track"])
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _places(x: Sequence[float | str]) -> list[float]:
    """Where the points stand: numbers at their value, names one after the other."""
    if any(isinstance(value, str) for value in x):
        return [float(place) for place in range(len(x))]
    return [float(value) for value in x]


def _x_axis(axes: Axes, x: Sequence[float | str]) -> None:
    """A logarithmic axis where positive numbers spread widely; a tick at each point, or at some of many."""
    places = _places(x)
    named = any(isinstance(value, str) for value in x)
    if not named and min(places) > 0 and max(places) >= 8 * min(places):
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    step = -(-len(x) // MOST_TICKS)
    axes.set_xticks(places[::step], [short(v, 16) if isinstance(v, str) else f"{v:,.10g}" for v in x[::step]])
