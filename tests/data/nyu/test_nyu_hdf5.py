"""The two layouts in HDF5: one file per frame, and the labelled images in one."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from nyu_support import F32, h5_pair, labelled, millimetres, one_line, picture
from scipy.io import savemat

from spd.data.nyu import open_nyu
from spd.errors import DataError


def depth(seed: int) -> F32:
    return (millimetres(seed) / 1000).astype(np.float32)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "nyudepthv2"
    for scene, number in [("study_0002", 5), ("cafe_0001a", 201), ("cafe_0001a", 1)]:
        h5_pair(folder / f"train/{scene}/{number:05d}.h5", picture(number % 10), depth(number))
    h5_pair(folder / "val/official/01449.h5", picture(9), depth(1449))
    return folder


def test_archive(archive: Path) -> None:
    train, test = open_nyu(archive, "train"), open_nyu(archive, "test")
    assert train.title == "NYU Depth V2, HDF5 layout, train"
    names = ["train/cafe_0001a/00001.h5", "train/cafe_0001a/00201.h5", "train/study_0002/00005.h5"]
    assert [pair.name for pair in train] == names  # with those that FastDepth holds out
    for pair, number in zip(train, (1, 201, 5), strict=True):
        np.testing.assert_array_equal(pair.image, picture(number % 10))
        np.testing.assert_array_equal(pair.depth, depth(number))
        assert pair.image.flags["C_CONTIGUOUS"]
    assert test[0].name == "val/official/01449.h5"
    np.testing.assert_array_equal(test[0].depth, depth(1449))
    assert "filled" in train.description


@pytest.mark.parametrize("part", ["..", ".", "train", "val", "val/official"])
def test_archive_pointed_at_another_level(archive: Path, part: str) -> None:
    assert (len(open_nyu(archive / part, "train")), len(open_nyu(archive / part, "test"))) == (3, 1)


def test_archive_native_size_and_odd_values(archive: Path) -> None:
    stored = np.random.default_rng(0).uniform(1, 9, (480, 640))
    stored[100, 100:104] = np.nan, np.inf, -2, 10
    h5_pair(archive / "train/cafe_0001a/00001.h5", picture(1, 640, 480), stored)
    pair = open_nyu(archive, "train")[0]
    np.testing.assert_array_equal(pair.image, picture(1, 640, 480)[45:472, 43:608])
    stored[100, 100:104] = 0
    np.testing.assert_allclose(pair.depth, stored[45:472, 43:608], rtol=1e-6)
    assert pair.depth.dtype == np.float32


HDF5_DAMAGE = {
    "missing": (None, "does not exist"),
    "empty": (b"", "is empty"),
    "text": (b"<html>", "cannot be read as HDF5"),
    "no depth": ({"rgb": np.zeros((3, 4, 5), np.uint8)}, "no dataset 'depth', only rgb"),
    "rows last": ({"rgb": np.zeros((4, 5, 3), np.uint8), "depth": np.ones((4, 5))}, "uint8 [4, 5, 3]"),
    "float image": ({"rgb": np.zeros((3, 4, 5)), "depth": np.ones((4, 5))}, "rgb is float64 [3, 4, 5]"),
    "whole numbers": ({"rgb": np.zeros((3, 4, 5), np.uint8), "depth": np.ones((4, 5), int)}, "depth is int64 [4, 5]"),
    "another size": ({"rgb": np.zeros((3, 4, 5), np.uint8), "depth": np.ones((5, 4))}, "has 4 x 5 depths"),
    "millimetres": ({"rgb": np.zeros((3, 4, 5), np.uint8), "depth": np.full((4, 5), 3e3)}, "floating point metres"),
    "nothing valid": ({"rgb": np.zeros((3, 4, 5), np.uint8), "depth": np.full((4, 5), np.nan)}, "no valid depth"),
}


@pytest.mark.parametrize(
    "error", [TypeError("'<' not supported"), ValueError("Insufficient\nprecision"), KeyError("x")]
)
def test_whatever_h5py_raises_on_a_damaged_header(
    archive: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three bytes changed at random were enough for the first two, in 8 of 1,500 files."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(h5py.File, "get", fail)
    with pytest.raises(DataError) as caught:
        open_nyu(archive, "train")[0]
    one_line(caught.value, archive / "train/cafe_0001a/00001.h5", "cannot be read as HDF5", "copy or download it again")


@pytest.mark.parametrize("case", HDF5_DAMAGE)
def test_bad_archive_files(archive: Path, case: str) -> None:
    content, part = HDF5_DAMAGE[case]
    pairs = open_nyu(archive, "train")
    path = archive / pairs[0].name
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        with h5py.File(path, "w") as file:
            file.update(content)
    with pytest.raises(DataError) as caught:
        pairs[0]
    one_line(caught.value, path, part)


def test_cut_off_archive_file(archive: Path) -> None:
    pairs = open_nyu(archive, "train")
    path = archive / pairs[0].name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError) as caught:
        pairs[0]
    one_line(caught.value, path, "cannot be read as HDF5")


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    images, depths = [picture(i) for i in range(1, 6)], [depth(i) for i in range(1, 6)]
    return labelled(tmp_path / "labelled", images, depths, train=[5, 1], test=[2, 3, 4])


@pytest.mark.parametrize(("split", "numbers"), [("train", [5, 1]), ("test", [2, 3, 4])])
def test_labelled(mat: Path, split: str, numbers: list[int]) -> None:
    pairs = open_nyu(mat, split)  # type: ignore[arg-type]
    assert pairs.title == f"NYU Depth V2, labelled .mat, {split}"
    assert len(pairs) == len(numbers)
    for pair, number in zip(pairs, numbers, strict=True):  # number 1 is the first image
        np.testing.assert_array_equal(pair.image, picture(number))
        np.testing.assert_array_equal(pair.depth, depth(number))  # measured, not the 7 m of `depths`
        assert pair.name == f"nyu_depth_v2_labeled.mat image {number}"
        assert pair.image.flags["C_CONTIGUOUS"]
        assert pair.depth.flags["C_CONTIGUOUS"]


def test_labelled_pointed_at_differently(mat: Path) -> None:
    for path in (mat.parents[1], mat.parent, mat, mat.with_name("splits.mat")):
        assert len(open_nyu(path, "test")) == 3
    other = mat.rename(mat.with_name("labelled_images.mat"))
    assert len(open_nyu(other, "test")) == 3


def test_labelled_native_size(tmp_path: Path) -> None:
    stored = (millimetres(1, 640, 480) / 1000).astype(np.float32)
    path = labelled(tmp_path, [picture(1, 640, 480)] * 2, [stored] * 2, train=[1], test=[2])
    np.testing.assert_array_equal(open_nyu(path, "train")[0].image, picture(1, 640, 480)[45:472, 43:608])
    np.testing.assert_array_equal(open_nyu(path, "train")[0].depth, stored[45:472, 43:608])
    np.testing.assert_array_equal(open_nyu(path, "test")[0].depth, stored)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "does not exist"),
        (b"", "cannot be read as a MATLAB 5 file"),
        (b"<html>" * 100, "cannot be read as a MATLAB 5 file"),
        ({"testNdxs": [[1]]}, "has no trainNdxs, only testNdxs"),
        ({"trainNdxs": [[0], [1]]}, "trainNdxs must hold image numbers from 1 to 5"),
        ({"trainNdxs": [[1], [6]]}, "from 1 to 5"),
        ({"trainNdxs": [[1.5]]}, "from 1 to 5"),
        ({"trainNdxs": np.zeros((0, 1))}, "from 1 to 5"),
        ({"trainNdxs": "kitchen"}, "from 1 to 5"),
    ],
)
def test_bad_splits(mat: Path, content: bytes | dict[str, object] | None, part: str) -> None:
    path = mat.with_name("splits.mat")
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        savemat(path, content)
    with pytest.raises(DataError) as caught:
        open_nyu(mat, "train")
    one_line(caught.value, path, part)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b"MATLAB 5.0 MAT-file" * 50, "cannot be read as HDF5"),
        ({"images": np.zeros((2, 3, 5, 4), np.uint8)}, "no dataset 'rawDepths', only images"),
        ({"images": np.zeros((2, 3, 5, 4)), "rawDepths": np.ones((2, 5, 4))}, "images is float64 [2, 3, 5, 4]"),
        ({"images": np.zeros((2, 3, 5, 4), np.uint8), "rawDepths": np.ones((1, 5, 4))}, "rawDepths float64 [1, 5, 4]"),
    ],
)
def test_bad_labelled(mat: Path, content: bytes | dict[str, object], part: str) -> None:
    mat.unlink()
    if isinstance(content, bytes):
        mat.write_bytes(content)
    else:
        with h5py.File(mat, "w") as file:
            file.update(content)
    with pytest.raises(DataError) as caught:
        open_nyu(mat.parent, "test")
    one_line(caught.value, mat, part)


def test_bad_labelled_image(mat: Path) -> None:
    pairs = open_nyu(mat, "train")
    with h5py.File(mat, "r+") as file:
        file["rawDepths"][4] = np.nan
    with pytest.raises(DataError) as caught:
        pairs[0]
    one_line(caught.value, f"{mat} image 5", "no valid depth")
    assert pairs[1].depth.any()
