"""A Plan as the command line of another engine, with all that the engine cannot do of it.

Knows which engines there are. What each can do is in `engines`.
"""

from __future__ import annotations

import importlib

from .engines.command import Export
from .engines.usage import usage_of
from .plan import Plan

ENGINES = {"llama.cpp": "llama_cpp", "ik_llama.cpp": "ik_llama_cpp", "exllamav3": "exllamav3", "vllm": "vllm"}


def export(plan: Plan, engine: str, model: str | None = None) -> Export:
    """The nearest that `engine` can do, with the weights at `model` (a path; the plan's own if None).

    ValueError, one line with a way out, where the plan makes no sense or the engine cannot run on its devices at all.
    """
    path = plan.model if model is None else model
    if not path or not path.isprintable():
        raise ValueError(f"{path!r} cannot be put in a command: name the model's path by --model")
    exported: Export = importlib.import_module(f".engines.{ENGINES[engine]}", __package__).export(usage_of(plan, path))
    return exported
