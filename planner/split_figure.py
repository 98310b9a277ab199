"""The split as a picture: a lane for each device, the layers from left to right, filled as high as the device's share.

Knows the plan and how to draw it. Knows neither times nor bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from .drawing import LIGHT, drawing, panel, sheet, short, themed_svg, titled
from .plan import BlockPlan, Plan, Range, devices_used, members, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, LANE, NAME, TEXT, BAR, GAP = 800, 84, 16, 13, 15, 4
ENDS = 0.11  # embedding and head, each, of the width that all layers take
LETTER = 6.0  # pixels of a letter, roughly
BLOCKS = {"attention": "query heads", "mlp": "MLP columns"}
Run = tuple[int, int, BlockPlan]  # first layer, layer after the last, how their block is cut


def split_svg(plan: Plan) -> str:
    """Lanes of two bars (attention above MLP), each under its words; embedding left and head right of the layers,
    strategies on top.
    """
    with drawing():
        figure = sheet(WIDTH, 2 * (NAME + 2) + LANE * len(plan.devices) + 34)
        axes = panel(figure, 74, 2 * (NAME + 2), 2, 34)
        layers = len(plan.layers)
        axes.set_xlim(-ENDS * layers, layers * (1 + ENDS))
        axes.set_ylim(LANE * len(plan.devices), 0)
        for row, block in enumerate(BLOCKS):
            _strategies(axes, runs(plan, block), block, (row - 2) * (NAME + 2))
        for device in range(len(plan.devices)):
            _lane(axes, plan, device)
        _layer_numbers(axes, layers)
        return themed_svg(figure, "split", "Share of each device in every block of the model")


def runs(plan: Plan, block: str) -> list[Run]:
    """Neighbouring layers whose block is cut alike."""
    found: list[Run] = []
    for cut, alike in groupby(getattr(layer, block) for layer in plan.layers):
        begin = found[-1][1] if found else 0
        found.append((begin, begin + sum(1 for _ in alike), cut))
    return found


def strategy_words(block: BlockPlan) -> str:
    """How the block is split, in a word or two."""
    return block.strategy if len(members(block.units)) > 1 else "one device"


def _strategies(axes: Axes, cuts: Sequence[Run], block: str, top: float) -> None:
    """Which strategy each run of layers has."""
    _text(axes, -ENDS * cuts[-1][1], top + NAME / 2, f"{block if block != 'mlp' else 'MLP'} by", ha="right", pad=-6)
    for words, alike in groupby(cuts, lambda run: strategy_words(run[2])):
        same = list(alike)
        begin, end = same[0][0], same[-1][1]
        colour = LIGHT[block] if words == "column" else LIGHT["track"]
        bar = axes.barh(top + NAME / 2, end - begin, NAME, begin, color=colour, edgecolor=LIGHT["paper"], clip_on=False)
        bar[0].set_gid(titled(f"{block} of {_layers(begin, end)}: {words}"))
        _fitting(axes, (begin, end), top + NAME / 2, words, pad=4)


def _lane(axes: Axes, plan: Plan, device: int) -> None:
    top, layers = LANE * device, len(plan.layers)
    used = device in devices_used(plan.split)
    name = short(plan.devices[device]) + ("" if used else ": not used")
    axes.text(-ENDS * layers, top + NAME - 5, name, weight="bold", color=LIGHT["ink" if used else "faint"])
    for row, (block, unit) in enumerate(BLOCKS.items()):
        middle = top + NAME + TEXT + row * (TEXT + BAR + GAP) + BAR / 2
        _text(axes, -ENDS * layers, middle, "MLP" if block == "mlp" else block, ha="right", pad=-6)
        cuts = runs(plan, block)
        _bar(axes, [(begin, end, cut.units[device], cut.units[-1][1]) for begin, end, cut in cuts], middle, block, unit)
    middle = top + NAME + TEXT + BAR + (GAP + TEXT) / 2
    for begin, spans, what in ((-ENDS * layers, plan.embedding, "embedding"), (layers, plan.head, "head")):
        total = max(end for _, end in spans)
        _vocabulary(axes, (begin, begin + ENDS * layers), spans[device], total, middle, what)


def _bar(axes: Axes, cuts: Sequence[tuple[int, int, Range, int]], middle: float, block: str, unit: str) -> None:
    """One block of one device over all layers: a track, and on it the share of each run."""
    bottom = middle + BAR / 2
    axes.barh(middle, cuts[-1][1], BAR, 0, color=LIGHT["track"])
    for begin, end, span, total in cuts:
        if not size(span):
            continue
        share = size(span) / total
        words = f"{size(span):,} of {total:,} {unit} ({share:.0%})"
        bar = axes.bar(begin, -BAR * share, end - begin, bottom, align="edge", color=LIGHT[block], linewidth=0)
        bar[0].set_gid(titled(f"{_layers(begin, end)}: {words}"))
        _fitting(axes, (begin, end), bottom - BAR - TEXT / 2, words, f"{share:.0%}")


def _vocabulary(axes: Axes, at: tuple[float, float], span: Range, total: int, middle: float, what: str) -> None:
    """The share of embedding or head, beside both bars of the lane."""
    high, pad = 2 * BAR + GAP + TEXT, (at[1] - at[0]) / 20
    begin, wide = at[0] + (pad if what == "head" else 0), at[1] - at[0] - pad
    axes.barh(middle, wide, high, begin, color=LIGHT["track"])
    if size(span):
        share = size(span) / total
        bar = axes.bar(begin, -high * share, wide, middle + high / 2, align="edge", color=LIGHT["vocabulary"])
        bar[0].set_gid(titled(f"{what}: {size(span):,} of {total:,} vocabulary rows ({share:.0%})"))
        _fitting(axes, (begin, begin + wide), middle - (high + TEXT) / 2, f"{share:.0%}")


def _layer_numbers(axes: Axes, layers: int) -> None:
    """Layer numbers below the lanes, and what stands at both ends."""
    from matplotlib.ticker import MaxNLocator

    numbers = [int(n) for n in MaxNLocator(10, integer=True).tick_values(0, layers - 1) if 0 <= n < layers]
    axes.set_xticks([-ENDS / 2 * layers, *(n + 0.5 for n in numbers), (1 + ENDS / 2) * layers])
    axes.set_xticklabels(["embedding", *map(str, numbers), "head"])
    axes.set_xlabel("layer")


def _fitting(axes: Axes, at: tuple[float, float], middle: float, *texts: str, pad: float = 0) -> None:
    """The first of `texts` that fits between the two places, if one does, from the left: seen without scrolling."""
    wide = axes.transData.transform((at[1], 0))[0] - axes.transData.transform((at[0], 0))[0]
    text = next((text for text in texts if (len(text) + 1) * LETTER <= wide), "")
    if text:
        _text(axes, at[0], middle, text, ha="left", pad=pad)


def _text(axes: Axes, x: float, y: float, text: str, ha: str, pad: float = 0) -> None:
    offset = {"xytext": (pad, 0), "textcoords": "offset points"}
    axes.annotate(text, (x, y), ha=ha, va="center", color=LIGHT["ink"], annotation_clip=False, **offset)  # type: ignore[arg-type]


def _layers(begin: int, end: int) -> str:
    return f"layer {begin}" if end == begin + 1 else f"layers {begin} to {end - 1}"
