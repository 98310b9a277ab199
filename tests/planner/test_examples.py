"""Every file in `examples/` is the well-known model that its name says."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import Quant

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
WEIGHTS = {  # as published, with embedding and head
    "llama-2-7b": 6.738e9,
    "llama-3.1-8b": 8.030e9,
    "llama-3.1-70b": 70.55e9,
    "mistral-7b-v0.3": 7.248e9,
    "qwen2.5-7b": 7.616e9,
    "qwen2.5-32b": 32.76e9,
    "qwen2.5-72b": 72.71e9,
    "qwen3-8b": 8.191e9,
    "qwen3-32b": 32.76e9,
}
VARIANTS = {
    "": None,
    "-int8": Quant(8, 128),
    "-int4": Quant(4, 128),
    "-int4-actorder": Quant(4, 128, act_order=True),
}


def test_the_folder_is_complete() -> None:
    """Nine models in four formats, and nothing else."""
    assert {path.stem for path in EXAMPLES.glob("*.json")} == {name + v for name in WEIGHTS for v in VARIANTS}


@pytest.mark.parametrize("name", WEIGHTS)
def test_models_have_the_published_size(name: str) -> None:
    """Their weights add up to what is published, within 0.1 %."""
    assert load_model(EXAMPLES / f"{name}.json").weights == pytest.approx(WEIGHTS[name], rel=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_variants_differ_in_format_only(name: str, variant: str) -> None:
    """A quantised file is the same model in the bits, groups and order that its name says."""
    plain = load_model(EXAMPLES / f"{name}.json")
    assert load_model(EXAMPLES / f"{name}{variant}.json") == msgspec.structs.replace(plain, quant=VARIANTS[variant])


def test_the_readme_tells_them() -> None:
    """Every model is named, and every file that a command names is there."""
    text = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}`" in text for name in WEIGHTS)
    assert all((EXAMPLES / name).is_file() for name in re.findall(r"examples/([\w.-]+\.json)", text))
