"""Pairs of files that cannot be used: each is refused in a line that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nyu_support import bts_pair, millimetres, one_line, picture, save
from PIL import Image

from spd.data.nyu import open_nyu
from spd.data.nyu.files import read_depth_png
from spd.errors import DataError

RGB, DEPTH = "sync/a/rgb_00001.jpg", "sync/a/sync_depth_00001.png"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def constant(value: int) -> Callable[[Path], object]:
    return lambda path: save(path, np.full((16, 24), value, dtype=np.uint16))


def mode(name: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(picture(1)).convert(name).save(path)


DAMAGE = {
    "image missing": (RGB, Path.unlink, ["does not exist"]),
    "image empty": (RGB, lambda path: path.write_bytes(b""), ["is empty"]),
    "image cut": (RGB, cut, ["damaged"]),
    "image is text": (RGB, lambda path: path.write_text("<html>"), ["is not an image"]),
    "depth missing": (DEPTH, Path.unlink, ["does not exist"]),
    "depth empty": (DEPTH, lambda path: path.write_bytes(b""), ["is empty"]),
    "depth cut": (DEPTH, cut, ["damaged"]),
    "depth is text": (DEPTH, lambda path: path.write_text("<html>"), ["is not an image"]),
    "depth is a folder": (DEPTH, to_folder, ["is a folder"]),
    "depth in colour": (DEPTH, mode("RGB"), ["mode RGB", "16-bit grey PNG in millimetres"]),
    "depth with alpha": (DEPTH, mode("LA"), ["mode LA"]),
    "depth as palette": (DEPTH, mode("P"), ["mode P"]),
    "depth in 8 bits": (DEPTH, mode("L"), ["8-bit grey", "expected depth as a 16-bit grey PNG in millimetres;"]),
    "depth is a JPEG": (DEPTH, lambda path: Image.fromarray(picture(1)).save(path, "JPEG"), ["JPEG"]),
    "another size": (DEPTH, lambda path: save(path, millimetres(1, 16, 24)), ["16 x 24 depths", "24 x 16 pixels"]),
    "all zero": (DEPTH, constant(0), ["no valid depth"]),
    "all clipped": (DEPTH, constant(10000), ["no valid depth", "10 m"]),
    "a tenth of a millimetre": (DEPTH, constant(32000), ["median depth of 32 m", "16-bit PNG in millimetres"]),
    "metres": (DEPTH, constant(3), ["median depth of 0.003 m", "expected 0.1 to 20 m", "another unit"]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_bad_pairs(tmp_path: Path, case: str) -> None:
    file, damage, parts = DAMAGE[case]
    bts_pair(tmp_path / "sync" / "a", 1)
    pairs = open_nyu(tmp_path, "train")
    assert pairs[0].depth.any()
    damage(tmp_path / file)
    with pytest.raises(DataError) as caught:
        pairs[0]
    one_line(caught.value, tmp_path / file, *parts)


def test_bit_depth_decides_on_the_unit(tmp_path: Path) -> None:
    eight = np.arange(1, 201, dtype=np.uint8).reshape(10, 20)
    values, encoding = read_depth_png(save(tmp_path / "8.png", eight), True)
    np.testing.assert_allclose(values, eight / 255 * 10, rtol=1e-6)
    assert values.dtype == np.float32
    assert "8-bit" in encoding
    sixteen = np.linspace(0, 65535, 200).astype(np.uint16).reshape(10, 20)
    for eight_bit in (True, False):
        values, encoding = read_depth_png(save(tmp_path / "16.png", sixteen), eight_bit)
        np.testing.assert_allclose(values, sixteen / 1000, rtol=1e-6)
        assert values.dtype == np.float32
        assert "16-bit" in encoding


def test_depth_beyond_ten_metres_stays(tmp_path: Path) -> None:
    bts_pair(tmp_path / "sync" / "a", 1)
    stored = millimetres(1)
    stored[5, 3:7] = 9999, 10000, 10001, 65535
    save(tmp_path / DEPTH, stored)
    depth = open_nyu(tmp_path, "train")[0].depth
    np.testing.assert_allclose(depth[5, 3:7], [9.999, 0, 10.001, 65.535], rtol=1e-6)


@pytest.mark.parametrize(("kind", "dtype"), [("JPEG", np.uint8), ("TIFF", np.uint16), ("PPM", np.uint16)])
def test_grey_files_of_other_formats_are_no_depth(tmp_path: Path, kind: str, dtype: type) -> None:
    path = tmp_path / "sync_depth_00001.png"
    Image.fromarray(np.full((16, 24), 200, dtype=dtype)).save(path, kind)
    with pytest.raises(DataError) as caught:
        read_depth_png(path, True)
    one_line(caught.value, path, f"is a {kind} file", "16-bit grey PNG in millimetres or an 8-bit one")
