"""Where an image comes from: paths, pipes, bytes, files, images and arrays."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spd.errors import ImageError
from spd.images import check_image, is_pipe, read_image, sources

PHOTO = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    return path


class Stream(io.RawIOBase):
    """A file that can only be read from front to back, a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part, self._rest = self._rest[: min(7, len(buffer))], self._rest[min(7, len(buffer)) :]
        buffer[: len(part)] = part
        return len(part)


class Array:
    """What a library of its own hands out."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[np.uint8]:
        return PHOTO


def test_sources_agree(photo: Path) -> None:
    data = photo.read_bytes()
    at_end = io.BytesIO()
    at_end.write(data)
    equal = (
        photo, str(photo), data, bytearray(data), memoryview(data), io.BytesIO(data), at_end, Stream(data),
        io.BufferedReader(Stream(data)), Image.fromarray(PHOTO), PHOTO, np.asfortranarray(PHOTO),
        torch.from_numpy(PHOTO), Array(),
    )  # fmt: skip
    for source in equal:
        np.testing.assert_array_equal(np.asarray(read_image(source)), PHOTO, err_msg=repr(source))
    with photo.open("rb") as file:
        np.testing.assert_array_equal(np.asarray(read_image(file)), PHOTO)
        assert not file.closed
    np.testing.assert_array_equal(np.asarray(read_image(PHOTO[..., 0]))[..., 2], PHOTO[..., 0])


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "P", "1", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pil_images_of_other_modes(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    read = read_image(image)
    assert (read.mode, read.size) == ("RGB", (3, 2))
    assert image.mode == mode


UNFIT = {
    "float": (np.zeros((2, 2, 3), np.float32), r"a float32 array \[2, 2, 3\].*astype\(np.uint8\)"),
    "float tensor": (torch.zeros(2, 2, 3), r"a float32 array \[2, 2, 3\]"),
    "RGBA": (np.zeros((2, 2, 4), np.uint8), r"\[2, 2, 4\].*array\[\.\.\., :3\]"),
    "one channel": (np.zeros((2, 2, 1), np.uint8), r"\[2, 2, 1\].*array\[\.\.\., 0\]"),
    "CHW": (torch.zeros(3, 20, 30, dtype=torch.uint8), r"\[3, 20, 30\].*transpose\(1, 2, 0\)"),
    "batch": (np.zeros((1, 2, 2, 3), np.uint8), r"\[1, 2, 2, 3\].*array\[0\]"),
    "no columns": (np.zeros((2, 0, 3), np.uint8), r"\[2, 0, 3\]; expected uint8 \[H, W, 3\] in RGB order or \[H, W\]$"),
    "no rows": (np.zeros((0, 2), np.uint8), r"\[0, 2\]"),
    "row": (np.zeros(3, np.uint8), r"uint8 array \[3\]"),
    "bool": (np.zeros((2, 2), bool), "bool array"),
    "needs grad": (torch.zeros(2, 2, requires_grad=True), "does not convert to a numpy array"),
    "None": (None, "is of type NoneType, expected a path, bytes, a binary file, a PIL image, or a uint8 array"),
    "number": (7, "is of type int"),
    "list": ([[1, 2], [3, 4]], "is of type list"),
    "text file": (io.StringIO("text"), "was opened as text; open it in binary mode"),
    "empty bytes": (b"", "is empty"),
    "empty file": (io.BytesIO(), "is empty"),
}


@pytest.mark.parametrize(("source", "fragment"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_called_what_it_is(source: Any, fragment: str) -> None:
    with pytest.raises(ImageError, match=f"the image .*{fragment}") as caught:
        read_image(source)
    assert "\n" not in str(caught.value)


def test_a_closed_file_and_names() -> None:
    file = io.BytesIO(b"data")
    file.close()
    with pytest.raises(ImageError, match="the image cannot be read: I/O operation on closed file"):
        read_image(file)
    with pytest.raises(ImageError, match="frame 7 is not an image but text"):
        read_image(b"data", "frame 7")


needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@needs_fifo
def test_a_pipe_is_read_once_and_not_consumed_by_the_check(photo: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert is_pipe(fifo)
    assert not is_pipe(photo)
    assert not is_pipe(tmp_path)
    assert not is_pipe(tmp_path / "none")
    writer = threading.Thread(target=fifo.write_bytes, args=(photo.read_bytes(),))
    check_image(fifo)  # does not even open it, which would wait for the writer
    writer.start()
    np.testing.assert_array_equal(np.asarray(read_image(fifo)), PHOTO)
    writer.join()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev/zero")
def test_a_device_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 5_000_000)
    with pytest.raises(ImageError, match="/dev/zero gives more than 5,000,000 bytes"):
        read_image("/dev/zero")
