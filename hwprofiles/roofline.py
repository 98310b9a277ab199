"""What steps would take on a device that is known by its figures only: a fixed time, and the larger of bytes and
operations at the rates that are reached.

Knows rates. Knows nothing of which devices have them. Quantised weights are read as they are and unpacked on the way
into the product, whatever the rows. Activations and caches are float32, as in a profile. Fixed times and shares are
those of `catalogue/rules.json`, which says where they are from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from .catalogue_files import Rules
from .profile import Format, Op, OpPoint

WEIGHT_BYTES: dict[Format, float] = {"float32": 4, "bfloat16": 2, "int8": 1 + 4 / 128, "int4": 1 / 2 + 4 / 128}
"""A weight with its part of the 16-bit scale and minimum of 128."""
VALUE_BYTES: dict[Op, int] = {"norm": 8, "rope": 8, "swiglu": 12, "residual": 12, "embed": 8, "argmax": 4}
"""Read and written by small steps for each value of their width."""

ROWS = (1, 8, 32, 128, 256, 512)
FLOAT32_ROWS = (1, 8, 16, 32, 64, 128, 256, 512)
MATRICES = ((16, 16), (512, 512), (4096, 1024), (1024, 8192), (8192, 8192), (8192, 65536), (28672, 8192))
FLOAT32_MATRICES = ((16, 16), *product((128, 512, 2048, 8192, 32768), repeat=2))
HEADS = ((16, 16, 1), (128, 128, 512), (128, 1024, 4096), (1024, 4096, 512), (1024, 8192, 8192), (4096, 4096, 2048))
WIDTHS = (64, 65536)
SLICES = (1, 2, 3, 4, 5, 7, 15)
LONGEST = 1 << 24  # float32 values of an exchange


@dataclass(frozen=True)
class Roof:
    """What one device reaches; `matmul_flops_per_s` in 16-bit matrix products."""

    rules: Rules
    read_bytes_per_s: float
    matmul_flops_per_s: float
    float32_flops_per_s: float
    push_bytes_per_s: float
    pull_bytes_per_s: float

    def linear_s(self, form: Format, rows: int, wide_in: int, wide_out: int) -> float:
        """[rows, wide_in] @ [wide_out, wide_in]^T."""
        weights = wide_in * wide_out
        read = WEIGHT_BYTES[form] * weights + 4 * rows * (wide_in + wide_out)
        rate = self.float32_flops_per_s if form == "float32" else self.matmul_flops_per_s
        seconds = max(read / self.read_bytes_per_s, 2 * rows * weights / rate)
        return self.rules.op_s.value + seconds / self._share(form)

    def _share(self, form: Format) -> float:
        """What unpacking leaves of bytes and operations a second."""
        return {"int8": self.rules.int8_share.value, "int4": self.rules.int4_share.value}.get(form, 1.0)

    def attention_s(self, rows: int, kv: int, queries: int, context: int) -> float:
        """`kv` and `queries` are heads * head_dim."""
        read_s = (8 * kv * context + 8 * rows * queries) / self.read_bytes_per_s
        flops_s = 4 * rows * queries * context / self.matmul_flops_per_s
        return self.rules.op_s.value + max(read_s, flops_s) / self.rules.attention_share.value

    def small_s(self, op: Op, rows: int, width: int) -> float:
        """Steps that only stream values."""
        return self.rules.op_s.value + VALUE_BYTES[op] * rows * width / self.read_bytes_per_s

    def push_s(self, moved_bytes: float) -> float:
        return self.rules.push_s.value + self._wire_s(moved_bytes / self.push_bytes_per_s)

    def pull_s(self, moved_bytes: float) -> float:
        """Without the flag's way."""
        return self.rules.pull_s.value + self._wire_s(moved_bytes / self.pull_bytes_per_s)

    def _wire_s(self, seconds: float) -> float:
        """Words with a flag in each, twice the bytes; or a copy, with the time that it takes to begin."""
        return min(2 * seconds, self.rules.copy_s.value + seconds)


def roofline_points(roof: Roof) -> tuple[OpPoint, ...]:
    """As few points of every step kind as say all: between them everything is straight, or equally efficient."""
    points = [*_matrices(roof), *_attention(roof), *_small(roof), *_exchanges(roof)]
    return tuple(points)


def _matrices(roof: Roof) -> Iterator[OpPoint]:
    """More of float32 where 16-bit products are faster: how efficient it is then depends on the shape."""
    for form in WEIGHT_BYTES:
        uneven = form == "float32" and roof.float32_flops_per_s < roof.matmul_flops_per_s
        for rows in FLOAT32_ROWS if uneven else ROWS:
            for wide_in, wide_out in FLOAT32_MATRICES if uneven else MATRICES:
                seconds = roof.linear_s(form, rows, wide_in, wide_out)
                yield OpPoint("linear", rows, wide_in, wide_out, seconds, seconds, format=form)


def _attention(roof: Roof) -> Iterator[OpPoint]:
    for rows in ROWS:
        for kv, queries, context in HEADS:
            seconds = roof.attention_s(rows, kv, queries, context)
            yield OpPoint("attention", rows, kv, queries, seconds, seconds, context=context)


def _small(roof: Roof) -> Iterator[OpPoint]:
    for op in VALUE_BYTES:
        for rows in (ROWS[0], ROWS[-1]):
            for width in WIDTHS:
                seconds = roof.small_s(op, rows, width)
                wide_in = 2 * width if op == "swiglu" else width
                yield OpPoint(op, rows, wide_in, 1 if op == "argmax" else width, seconds, seconds)


def _exchanges(roof: Roof) -> Iterator[OpPoint]:
    for floats in _lengths(roof, roof.push_bytes_per_s, 1):
        seconds = roof.push_s(4 * floats)
        yield OpPoint("push", 1, floats, floats, seconds, seconds)
    for slices in SLICES:
        for floats in _lengths(roof, roof.pull_bytes_per_s, slices):
            seconds = roof.pull_s(4 * floats * slices)
            yield OpPoint("pull", 1, floats, floats, seconds, seconds, peers=slices)


def _lengths(roof: Roof, rate: float, slices: int) -> tuple[int, ...]:
    """Values of a slice: few, as many as are sent either way in the same time, and many."""
    equal = round(roof.rules.copy_s.value * rate / (4 * slices))
    return (64, equal, LONGEST) if equal > 64 else (64, LONGEST)
