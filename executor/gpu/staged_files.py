"""A checkpoint read for one GPU: through two pinned buffers in turn, so that file and link are busy at the same time.

Knows bytes and copies. Knows nothing of which tensors a device needs. No more host memory than the two buffers is taken
for tensors that lie in the file as plain numbers; others are decoded as for a CPU device.
"""

from __future__ import annotations

import torch
from gguf.constants import GGMLQuantizationType

from ...planner.plan import Range, size
from ..grouped import Array, Columns, GroupedRows
from ..stored import Stored, read_raw
from ..weight_files import WeightFiles

BUFFER_BYTES = 16 * 2**20
_PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


class StagedFiles:
    """What `ShardReader` asks of `files`, for the GPU whose thread and stream call it.

    ValueError when pinned memory is refused.
    """

    def __init__(self, files: WeightFiles) -> None:
        self.files = files
        try:
            self._buffers = [torch.empty(BUFFER_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        except RuntimeError as error:
            raise ValueError(
                f"pinned memory was refused: raise the limit of locked memory, ulimit -l ({error})"
            ) from None
        self._copied = [torch.cuda.Event() for _ in self._buffers]
        self._turn = 0

    def read(self, name: str, rows: Range | None = None, columns: Range | None = None) -> torch.Tensor:
        """On the host, float32."""
        return self.files.read(name, rows, columns)

    def grouped(self, name: str, columns: Columns) -> GroupedRows | None:
        return self.files.grouped(name, columns)

    def orders(self, *names: str) -> Array | None:
        return self.files.orders(*names)

    def dtype(self, name: str) -> torch.dtype:
        return self.files.dtype(name)

    def read_into(self, out: torch.Tensor, name: str, rows: Range | None = None, columns: Range | None = None) -> None:
        """Into `out` on the GPU. ValueError names a tensor that is cut short, or holds NaN or infinity."""
        stored = self.files.stored(name)
        if stored is None or stored.type not in _PLAIN or stored.head_rows or len(stored.shape) == 1:
            out.copy_(self.files.read(name, rows, columns))
        else:
            self._copy(out, stored, rows or (0, stored.shape[0]), columns or (0, stored.shape[1]), name)

    def _copy(self, out: torch.Tensor, stored: Stored, rows: Range, columns: Range, name: str) -> None:
        form = _PLAIN[stored.type]
        row_bytes = size(columns) * form.itemsize
        step = max(1, BUFFER_BYTES // row_bytes)
        for begin in range(*rows, step):
            end = min(begin + step, rows[1])
            buffer, copied = self._next()
            raw = buffer[: (end - begin) * row_bytes]
            try:
                read_raw(self.files.descriptor(stored), stored, (begin, end), columns, raw.view(-1, row_bytes).numpy())
            except ValueError as error:
                raise ValueError(f"{stored.path}: tensor {name!r} {error}") from None
            piece = raw.view(form).view(end - begin, size(columns))
            out[begin - rows[0] : end - rows[0]].copy_(piece.to(out.device, non_blocking=True))
            copied.record()
        if not torch.isfinite(out).all():
            raise ValueError(f"{stored.path}: tensor {name!r} holds NaN or infinite weights")

    def _next(self) -> tuple[torch.Tensor, torch.cuda.Event]:
        """The buffer that was used longest ago, once its copy has ended."""
        self._turn = 1 - self._turn
        self._copied[self._turn].synchronize()
        return self._buffers[self._turn], self._copied[self._turn]
