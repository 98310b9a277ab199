"""Quantised GGUF tensors that stay quantised mean what the gguf package makes of them, any columns and rows of them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import random_rows, small_gguf
from gguf import GGMLQuantizationType as Q

from tpplan.executor.gguf_groups import FORMS
from tpplan.executor.tiles import Parts, Tiles
from tpplan.executor.weight_files import WeightFiles, gguf_tensors
from tpplan.kernels.grouped import TILE, weights_grouped
from tpplan.planner.gguf_spec import load_gguf
from tpplan.planner.stored_formats import KEPT

SLICES = [((0, 96), (0, 512)), ((16, 48), (0, 512)), ((0, 96), (64, 352)), ((3, 70), (7, 201)), ((48, 49), (250, 300))]


def opened(path: Path, kind: Q, raw: np.ndarray) -> WeightFiles:
    path = small_gguf(path, tensors={"extra": (raw, kind)})
    spec = load_gguf(small_gguf(path.with_name("plain.gguf")))
    return WeightFiles(path, gguf_tensors(path, spec))


@pytest.mark.parametrize("kind", FORMS, ids=[kind.name for kind in FORMS])
def test_slices(kind: Q, tmp_path: Path) -> None:
    """Whole and cut, on borders of groups and blocks or not, within two float32 roundings of the terms."""
    raw = random_rows(kind, 96, 512)
    whole = gguf.quants.dequantize(raw, kind)
    with opened(tmp_path / "model.gguf", kind, raw) as files:
        for rows, columns in SLICES:
            source = files.grouped("extra", columns)
            assert source is not None
            tiles = Tiles(source, rows)
            got = np.zeros((columns[1] - columns[0], -(-tiles.outputs // TILE) * TILE), np.float32)
            weights_grouped(Parts([tiles]).table[0], 0, got.shape[1] // TILE, got)
            expected = whole[slice(*rows), slice(*columns)]
            np.testing.assert_allclose(got.T[: tiles.outputs], expected, rtol=0, atol=2**-22 * np.abs(whole).max())


def test_types_are_kept_as_planned() -> None:
    """The planner counts on exactly those types that are kept, in codes of as many bits."""
    planned = {kind: held.form for kind, held in KEPT.items() if held.form.startswith("int")}
    assert planned == {kind: f"int{form.bits}" for kind, (form, _, _) in FORMS.items()}


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_K, Q.Q6_K])
def test_scales_that_are_no_numbers(kind: Q, tmp_path: Path) -> None:
    """NaN or infinite scales are refused in one line that names the tensor."""
    raw = random_rows(kind, 96, 512)
    raw[5, {Q.Q6_K: 209}.get(kind, 1)] = 0x7E
    with (
        opened(tmp_path / "model.gguf", kind, raw) as files,
        pytest.raises(ValueError, match=r"tensor 'extra' holds NaN or infinite scales; download it again"),
    ):
        Tiles(files.grouped("extra", (0, 512)), (0, 96))  # type: ignore[arg-type]
