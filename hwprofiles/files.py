"""Small JSON files, read with a bound and written whole or not at all.

Knows files and what makes a figure believable. Knows nothing of what the figures mean.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

MAX_FILE_BYTES = 64 * 2**20
MAX_FIGURE = 2**62

T = TypeVar("T", bound=msgspec.Struct)


class _Head(msgspec.Struct):
    """The version, and the fields that only one kind of file has."""

    schema_version: int
    host: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()


def read_struct(path: str | Path, type_: type[T], schema_version: int, fix: str) -> T:
    """The struct stored in `path`; ValueError with `fix` if it is no JSON, another version, or holds absurd figures."""
    try:
        data = read_small(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}: {fix}, or name another file") from None
    try:
        _check_head(msgspec.json.decode(data, type=_Head), type_.__struct_fields__, schema_version)
        value = msgspec.json.decode(data, type=type_)
        check_figures(msgspec.to_builtins(value))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot use {path}: {error}; {fix}") from error
    return value


def _check_head(head: _Head, fields: tuple[str, ...], schema_version: int) -> None:
    if head.layers and "layers" not in fields:
        raise ValueError("it is a plan, not a profile")
    if head.host and "host" not in fields:
        raise ValueError("it is a profile, not a plan")
    if head.schema_version != schema_version:
        raise ValueError(f"schema version {head.schema_version}, while this tpplan reads {schema_version}")


def read_small(path: str | Path) -> bytes:
    """The bytes of a regular file of at most 64 MiB; ValueError for anything else."""
    with open(path, "rb", opener=_open_nonblocking) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is not a regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB, too large for what it should be")
    return data


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_figures(value: Any, where: str = "$") -> None:
    """ValueError unless every number inside lists and dicts is finite, not negative and below 2**62."""
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            check_figures(item, f"{where}.{key}")
    elif isinstance(value, int | float) and not (math.isfinite(value) and 0 <= value < MAX_FIGURE):
        raise ValueError(f"{where} is {value:.6g}, not a possible figure")


def check_writable(path: str | Path, *inputs: str | Path) -> None:
    """OSError if `path` cannot be written, ValueError if that would destroy one of `inputs` or a file inside one.

    Asked before long work, whose result would be lost.
    """
    if not str(path):
        raise ValueError("the name of the file to write is empty; name one")
    target = os.path.realpath(path)
    if os.path.isdir(target):
        raise IsADirectoryError(f"cannot write {path}: it is a directory")
    if os.path.exists(target) and stat.S_ISFIFO(os.stat(target).st_mode):
        raise ValueError(f"cannot write {path}: it is a pipe; name a file")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise PermissionError(f"cannot write {path}: it is write-protected")
    if not _is_device(target):
        _refuse_input(path, inputs)
        _try_beside(path, target)


def _refuse_input(path: str | Path, inputs: Iterable[str | Path]) -> None:
    for source in map(Path, inputs):
        for file in source.iterdir() if source.is_dir() else [source]:
            with contextlib.suppress(OSError):
                if os.path.samefile(path, file):
                    raise ValueError(f"cannot write {path}: it is read as {file}; choose another path")


def _try_beside(path: str | Path, target: str) -> None:
    beside = _beside(target)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(target)  # fails where the name is too long
        beside.touch(exist_ok=False)
        beside.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def write_atomically(path: str | Path, data: bytes) -> None:
    """Writes beside `path`, then renames, so that nobody sees half a file. Devices are written directly."""
    target = os.path.realpath(path)
    try:
        if _is_device(target):
            Path(target).write_bytes(data)
        else:
            _write_beside(target, data)
    except OSError as error:
        raise _unwritable(path, error) from error


def _write_beside(target: str, data: bytes) -> None:
    beside = _beside(target)
    try:
        with open(beside, "xb") as file:
            file.write(data)
        beside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _is_device(target: str) -> bool:
    return os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target)


def _beside(target: str) -> Path:
    return Path(os.path.dirname(target), f".tpplan.{os.getpid()}")


def _unwritable(path: str | Path, error: OSError) -> OSError:
    return OSError(f"cannot write {path}: {error.strerror}; choose another path")
