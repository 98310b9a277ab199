"""The weights of a model on disk: any slice of any tensor, by its Hugging Face name, as float32 or as it is quantised.

Knows which reader a path needs and that several device threads read at once. Knows nothing of plans or devices.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from gguf.constants import GGMLQuantizationType

from ..planner.model_spec import ModelSpec
from ..planner.plan import Range, size
from ..planner.weight_names import check_shapes, weight_shapes
from .dequantise import PLAIN
from .gguf_groups import FORMS
from .gguf_rows import GgufRows
from .gguf_weights import gguf_tensors
from .grouped import Columns, GroupedRows, floats
from .packed_rows import PackedRows, order_of_inputs
from .packed_weights import Packed, packed_matrices
from .safetensors_weights import safetensors_tensors
from .stored import BATCH_VALUES, Stored, join_halves, read_slice

if TYPE_CHECKING:
    import torch


class WeightFiles:
    """Open files and the tensors in them. `read` may be called from any number of threads; close after the last."""

    def __init__(self, path: Path, tensors: Mapping[str, Stored | Packed]) -> None:
        self.path = path
        self._tensors = tensors
        self._files: dict[Path, int] = {}
        try:
            for file in set().union(*(tensor.paths for tensor in tensors.values())):
                self._files[file] = os.open(file, os.O_RDONLY)
        except OSError as error:
            self.close()
            raise ValueError(f"{error.filename}: cannot be read: {error.strerror}") from None

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def read(self, name: str, rows: Range | None = None, columns: Range | None = None) -> torch.Tensor:
        """Float32, contiguous: [rows, columns] of a matrix, [rows] of a vector; None means all.

        Only these bytes are read, about 1 MB decoded at a time. Rows of q and k must be whole heads.
        ValueError in one line names the tensor when the file has shrunk or holds NaN or infinity.
        """
        import torch

        stored = self._tensors[name]
        if isinstance(stored, Packed):
            return torch.from_numpy(self._packed(stored, rows, columns))
        vector = len(stored.shape) == 1
        rows, columns = rows or (0, stored.shape[0]), columns or (0, stored.shape[-1])
        assert 0 <= rows[0] <= rows[1] <= stored.shape[0], name
        assert 0 <= columns[0] <= columns[1] <= stored.shape[-1], name
        assert not stored.head_rows or not (rows[0] % stored.head_rows or rows[1] % stored.head_rows), name
        try:
            span = ((0, 1), rows) if vector else (rows, columns)
            values = read_slice(self._files[stored.path], stored, *span)
        except ValueError as error:
            raise ValueError(f"{stored.path}: tensor {name!r} {error}") from None
        values = values[0] if vector else values
        if stored.head_rows:
            join_halves(values, stored.head_rows)
        return torch.from_numpy(values)

    def _packed(self, matrix: Packed, rows: Range | None, columns: Range | None) -> np.ndarray:
        """As `read`, of a quantised matrix."""
        rows, columns = rows or (0, matrix.shape[0]), columns or (0, matrix.shape[1])
        source = PackedRows(self._files, matrix, columns)
        result = np.empty((size(rows), size(columns)), np.float32)
        step = max(1, BATCH_VALUES // max(1, size(columns)))
        for begin in range(*rows, step):
            some = (begin, min(begin + step, rows[1]))
            result[begin - rows[0] : some[1] - rows[0]] = floats(source.read(some), size(columns))
        return result

    def read_into(self, out: torch.Tensor, name: str, rows: Range | None = None, columns: Range | None = None) -> None:
        """What `read` gives, into `out` of any format on any device."""
        out.copy_(self.read(name, rows, columns))

    def grouped(self, name: str, columns: Columns) -> GroupedRows | None:
        """Those columns of a matrix as they are quantised, or None where it is not, or in a way that is not computed
        with: such a matrix is read as floats.
        """
        stored = self._tensors[name]
        if isinstance(stored, Packed):
            return PackedRows(self._files, stored, columns)
        if stored.type not in FORMS:
            return None
        assert isinstance(columns, tuple), "GGUF knows no order of inputs"
        return GgufRows(self._files[stored.path], stored, columns, name)

    @property
    def widened(self) -> dict[str, int]:
        """How many matrices are stored in each quantised type that is not computed with, so that they become floats."""
        kinds = (stored.type for stored in self._tensors.values() if isinstance(stored, Stored))
        return dict(Counter(kind.name for kind in kinds if kind not in FORMS and kind not in PLAIN))

    def orders(self, *names: str) -> np.ndarray | None:
        """The order of the last matrix's inputs by group, where it differs from their own, and all these matrices are
        of a kind whose rows can be read in any order.
        """
        last = self._tensors[names[-1]]
        if not isinstance(last, Packed) or not all(isinstance(self._tensors[name], Packed) for name in names):
            return None
        return order_of_inputs(self._files, last)

    def dtype(self, name: str) -> torch.dtype:
        """The format that holds a matrix which is read as floats without rounding it."""
        import torch

        kinds = {GGMLQuantizationType.F16: torch.float16, GGMLQuantizationType.BF16: torch.bfloat16}
        stored = self._tensors[name]
        return torch.float32 if isinstance(stored, Packed) else kinds.get(stored.type, torch.float32)

    def is_zero_bias(self, name: str) -> bool:
        """Whether `name` is a bias of zeros beside a quantised matrix: AutoGPTQ writes one for every matrix."""
        matrix = self._tensors.get(f"{name.removesuffix('.bias')}.weight")
        return name.endswith(".bias") and isinstance(matrix, Packed) and not self.read(name).any()

    def stored(self, name: str) -> Stored | None:
        """How and where the tensor lies in its file; None for a quantised matrix, which is several."""
        stored = self._tensors[name]
        return stored if isinstance(stored, Stored) else None

    def descriptor(self, stored: Stored) -> int:
        """Of the open file that holds the tensor."""
        return self._files[stored.path]


def open_weights(path: str | Path, spec: ModelSpec) -> WeightFiles:
    """The weights at `path`, a GGUF file or a Hugging Face directory; ValueError in one line if they cannot be read."""
    path = Path(path)
    if path.suffix == ".gguf":
        return WeightFiles(path, gguf_tensors(path, spec))
    if path.is_dir():
        return WeightFiles(path, _of_folder(path, spec))
    raise ValueError(f"{path}: holds no weights; give the Hugging Face directory or the .gguf file of the model")


def _of_folder(path: Path, spec: ModelSpec) -> dict[str, Stored | Packed]:
    try:
        return packed_matrices(safetensors_tensors(path), spec)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def check_weights(files: WeightFiles, spec: ModelSpec) -> None:
    """ValueError unless the files hold every tensor of `spec`, in its shape, and no other but biases of nothing."""
    try:
        expected = weight_shapes(spec)
        found = {name: files.shape(name) for name in files.names if name in expected or not files.is_zero_bias(name)}
        check_shapes(found, spec)
    except ValueError as error:
        raise ValueError(f"{files.path}: {error}") from None
