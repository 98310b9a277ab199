"""Lines of nvidia-smi, and what they say of links."""

from __future__ import annotations

import pytest

from tpplan.hwprofiles import nvidia_smi
from tpplan.hwprofiles.nvidia_smi import Slot, cards, parse_cards

TEXT = """GPU-1234-ab, NVIDIA GeForce RTX 3090, 580.65.06, 23000, 1, 4, 16, 16
GPU-77, NVIDIA P40, 580.65.06, [N/A], [N/A], [N/A], 4, 16
garbage
"""


def test_lines_become_cards() -> None:
    """Figures in order, unknown ones 0, other lines passed over."""
    found = parse_cards(TEXT)
    assert set(found) == {"1234-ab", "77"}
    assert found["1234-ab"].free_bytes == 23000 * 2**20
    assert found["1234-ab"].slot == Slot(1, 4, 16, 16)
    assert (found["77"].free_bytes, found["77"].slot.name) == (0, "")


@pytest.mark.parametrize(
    ("slot", "told"),
    [
        (Slot(4, 4, 16, 16), False),
        (Slot(4, 4, 4, 16), True),
        (Slot(3, 4, 16, 16), True),
        (Slot(0, 0, 0, 0), False),
        (Slot(5, 5, 4, 8), True),
    ],
)
def test_links_below_what_is_possible(slot: Slot, told: bool) -> None:
    """Fewer lanes or an older generation is told, an unknown one is not."""
    assert bool(slot.problem()) == told
    if told:
        assert slot.name in slot.problem()


def test_no_such_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without nvidia-smi has no cards to tell of."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert cards() == {}
    assert nvidia_smi.FIELDS.count(",") == 7
