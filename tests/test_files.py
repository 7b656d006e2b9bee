"""Files appear whole or not at all, also where they can be written but not replaced."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from spd.files import write_atomically


def test_write_atomically(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), write_atomically(path) as file:
        file.writelines([b"half", "not bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    with write_atomically(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(OSError, match="none") as caught, write_atomically(tmp_path / "none" / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "none" / "file")


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV, errno.EPERM])
def test_a_file_that_cannot_be_replaced_is_overwritten_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(code, os.strerror(code), source, None, target)

    monkeypatch.setattr(os, "replace", refuse)
    path = tmp_path / "file"
    path.write_bytes(b"old, and longer")
    with pytest.raises(TypeError), write_atomically(path) as file:
        file.writelines([b"half", "not bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old, and longer"
    inode = path.stat().st_ino
    with write_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert Path(file.name).read_bytes() == b"new"
        assert path.read_bytes() == b"old, and longer"
    assert (path.read_bytes(), path.stat().st_ino) == (b"new", inode)
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(OSError, match=os.strerror(code)) as caught, write_atomically(tmp_path / "none") as file:
        file.write(b"new")
    assert caught.value.filename == str(tmp_path / "none")
    assert os.listdir(tmp_path) == ["file"]


def test_another_error_of_the_rename_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EIO, "Input/output error", source, None, target)

    monkeypatch.setattr(os, "replace", refuse)
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="Input/output error") as caught, write_atomically(path) as file:
        file.write(b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
