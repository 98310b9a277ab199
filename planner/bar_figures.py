"""Bars: the plan among its baselines, what fills each device's memory, where the time of a pass goes.

Knows figures with names. Knows nothing of how splits are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..hwprofiles.units import binary_bytes, duration
from .drawing import LIGHT, drawing, panel, sheet, short, themed_svg, titled
from .plan import Plan
from .timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS_WIDTH, ROW, THICK = 400, 40, 14
BAR_TEXT, MAX_BAR_NAME = 11.5, 23


@dataclass(frozen=True)
class Bar:
    """A bar with its name above its left end and its figures above the right one. `parts`: length, colour, meaning."""

    name: str
    figures: str
    parts: tuple[tuple[float, str, str], ...]
    track: float = 0.0
    bold: bool = False


def baselines_svg(plan: Plan) -> str:
    """The whole answer's time of the plan and of every baseline, fastest first; those that do not fit have no bar."""
    priced = [("this plan", plan.objective_s, plan.predicted.decode_tokens_per_s, "accent")]
    for name, baseline in plan.baselines.items():
        if baseline.objective_s is not None:
            priced.append((name.replace("_", " "), baseline.objective_s, baseline.decode_tokens_per_s or 0.0, "other"))
    priced.sort(key=lambda row: row[1])
    bars = [
        Bar(name, f"{duration(s)}, {rate:.1f} tok/s", ((s, colour, duration(s)),), bold=colour == "accent")
        for name, s, rate, colour in priced
    ]
    unfit = [name.replace("_", " ") for name, baseline in plan.baselines.items() if baseline.objective_s is None]
    bars += [Bar(name, "does not fit into memory", ()) for name in unfit]
    return bars_svg(bars, "baselines", "Time for the whole answer, this plan and its baselines")


def memory_svg(plan: Plan) -> str:
    """Weights, KV cache, workspace and what stays free of every device's cap, all to one scale."""
    bars = []
    for use in plan.device_use:
        held = {"weights": use.weight_bytes, "cache": use.cache_bytes, "workspace": use.workspace_bytes}
        parts = tuple((float(count), part, f"{part} {binary_bytes(count)}") for part, count in held.items())
        free = max(use.cap_bytes - use.bytes, 0)
        figures = f"{binary_bytes(use.bytes)} of {binary_bytes(use.cap_bytes)}, {binary_bytes(free)} free"
        bars.append(Bar(use.name, figures, parts, float(use.cap_bytes)))
    return bars_svg(bars, "memory", "Memory of each device against its cap")


def usage_svg(timeline: Timeline) -> str:
    """What each device does in one pass: computes, pushes, pulls, waits (the track)."""
    bars = []
    for device, name in enumerate(timeline.devices):
        usage, length_s = timeline.usage(device), timeline.length_s
        spent = {"accent": usage.compute_s, "push": usage.push_s, "pull": usage.pull_s}
        words = {"accent": "computes", "push": "pushes", "pull": "pulls"}
        parts = tuple((s, part, f"{words[part]} {duration(s)}") for part, s in spent.items())
        idle = usage.wait_s / length_s if length_s else 0.0
        told = f"computes {duration(usage.compute_s)}, waits {idle:.0%}" if any(spent.values()) else "takes no part"
        bars.append(Bar(name, told, parts, length_s))
    return bars_svg(bars, f"usage-{timeline.phase}", f"What each device does in one {timeline.phase} pass")


def bars_svg(bars: Sequence[Bar], name: str, label: str) -> str:
    """Horizontal bars to one scale, each below its name, readable at the width of a phone."""
    with drawing():
        figure = sheet(BARS_WIDTH, ROW * len(bars))
        axes = panel(figure, 1, 0, 1, 0)
        axes.set_xticks([])
        axes.set_ylim(len(bars), 0)
        axes.set_xlim(0, max((max(bar.track, sum(p[0] for p in bar.parts)) for bar in bars), default=0.0) or 1.0)
        for row, bar in enumerate(bars):
            _bar(axes, bar, row)
        return themed_svg(figure, name, label)


def _bar(axes: Axes, bar: Bar, row: int) -> None:
    place, weight = axes.get_yaxis_transform(), "bold" if bar.bold else "normal"
    axes.text(0, row + 0.38, short(bar.name, MAX_BAR_NAME), transform=place, weight=weight, size=BAR_TEXT)
    axes.text(1, row + 0.38, bar.figures, transform=place, weight=weight, ha="right", size=BAR_TEXT)
    middle, begin, high = row + 0.66, 0.0, THICK / ROW
    if bar.track:
        axes.barh(middle, bar.track, high, color=LIGHT["track"])
    for length, colour, meaning in bar.parts:
        drawn = axes.barh(middle, length, high, begin, color=LIGHT[colour])
        drawn[0].set_gid(titled(meaning))
        begin += length
