"""Damaged and malicious GGUF and safetensors files: one line each, in bounded time and memory, never anything else."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from checkpoints import SMALL, small_gguf, tiny_checkpoint
from gguf import GGMLQuantizationType as Q
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tpplan.executor.safetensors_weights import safetensors_tensors
from tpplan.executor.weight_files import check_weights, open_weights
from tpplan.planner.gguf_header import read_header
from tpplan.planner.model_files import load_model

ONE_LINE = r"^[^\n]{1,2000}$"
FUZZ = settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
INTERESTING = st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**62])


@st.composite
def damage(draw: st.DrawFn, content: bytes, header_bytes: int) -> bytes:
    """`content` with up to four bytes or 8-byte words overwritten, mostly in its header, perhaps cut short."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.one_of(st.integers(0, header_bytes - 1), st.integers(0, len(data) - 1)))
        new = draw(st.one_of(st.binary(min_size=1, max_size=1), INTERESTING.map(lambda n: n.to_bytes(8, "little"))))
        data[at : at + len(new)] = new
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


def use_all(path: Path, weights: Path) -> None:
    """What `solve` and `run` do with a model, in at most 80 MB, 64 of which any JSON file may take."""
    tracemalloc.start()
    try:
        spec = load_model(path)
        with open_weights(weights, spec) as files:
            check_weights(files, spec)
            for name in files.names:
                files.read(name)
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < 80 << 20


def only_one_line(path: Path, weights: Path) -> None:
    line = str(weights)
    try:
        use_all(path, weights)
    except ValueError as error:
        line = str(error)
    assert str(weights) in line
    assert "\n" not in line
    assert len(line) < 2000


@pytest.fixture(scope="module")
def good_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    rng = np.random.default_rng(0)
    tensors: Any = {name: (rng.standard_normal(shape, np.float32), Q.F32) for name, shape in SMALL.items()}
    up = tensors["blk.0.ffn_up.weight"][0]
    tensors["blk.0.ffn_up.weight"] = (gguf.quants.quantize(up, Q.Q4_1), Q.Q4_1)
    tensors["rope_freqs.weight"] = (np.ones(8, np.float32), Q.F32)
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    words = {"tokenizer.ggml.tokens": [f"word{n}" for n in range(20)], "tokenizer.ggml.scores": [0.5, 1.5]}
    small_gguf(path, tensors=tensors, **words)
    use_all(path, path)
    return path.read_bytes()


@FUZZ
@given(data=st.data())
def test_damaged_gguf_gives_one_line(data: st.DataObject, good_gguf: bytes, tmp_path: Path) -> None:
    """Any damage to a GGUF file ends in success or one line, within 80 MB."""
    path = tmp_path / "m.gguf"
    path.write_bytes(data.draw(damage(good_gguf, good_gguf.index(b"token_embd") + 700)))
    only_one_line(path, path)


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    folder = tiny_checkpoint("llama", tmp_path_factory.mktemp("st") / "m", **small, **heads)
    use_all(folder, folder)
    return folder


@FUZZ
@given(data=st.data())
def test_damaged_safetensors_give_one_line(data: st.DataObject, good_folder: Path, tmp_path: Path) -> None:
    """Any damage to a safetensors file or its config ends in success or one line, within 80 MB."""
    for name in ("model.safetensors", "config.json"):
        good = (good_folder / name).read_bytes()
        (tmp_path / name).write_bytes(data.draw(damage(good, min(len(good), 1300))))
    only_one_line(tmp_path, tmp_path)


@FUZZ
@given(changes=st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3), max_leaves=4), min_size=1))  # fmt: skip
def test_lying_safetensors_entries_give_one_line(changes: Any, good_folder: Path, tmp_path: Path) -> None:
    """Any JSON in the place of a tensor's dtype, shape or offsets ends in success or one line."""
    edit_entry(good_folder / "model.safetensors", tmp_path / "model.safetensors", **changes)
    only_one_line(good_folder, tmp_path)


def edit_entry(source: Path, target: Path, name: str = "model.norm.weight", **changes: Any) -> None:
    """Copies a safetensors file with one tensor's header entry changed."""
    content = source.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[name] |= changes
    new = json.dumps(header).encode()
    target.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])


def words(*parts: bytes | int) -> bytes:
    """Bytes as they are, integers as 64-bit words."""
    return b"".join(part if isinstance(part, bytes) else struct.pack("<Q", part) for part in parts)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def info(name: bytes, offset: int, rows: int = 32, kind: int = 0) -> bytes:
    """A tensor table entry: a vector of `rows` values."""
    return words(len(name), name, u32(1), rows, u32(kind), offset)


START = b"GGUF" + u32(3)
ALIGN = words(17, b"general.alignment", u32(4))
HOSTILE_GGUF = {
    "empty": b"",
    "magic only": b"GGUF",
    "version 1": words(b"GGUF", u32(1), 0, 0),
    "big-endian": b"GGUF" + struct.pack(">I", 3) + bytes(16),
    "tensor count": words(START, 2**63, 0, bytes(64)),
    "field count": words(START, 0, 2**40, bytes(64)),
    "key length": words(START, 0, 1, 2**64 - 1, bytes(64)),
    "key of a megabyte": words(START, 0, 1, 1 << 20, bytes(2 << 20)),
    "string past the end": words(START, 0, 1, 1, b"k", u32(8), 1000, b"short"),
    "string length overflows": words(START, 0, 1, 1, b"k", u32(8), 2**64 - 8, bytes(64)),
    "array count": words(START, 0, 1, 1, b"k", u32(9), u32(0), 2**50, bytes(64)),
    "array of empty strings": words(START, 0, 1, 1, b"k", u32(9), u32(8), 2**61, bytes(1 << 16)),
    "nested array": words(START, 0, 1, 1, b"k", u32(9), u32(9), 1, u32(9), 1, bytes(64)),
    "unknown value type": words(START, 0, 1, 1, b"k", u32(77), bytes(64)),
    "key not UTF-8": words(START, 0, 1, 2, b"\xff\xfe", u32(4), u32(0)),
    "duplicate keys": words(START, 0, 2, (1).to_bytes(8, "little"), b"k", u32(4), u32(0), 1, b"k", u32(4), u32(0)),
    "no alignment": words(START, 0, 1, ALIGN, u32(0)),
    "odd alignment": words(START, 0, 1, ALIGN, u32(24)),
    "duplicate tensors": words(START, 2, 0, info(b"a", 0), info(b"a", 128), bytes(1024)),
    "overlapping tensors": words(START, 2, 0, info(b"a", 0), info(b"b", 64), bytes(1024)),
    "unaligned tensor": words(START, 1, 0, info(b"a", 4), bytes(1024)),
    "tensor past the end": words(START, 1, 0, info(b"a", 1 << 20), bytes(1024)),
    "offset overflows": words(START, 1, 0, info(b"a", 2**64 - 32), bytes(1024)),
    "huge tensor": words(START, 1, 0, info(b"a", 0, rows=2**62), bytes(1024)),
    "empty tensor": words(START, 1, 0, info(b"a", 0, rows=0), bytes(1024)),
    "part of a block": words(START, 1, 0, info(b"a", 0, rows=33, kind=3), bytes(1024)),
    "unknown tensor type": words(START, 1, 0, info(b"a", 0, kind=999), bytes(1024)),
    "nine dimensions": words(START, 1, 0, 1, b"a", u32(9), bytes(1024)),
    "four billion dimensions": words(START, 1, 0, 1, b"a", u32(2**32 - 1), bytes(1024)),
}


@pytest.mark.parametrize("content", HOSTILE_GGUF.values(), ids=HOSTILE_GGUF)
def test_hostile_gguf_headers_are_refused(content: bytes, tmp_path: Path) -> None:
    """Each lie about a count, length, type or offset is refused in one line that names the file."""
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=ONE_LINE) as refused:
        read_header(path)
    assert str(path) in str(refused.value)


def test_header_equals_the_gguf_library(good_gguf: bytes, tmp_path: Path) -> None:
    """Metadata, shapes, types and offsets are those that gguf.GGUFReader finds in a good file."""
    path = tmp_path / "m.gguf"
    path.write_bytes(good_gguf)
    header, reader = read_header(path), gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == fields
    assert list(header.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        ours = header.tensors[tensor.name]
        assert (ours.offset, ours.bytes) == (tensor.data_offset, tensor.n_bytes)
        assert ours.shape == tuple(reversed(tensor.shape.tolist()))
        assert ours.type == tensor.tensor_type


ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'
HOSTILE_SAFETENSORS = {
    "empty": b"",
    "header longer than the file": words(1000, b"{}"),
    "header of 2^64": words(2**64 - 1, b"{}"),
    "header over the limit": words(10**9, b"{}"),
    "not JSON": words(4, b"{{{{"),
    "list": words(2, b"[]"),
    "deep": words(200_000, b'{"a":' * 40_000),
    "not UTF-8": words(4, b'{"\xff'),
    "overlap": (b'{"a":%s,"b":%s}' % ((ENTRY % (0, 8)).encode(), (ENTRY % (4, 12)).encode()), 12),
    "gap": (b'{"a":%s,"b":%s}' % ((ENTRY % (0, 8)).encode(), (ENTRY % (12, 20)).encode()), 20),
    "same name twice": (b'{"a":%s,"a":%s}' % ((ENTRY % (0, 8)).encode(), (ENTRY % (8, 16)).encode()), 16),
    "past the end": (b'{"a":%s}' % (ENTRY % (0, 8)).encode(), 4),
    "bytes left over": (b'{"a":%s}' % (ENTRY % (0, 8)).encode(), 12),
    "size is not the shape's": (b'{"a":%s}' % (ENTRY % (0, 12)).encode(), 12),
    "negative": (b'{"a":%s}' % (ENTRY % (-8, 0)).encode(), 8),
    "backwards": (b'{"a":%s}' % (ENTRY % (8, 0)).encode(), 8),
}


@pytest.mark.parametrize("content", HOSTILE_SAFETENSORS.values(), ids=HOSTILE_SAFETENSORS)
def test_hostile_safetensors_are_refused(content: Any, good_folder: Path, tmp_path: Path) -> None:
    """Each lie about lengths and offsets is refused in one line, and by the safetensors library too."""
    from safetensors import SafetensorError, safe_open

    path = tmp_path / "model.safetensors"
    path.write_bytes(content if isinstance(content, bytes) else words(len(content[0]), content[0], bytes(content[1])))
    with pytest.raises(ValueError, match=ONE_LINE) as refused:
        open_weights(tmp_path, load_model(good_folder))
    assert str(path) in str(refused.value)
    with pytest.raises((SafetensorError, OSError)):
        safe_open(path, "pt")


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b'{"weight_map": 3}',
        b'{"weight_map": {"a": "../outside.safetensors"}}',
        b'{"weight_map": {"a": "/etc/passwd"}}',
        b'{"weight_map": {"a": ""}}',
        b'{"weight_map": {"a": ".."}}',
        b'{"weight_map": {"a": "absent.safetensors"}}',
        b'{"weight_map": {"a": "pipe"}}',
        b'{"weight_map": {"missing": "one.safetensors"}}',
        b'{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}',
        b'{"weight_map": {"a": "two.safetensors", "b": "one.safetensors"}}',
    ],
)
def test_hostile_indices_are_refused(index: bytes, good_folder: Path, tmp_path: Path) -> None:
    """An index that leaves its folder, or names no file, a pipe, a wrong shard or a tensor twice, gets one line."""
    os.mkfifo(tmp_path / "pipe")
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "two.safetensors")
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ValueError, match=ONE_LINE):
        open_weights(tmp_path, load_model(good_folder))


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    """Refused files leave no open descriptors behind."""
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir())) if folder.is_dir() else 0
    yield
    assert not folder.is_dir() or len(list(folder.iterdir())) <= before + 1


def test_dtypes_that_are_not_read_are_told_with_the_fix(tmp_path: Path) -> None:
    """Downloading again is no advice for a sound file of another dtype: converting is."""
    save_file({"a": torch.zeros(2, dtype=torch.float64)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"'F64'; convert it to float32, float16 or bfloat16$"):
        safetensors_tensors(tmp_path)
