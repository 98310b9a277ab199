"""An Explanation as people read it: tables, and a sentence for each limit. Knows the findings alone."""

from __future__ import annotations

from ..hwprofiles.units import Table, binary_bytes, duration
from .explanation import BlockUse, Change, End, Explanation, Figures

COLUMNS = ("with", "in all", "prefill", "tokens/s")
NOT_REACHED = "not reached"
FETCHES = "exchanges only"  # the share of a device that adds up or reads what others computed
UNIT_NAMES = {"embedding": "rows", "attention": "KV heads", "mlp": "columns", "head": "rows"}
NAMES = {"embedding": "embedding", "attention": "attention", "mlp": "MLP", "head": "head"}


def explanation_tables(found: Explanation) -> list[Table]:
    """Who does what, the trade-off between the phases, and what changes would buy."""
    return [_use_table(found), _ends_table(found), *_change_tables(found)]


def _use_table(found: Explanation) -> Table:
    """A row per device and block; a device's name stands in its first row only."""
    rows: list[tuple[str, ...]] = []
    for rest in found.rests:
        uses = [use for use in found.uses if use.device == rest.device and _visible(use)]
        name = rest.device
        for use in uses:
            count = f"{use.units:.0f}" if use.units >= 100 else f"{use.units:.3g}"
            units = f"{count} {UNIT_NAMES[use.block]}" if use.units else FETCHES
            shares = f"{use.decode_share:.1%}", f"{use.prefill_share:.1%}"
            rows.append((name, NAMES[use.block], units, binary_bytes(use.bytes) if use.bytes else "-", *shares))
            name = ""
        if uses:
            rows.append(("", "workspace", "-", binary_bytes(rest.bytes), "-", "-"))
            rows.append(("", "waiting", "-", "-", f"{rest.decode_share:.1%}", f"{rest.prefill_share:.1%}"))
        else:
            rows.append((name, "no part", "-", "-", "-", "-"))
    return "Who does what, and shares of the time", ("device", "block", "share", "memory", "decode", "prefill"), rows


def _visible(use: BlockUse) -> bool:
    """Not a device that merely fetches a block's output in no time."""
    return bool(use.units) or max(use.decode_share, use.prefill_share) >= 0.0005


def _ends_table(found: Explanation) -> Table:
    rows: list[tuple[str, ...]] = [("this plan", *_times(found.plan))]
    for end in found.ends:
        figures = _times(end.figures) if end.figures else (NOT_REACHED, "-", "-")
        rows.append((f"best for {end.phase}", *figures))
    return "The best for one phase alone", COLUMNS, rows


def end_words(end: End) -> str:
    """The shares of the best split for one phase, if it is another than the plan's."""
    if not end.attention:
        return f"best for {end.phase} alone: no better split than this plan was found"
    return f"best for {end.phase} alone: attention {end.attention}, MLP {end.mlp}"


def _change_tables(found: Explanation) -> list[Table]:
    if not found.changes:
        return []
    rows = [_change_row(change) for change in found.changes]
    return [("Solved anew with one change, and the time that saves", (*COLUMNS, "saves", "at most"), rows)]


def _change_row(change: Change) -> tuple[str, ...]:
    """The last cell says what the best split could save where it was not proven to be found."""
    if change.figures is None or change.gain is None or change.most_gain is None:
        return change.words, NOT_REACHED, "-", "-", "-", "-"
    saves = f"{change.gain:.1%}" if change.gain else "none"
    most = "proven" if change.figures.proven else f"{change.most_gain:.1%}"
    return change.words, *_times(change.figures), saves, most


def _times(figures: Figures) -> tuple[str, str, str]:
    speed = figures.decode_tokens_per_s
    return duration(figures.objective_s), duration(figures.prefill_s), f"{speed:.1f}"
