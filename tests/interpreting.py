"""Triton's interpreter, chosen by TRITON_INTERPRET=1 before Triton is imported, made to work with today's NumPy."""

from __future__ import annotations

import os
from typing import Any

from triton.runtime import interpreter


def _scalars_index_again() -> None:
    """Triton's interpreter calls int() on arrays of one element, which NumPy 2.4 no longer takes."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: Any) -> None:
        patch(tensor, scope)
        tensor.__index__ = lambda self: self.handle.data.item()  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = patched


if os.environ.get("TRITON_INTERPRET") == "1":
    _scalars_index_again()
