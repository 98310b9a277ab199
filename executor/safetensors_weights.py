"""The tensors of a Hugging Face directory: one `model.safetensors`, or several under `model.safetensors.index.json`.

Knows the container format (https://huggingface.co/docs/safetensors), and believes none of its numbers.
The header is read here rather than by the `safetensors` library so that both kinds of file share one bounded reader.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from gguf.constants import GGMLQuantizationType

from ..hwprofiles.files import read_small
from .stored import Stored

MAX_HEADER_BYTES = 100_000_000  # the library's own limit
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "download it again"
_TYPES = {"F32": GGMLQuantizationType.F32, "F16": GGMLQuantizationType.F16, "BF16": GGMLQuantizationType.BF16}
_INTEGERS = {"I32": GGMLQuantizationType.I32, "I64": GGMLQuantizationType.I64, "I8": GGMLQuantizationType.I8}


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def safetensors_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint in `folder`; ValueError in one line names the file that is missing or lies."""
    if (folder / SINGLE).is_file():
        return _file_tensors(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: holds neither {SINGLE} nor {INDEX}; download the checkpoint as safetensors")
    weight_map = _read_index(folder / INDEX)
    tensors: dict[str, Stored] = {}
    for shard in sorted(set(weight_map.values())):
        found = _file_tensors(folder / shard)
        if twice := tensors.keys() & found.keys():
            raise ValueError(f"{folder / shard}: tensor {min(twice)!r} is also in another shard")
        tensors |= found
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].path != folder / shard:
            raise ValueError(f"{folder / shard}: tensor {name[:120]!r} is missing though {INDEX} says it is here")
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = msgspec.json.decode(read_small(path), type=_Index).weight_map
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a safetensors index: {error}") from None
    for shard in weight_map.values():
        if Path(shard).name != shard:
            raise ValueError(f"{path}: {shard[:120]!r} is not the name of a file beside it")
    return weight_map


def _file_tensors(path: Path) -> dict[str, Stored]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; download the whole checkpoint")
    try:
        with open(path, "rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            header_bytes = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or header_bytes > min(file_bytes - 8, MAX_HEADER_BYTES):
                raise ValueError(f"claims a header of {header_bytes:,} bytes in a file of {file_bytes:,}; {AGAIN}")
            header = file.read(header_bytes)
        return _tensors(path, header, 8 + header_bytes, file_bytes)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a safetensors file, its header is no table of tensors: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _tensors(path: Path, header: bytes, start: int, file_bytes: int) -> dict[str, Stored]:
    """Entries whose data follow one another from `start` to the end of the file, without gap or overlap."""
    fields = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
    fields.pop("__metadata__", None)
    entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in fields.items()}
    tensors, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        tensor = _stored(path, name, entry, start)
        if entry.data_offsets != (end, end + tensor.bytes):
            raise ValueError(
                f"tensor {name[:120]!r} overlaps another, leaves a gap or has another size than its shape; {AGAIN}"
            )
        tensors[name], end = tensor, end + tensor.bytes
    if start + end != file_bytes:
        raise ValueError(f"its tensors end at byte {start + end:,}, the file at {file_bytes:,}; {AGAIN}")
    return tensors


def _stored(path: Path, name: str, entry: _Entry, start: int) -> Stored:
    if entry.dtype not in _TYPES | _INTEGERS:
        raise ValueError(
            f"tensor {name[:120]!r} has dtype {entry.dtype[:40]!r}; convert it to float32, float16 or bfloat16"
        )
    if not 1 <= len(entry.shape) <= 8 or min(entry.shape) < 1:
        raise ValueError(f"tensor {name[:120]!r} has shape {entry.shape[:8]}; sizes must be positive; {AGAIN}")
    return Stored(path, start + entry.data_offsets[0], tuple(entry.shape), (_TYPES | _INTEGERS)[entry.dtype])
