"""Turns what the user names as MODEL into a `ModelSpec`: a config JSON, a Hugging Face directory, or a GGUF file.

Knows which reader a path needs, and bounds what is read. Knows nothing of weights beyond a GGUF file's tensor shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ..hwprofiles.files import read_small
from .hf_config import spec_from_config
from .model_spec import ModelSpec


def load_model(path: str | Path) -> ModelSpec:
    """The model at `path`; ValueError in one line names the file, what in it is wrong, and the fix."""
    path = Path(path)
    if path.is_dir():
        return _load_config(path / "config.json")
    if path.suffix == ".gguf":
        from .gguf_spec import load_gguf  # gguf and numpy are only needed here

        return load_gguf(path)
    return _load_config(path)


def _load_config(path: Path) -> ModelSpec:
    fields = _read_json(path)
    try:
        return spec_from_config(fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        missing = "it is no regular file" if path.exists() else "no such file"
        raise ValueError(f"{path}: {missing}; MODEL is a config .json, a Hugging Face directory or a .gguf file")
    try:
        content = read_small(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if content.startswith(b"GGUF"):
        raise ValueError(f"{path}: a GGUF file; give its name the ending .gguf")
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON object: {error}") from None
