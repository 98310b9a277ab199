"""Measuring cut down to one small shape of each step, for tests that need a measured profile or a bench."""

from __future__ import annotations

import pytest

from tpplan.hwprofiles import cpu_measure, measure, probes, timing

SIZES = [64, 577]  # values exchanged


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small shape of each step, short budgets, a pool of 8 MiB."""
    monkeypatch.setattr(timing, "POOL_FLOATS", 2**21)
    for name in ("BUDGET_S", "QUICK_BUDGET_S"):
        monkeypatch.setattr(measure, name, 0.002)
    for name in ("SIZES", "QUICK_SIZES"):
        monkeypatch.setattr(cpu_measure, name, SIZES)
    for name in ("SHAPES", "QUICK_SHAPES", "BATCH_SHAPES", "QUICK_BATCH_SHAPES"):
        monkeypatch.setattr(probes, name, [(64, 32)])
    monkeypatch.setattr(probes, "CAPACITY", 512)
    monkeypatch.setattr(probes, "WIDTHS", {op: [320] for op in probes.WIDTHS})
    monkeypatch.setattr(probes, "HEADS", [(1, 3)])
