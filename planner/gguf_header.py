"""Reads the header of a GGUF file, metadata and tensor table, in milliseconds and without trusting a byte of it.

Knows the container format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3, little-endian.
Knows nothing of what the keys mean, nor of the tensors' data. `gguf.GGUFReader` is not used here: it takes 2 s on
SmolLM2-135M's tokenizer arrays and follows lengths and offsets beyond the end of the file.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType

MAX_ITEMS = 1 << 22  # elements of one metadata array; the largest vocabularies have 2^18
MAX_DIMS = 4
MAX_NAME_BYTES = 1024

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
_MIN_FIELD_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: `shape` in row-major order (llama.cpp's reversed), `offset` from the start of the file."""

    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata values are int, float, bool, str or a list of one of these."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_header(path: str | Path) -> GgufHeader:
    """The header of the GGUF file at `path`; ValueError in one line when the file is not one, is truncated or lies."""
    if not os.path.isfile(path):
        raise ValueError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < 24:
                raise ValueError("not a GGUF file: shorter than a header")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).header()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except struct.error:
        raise ValueError(f"{path}: truncated inside its header; download it again") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: damaged, a string in its header is not UTF-8 ({error.reason})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class _Reader:
    """A position in the mapped file. Reading past the end raises `struct.error`."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.position)
        self.position += struct.calcsize("<" + code)
        return value

    def strings(self, count: int) -> list[str]:
        data, position, end = self.data, self.position, len(self.data)
        length_at = struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            begin = position + 8
            position = begin + length_at(data, position)[0]
            if position > end:
                raise ValueError(f"a string of {position - begin:,} bytes at {begin:,} runs past the end of the file")
            found.append(data[begin:position].decode())
        self.position = position
        return found

    def name(self) -> str:
        (length,) = struct.unpack_from("<Q", self.data, self.position)
        if length > MAX_NAME_BYTES:
            raise ValueError(f"a name of {length:,} bytes at byte {self.position:,}; {MAX_NAME_BYTES} are allowed")
        return self.strings(1)[0]

    def count(self, what: str, item_bytes: int, limit: int = MAX_ITEMS) -> int:
        """An item count that the rest of the file could hold."""
        count: int = self.scalar("Q")
        if count > limit or count * item_bytes > len(self.data) - self.position:
            raise ValueError(f"claims {count:,} {what}, more than the file can hold; download it again")
        return count

    def header(self) -> GgufHeader:
        if self.data[:4] != b"GGUF":
            raise ValueError("not a GGUF file: it does not start with 'GGUF'")
        self.position = 4
        version = self.scalar("I")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version} (or big-endian); versions 2 and 3 are read, convert it again")
        tensors = self.count("tensors", _MIN_TENSOR_BYTES)
        metadata = self.metadata(self.count("metadata fields", _MIN_FIELD_BYTES))
        return GgufHeader(metadata, self.tensors(tensors, _alignment(metadata)))

    def metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(count):
            key = self.name()
            if key in metadata:
                raise ValueError(f"metadata field {key!r} appears twice")
            metadata[key] = self.value(key)
        return metadata

    def value(self, key: str) -> Any:
        kind = self.scalar("I")
        if kind == GGUFValueType.STRING:
            return self.strings(1)[0]
        if kind == GGUFValueType.ARRAY:
            return self.array(key)
        return self.scalar(_scalar_code(key, kind))

    def array(self, key: str) -> list[Any]:
        kind = self.scalar("I")
        if kind == GGUFValueType.STRING:
            return self.strings(self.count(f"strings in {key!r}", 8))
        code = _scalar_code(key, kind)
        count = self.count(f"values in {key!r}", struct.calcsize("<" + code))
        values = struct.unpack_from(f"<{count}{code}", self.data, self.position)
        self.position += struct.calcsize(f"<{count}{code}")
        return list(values)

    def tensors(self, count: int, alignment: int) -> dict[str, GgufTensor]:
        tensors: dict[str, GgufTensor] = {}
        for _ in range(count):
            name = self.name()
            if name in tensors:
                raise ValueError(f"tensor {name!r} appears twice")
            tensors[name] = self.tensor(name)
        start = -(-self.position // alignment) * alignment
        tensors = {name: GgufTensor(t.shape, t.type, start + t.offset, t.bytes) for name, t in tensors.items()}
        _check_layout(tensors, alignment, len(self.data))
        return tensors

    def tensor(self, name: str) -> GgufTensor:
        dims = self.scalar("I")
        if not 1 <= dims <= MAX_DIMS:
            raise ValueError(f"tensor {name!r} has {dims} dimensions; 1 to {MAX_DIMS} are read")
        shape = tuple(reversed([self.scalar("Q") for _ in range(dims)]))
        kind, offset = self.scalar("I"), self.scalar("Q")
        if kind not in GGML_QUANT_SIZES:
            raise ValueError(f"tensor {name!r} has the unknown type {kind}")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if shape[-1] % block or 0 in shape:
            raise ValueError(f"tensor {name!r} of shape {list(shape)} is not whole blocks of {block}")
        return GgufTensor(shape, GGMLQuantizationType(kind), offset, prod(shape) // block * block_bytes)


def _scalar_code(key: str, kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"metadata field {key!r} has a type that is not read (nested array, or number {kind})")
    return _SCALARS[GGUFValueType(kind)]


def _alignment(metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment is {alignment!r}; it must be a power of two")
    return alignment


def _check_layout(tensors: dict[str, GgufTensor], alignment: int, file_bytes: int) -> None:
    """Every tensor aligned, inside the file, and clear of its neighbours."""
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset % alignment:
            raise ValueError(f"tensor {name!r} is not aligned to {alignment} bytes")
        if tensor.offset + tensor.bytes > file_bytes:
            raise ValueError(f"tensor {name!r} runs past the end of the file; it is truncated, download it again")
        if tensor.offset < end:
            raise ValueError(f"tensors {before!r} and {name!r} overlap")
        end, before = tensor.offset + tensor.bytes, name
