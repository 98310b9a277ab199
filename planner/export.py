"""A Plan as the command line of another engine, with all that the engine cannot do of it.

Knows which engines there are. What each can do is in `engines`.
"""

from __future__ import annotations

import importlib

import msgspec

from .engines.command import Export
from .engines.usage import usage_of
from .plan import Plan

PLACEHOLDERS = {"llama.cpp": "MODEL.gguf", "ik_llama.cpp": "MODEL.gguf", "exllamav3": "MODEL_DIR", "vllm": "MODEL_DIR"}
ENGINES = {"llama.cpp": "llama_cpp", "ik_llama.cpp": "ik_llama_cpp", "exllamav3": "exllamav3", "vllm": "vllm"}


def export(plan: Plan, engine: str, model: str | None = None) -> Export:
    """The nearest that `engine` can do, with the weights at `model` (a path; the plan's own if None, or a placeholder
    where that is a description without weights).

    ValueError, one line with a way out, where the plan makes no sense or the engine cannot run on its devices at all.
    """
    if model is None and plan.model.endswith(".json"):
        return _without_weights(plan, engine)
    path = plan.model if model is None else model
    if not path or not path.isprintable():
        raise ValueError(f"{path!r} cannot be put in a command: name the model's path by --model")
    exported: Export = importlib.import_module(f".engines.{ENGINES[engine]}", __package__).export(usage_of(plan, path))
    return exported


def _without_weights(plan: Plan, engine: str) -> Export:
    placeholder = PLACEHOLDERS[engine]
    exported = export(plan, engine, placeholder)
    note = f"{placeholder} stands for the weights: the plan is of a description without any; name them by --model"
    return msgspec.structs.replace(exported, notes=(note, *exported.notes))
