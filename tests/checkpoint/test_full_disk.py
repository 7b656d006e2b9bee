"""A disk that is full while a checkpoint is written: one line with the file and the system's reason."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_support import Little, little_weights

import spd.checkpoint.checkpoint
from spd.checkpoint import save_checkpoint
from spd.config import PRESETS
from spd.errors import CheckpointError

ATTO = PRESETS["atto"]


@pytest.fixture(autouse=True)
def little_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd.checkpoint.fitting.NETWORKS", {"spd": Little})


class Filling:
    """A file on a disk with so many bytes left."""

    def __init__(self, file: Any, left: int) -> None:
        self._file = file
        self._left = left
        self.name = file.name

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def flush(self) -> None:
        self._file.flush()


@pytest.mark.parametrize("left", [0, 50, 1000, 401_000])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, left: int) -> None:
    path = tmp_path / f"model{suffix}"
    save_checkpoint(path, little_weights(0), ATTO)
    before = path.read_bytes()
    real = spd.checkpoint.checkpoint.write_atomically

    @contextmanager
    def filling(target: Path) -> Iterator[Filling]:
        with real(target) as file:
            yield Filling(file, left)

    monkeypatch.setattr(spd.checkpoint.checkpoint, "write_atomically", filling)
    large = torch.zeros(100_000) if suffix == ".pt" else "x" * 500_000
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(path, little_weights(1), ATTO, large=large)
    assert str(caught.value) == f"{path} cannot be written: No space left on device"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_device_that_is_full(tmp_path: Path, suffix: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path = tmp_path / f"model{suffix}"
    path.symlink_to("/dev/full")
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(path, little_weights(0), ATTO)
    assert str(caught.value) == f"{path} cannot be written: No space left on device"


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX's")
def test_a_limit_of_the_system(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(CheckpointError) as caught:
            save_checkpoint(path, little_weights(0), ATTO, large=torch.zeros(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == f"{path} cannot be written: {os.strerror(errno.EFBIG)}"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]
