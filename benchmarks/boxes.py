"""The machines and models that the planning benchmarks solve for, and the Markdown tables they print.

Knows names of the catalogue and of `examples/`. Knows nothing of solving.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec

EXAMPLES = Path(__file__).parent.parent / "examples"

SOLVED_FOR = {  # devices: machines that hold the 70B shape in 4 bits, with room and with little
    2: ("2xrtx3090@4.0x8", "rtx5090@5.0x8+rtx3060@4.0x8"),
    3: ("rtx3090@4.0x16+rtx4060ti@4.0x8+rtx3060@4.0x4", "3xrtx3090@4.0x8"),
    4: (
        "rtx4090@4.0x8+rtx3090@4.0x8+rtx3090@4.0x4+rtx3060@3.0x4",
        "4xrtx3090@4.0x8",
        "4xrtx3060@4.0x4",
        "2xrtx3090@4.0x8+rtx3060@4.0x4+cpu:ddr5-2ch",
    ),
    6: (
        "rtx5090@5.0x8+2xrtx3090@4.0x8+2xrtx3060@4.0x4/a+p40@3.0x4",
        "4xrtx3060@4.0x4+2xrtx2080ti@3.0x8",
    ),
    8: (
        "rtx4090@4.0x8+2xrtx3090@4.0x8+rtx4060ti@4.0x4+2xrtx3060@4.0x4/a+p40@3.0x4+rtx2080ti@3.0x8",
        "rtx4090@4.0x16+2xrtx3090@4.0x8+rtx3060@3.0x4+2xp40@3.0x8+rtx4060ti@4.0x4+cpu:ddr5-8ch",
        "8xrtx3090@4.0x8",
    ),
    16: (
        "2xrtx4090@4.0x8+4xrtx3090@4.0x8+4xrtx3060@4.0x4+2xrtx2080ti@3.0x8+2xp40@3.0x8+2xrtx4060ti@4.0x4",
        "8xrtx3090@4.0x8+8xrtx3060@3.0x4",
    ),
}

COMPARED_ON = (
    "2xrtx3090@4.0x8",
    "rtx3090@4.0x16+rtx4060ti@4.0x8",
    "rtx5090@5.0x16+rtx3090@4.0x4",
    "rtx3090@4.0x16+2xrtx3060@4.0x4",
    "rtx3090@4.0x16+2xrtx3060@3.0x1",
    "rtx3090@4.0x16+2xp40@3.0x8",
    "rx7900xtx@4.0x8+a770@4.0x8+rtx2080ti@3.0x4",
    "rtx4090@4.0x16+3xrtx3060@4.0x4/chipset",
    "2xrtx4090@4.0x8+2xrtx4060ti@4.0x4",
    "rtx4090@4.0x8+rtx3090@4.0x8+rtx3090@4.0x4+rtx3060@3.0x4",
    "4xrtx3090@4.0x4",
    "4xrtx3060@3.0x1",
    "rtx3060@4.0x16+cpu:ddr5-2ch",
    "rtx3090@4.0x16+cpu:ddr5-12ch",
    "4xrtx3060@3.0x4+cpu:ddr4-8ch",
)
COMPARED_FOR = (
    "llama-2-7b-int8",
    "qwen2.5-7b",
    "llama-3.1-8b",
    "qwen2.5-32b-int4-actorder",
    "qwen3-32b-int8",
    "llama-3.1-70b-int4",
)


def example(name: str) -> ModelSpec:
    """A model of `examples/`, by its file's name without `.json`."""
    return load_model(EXAMPLES / f"{name}.json")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as docs/measurements.md has them."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
