"""One pass as a timeline: a lane for each device, what it does from left to right; only the ends of a long pass.

Knows Timelines and how to draw them. Knows nothing of how times were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..hwprofiles.units import duration
from .drawing import LIGHT, drawing, panel, sheet, short, themed_svg, titled
from .steps import Kind, Step
from .timeline import Span, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, LANE, NAME, BAR = 800, 48, 16, 22
TOP, BOTTOM, SIDE, BETWEEN = 20, 34, 16, 34
LETTER = 6.0  # pixels of a letter, roughly
WHOLE_LAYERS, FIRST_LAYERS = 4, 2  # a model with more layers than the first is drawn at its ends only
NARROWEST = 0.4  # of the width, for either end
COLOURS = {"attention": "attention", "mlp": "mlp", "embed": "vocabulary", "head": "vocabulary"}


def timeline_svg(timeline: Timeline) -> str:
    """The pass up to its second layer, and its last layer with the head; to one scale unless that got too narrow."""
    parts = stretches(timeline)
    with drawing():
        figure = sheet(WIDTH, TOP + LANE * len(timeline.devices) + BOTTOM)
        room = WIDTH - 2 * SIDE - BETWEEN * (len(parts) - 1)
        left, lengths = float(SIDE), [_length_s(spans) for _, spans in parts]
        unit = _unit(max(lengths))
        for (title, spans), share in zip(parts, _shares(lengths), strict=True):
            axes = panel(figure, left, TOP, WIDTH - left - room * share, BOTTOM)
            _stretch(axes, timeline, spans, unit, named=left == SIDE)
            axes.set_title(title)
            left += room * share + BETWEEN
        label = f"When each device does what in one {timeline.phase} pass"
        return themed_svg(figure, f"timeline-{timeline.phase}", label)


def stretches(timeline: Timeline) -> list[tuple[str, list[Span]]]:
    """What is drawn, with a title for each stretch."""
    last = max((span.step.layer for span in timeline.spans), default=-1)
    if last < WHOLE_LAYERS:
        return [("the whole pass", list(timeline.spans))]
    first = [s for s in timeline.spans if s.step.layer < FIRST_LAYERS and s.step.block != "head"]
    tail = [s for s in timeline.spans if s.step.layer == last or s.step.block == "head"]
    ended = f"layer {last}, the last{', and the head' if any(s.step.block == 'head' for s in tail) else ''}"
    return [(f"embedding and layers 0 to {FIRST_LAYERS - 1}", first), (ended, tail)]


def _length_s(spans: Sequence[Span]) -> float:
    return max((s.end_s for s in spans), default=0.0) - min((s.begin_s for s in spans), default=0.0)


def _shares(lengths: Sequence[float]) -> list[float]:
    """Of the width for each stretch: in proportion, but none too narrow to read."""
    total = sum(lengths)
    shares = [max(length / total, NARROWEST) if total else 1.0 for length in lengths]
    return [share / sum(shares) for share in shares]


def _stretch(axes: Axes, timeline: Timeline, spans: Sequence[Span], unit: tuple[str, float], named: bool) -> None:
    begin_s, length_s = min((s.begin_s for s in spans), default=0.0), _length_s(spans) or 1e-9
    word, factor = unit
    axes.set_xlim(begin_s * factor, (begin_s + length_s) * factor)
    axes.set_ylim(LANE * len(timeline.devices), 0)
    for device, name in enumerate(timeline.devices):
        top = LANE * device + NAME
        axes.barh(top + BAR / 2, length_s * factor, BAR, begin_s * factor, color=LIGHT["track"])
        if named:
            axes.text(begin_s * factor, top - 3, short(name), weight="bold")
    for span in spans:
        _span(axes, span, factor)
    wide = axes.get_window_extent().width
    axes.locator_params(axis="x", nbins=max(2, int(wide / 80)))
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.set_xlabel(f"time, {word}", loc="left")


def _span(axes: Axes, span: Span, factor: float) -> None:
    """One step as a box, named if the name fits; on the critical path with a line below."""
    step, begin, length = span.step, span.begin_s * factor, (span.end_s - span.begin_s) * factor
    top = LANE * step.device + NAME
    box = axes.barh(top + BAR / 2, length, BAR, begin, color=LIGHT[_colour(step)], edgecolor=LIGHT["paper"])
    box[0].set_linewidth(0.4)
    box[0].set_gid(titled(f"{_where(step)}: {duration(span.end_s - span.begin_s)} from {duration(span.begin_s)}"))
    if span.critical:
        axes.barh(top + BAR + 2.5, length, 2, begin, color=LIGHT["ink"], linewidth=0)
    wide = axes.transData.transform((length, 0))[0] - axes.transData.transform((0, 0))[0]
    words = _words(step)
    if len(words) * LETTER < wide:
        axes.text(begin + length / 2, top + BAR / 2, words, ha="center", va="center")


def _colour(step: Step) -> str:
    return {Kind.PUSH: "push", Kind.PULL: "pull"}.get(step.kind) or COLOURS[step.block]


def _words(step: Step) -> str:
    return step.kind.value if step.kind in (Kind.PUSH, Kind.PULL) else step.role


def _where(step: Step) -> str:
    block = {"mlp": "MLP", "embed": "embedding"}.get(step.block, step.block)
    return f"layer {step.layer} {block}, {step.role}" if step.layer >= 0 else f"{block}, {step.role}"


def _unit(length_s: float) -> tuple[str, float]:
    """The unit for an axis that is `length_s` long, and how many make a second."""
    return next(((unit, 1 / s) for unit, s in (("s", 1.0), ("ms", 1e-3)) if length_s >= s), ("us", 1e6))
