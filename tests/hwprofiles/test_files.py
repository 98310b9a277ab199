"""Files are written whole or not at all, and read with a bound."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tpplan.hwprofiles.files import check_writable, read_small, write_atomically


def test_replaces_the_whole_file(tmp_path: Path) -> None:
    """A second write replaces the first and leaves nothing beside it; a link stays a link."""
    target, link = tmp_path / "plan.json", tmp_path / "link"
    link.symlink_to(target)
    for data in (b"long first text", b"short"):
        check_writable(link)
        write_atomically(link, data)
    assert target.read_bytes() == b"short"
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "link"}


@pytest.mark.parametrize("name", ["", "missing/plan.json", "file/plan.json", "x" * 300])
def test_unwritable_targets(tmp_path: Path, name: str) -> None:
    """A directory, a missing folder, a file as folder and a name too long are refused before and while writing."""
    (tmp_path / "file").write_text("old")
    for attempt in (check_writable, lambda path: write_atomically(path, b"new")):
        with pytest.raises(OSError, match="cannot write"):
            attempt(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_inputs_are_never_written(tmp_path: Path) -> None:
    """An input, under another name or inside an input folder too, is no target; a long name beside it is one."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(folder / "config.json")
    for target in (folder / "config.json", tmp_path / "link", folder / ".." / "model" / "config.json"):
        for source in (folder, folder / "config.json", tmp_path / "link"):
            with pytest.raises(ValueError, match="choose another path"):
                check_writable(target, tmp_path / "missing", source)
    check_writable(folder / ("p" * 255), folder)
    with pytest.raises(ValueError, match="empty"):
        check_writable("")


def test_full_device(tmp_path: Path) -> None:
    """A device that is full gives one clear error and stays a device."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="cannot write /dev/full: No space left"):
        write_atomically("/dev/full", b"x")
    assert not os.path.isfile("/dev/full")


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """Where only part of the data can be written, the old file survives and the part is removed."""
    target = tmp_path / "plan.json"
    target.write_text("old")
    code = (
        "import resource, sys; from tpplan.hwprofiles.files import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomically(sys.argv[1], bytes(5000))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True)
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_reading_is_bounded(tmp_path: Path) -> None:
    """A pipe, a device and a huge file are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as huge:
        huge.truncate(2**40)
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="not a regular file"):
            read_small(path)
    with pytest.raises(ValueError, match="larger than"):
        read_small(tmp_path / "huge")


def test_a_pipe_is_no_file_to_write(tmp_path: Path) -> None:
    """Opening one would wait for a reader: refused in one line."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="it is a pipe; name a file"):
        check_writable(tmp_path / "pipe")
