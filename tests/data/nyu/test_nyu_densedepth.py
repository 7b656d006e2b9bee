"""DenseDepth's layout, with its two encodings in one tree; mmsegmentation's, which is read the same way."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from nyu_support import HEIGHT, U8, WIDTH, bts_pair, densedepth_pair, millimetres, one_line, picture, save

from spd.data.nyu import open_nyu
from spd.errors import DataError


def eighth(seed: int) -> U8:
    """Filled depth in 8 bits, 1 to 254."""
    return np.random.default_rng(seed).integers(1, 255, (HEIGHT, WIDTH)).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder data/ of an unpacked nyu_data.zip."""
    folder = tmp_path / "nyu_data" / "data"
    lines = [densedepth_pair(folder, f"{scene}_out", n, eighth(n)) for scene, n in [("den", 7), ("attic", 12)]]
    (folder / "nyu2_train.csv").write_text("\r\n".join(lines) + "\r\n")
    save(folder / "nyu2_test/00003_colors.png", picture(3))
    save(folder / "nyu2_test/00003_depth.png", millimetres(3))
    (folder / "nyu2_test.csv").write_text("data/nyu2_test/00003_colors.png,data/nyu2_test/00003_depth.png\n")
    return folder


def test_two_encodings(data: Path) -> None:
    train, test = open_nyu(data, "train"), open_nyu(data, "test")
    assert train.title == "NYU Depth V2, DenseDepth layout, train"
    assert (len(train), len(test)) == (2, 1)
    assert [pair.name for pair in train] == ["nyu2_train/den_out/7.jpg", "nyu2_train/attic_out/12.jpg"]
    for pair, number in zip(train, (7, 12), strict=True):
        np.testing.assert_allclose(pair.depth, eighth(number) * (10 / 255), rtol=1e-6)
        assert np.abs(pair.image.astype(int) - picture(number % 10)).max() <= 12
    np.testing.assert_allclose(test[0].depth, millimetres(3) / 1000, rtol=1e-6)
    np.testing.assert_array_equal(test[0].image, picture(3))
    assert "filled" in train.description


def test_the_folder_does_not_decide(data: Path) -> None:
    save(data / "nyu2_train/den_out/7.png", millimetres(7))
    save(data / "nyu2_test/00003_depth.png", eighth(3))
    np.testing.assert_allclose(open_nyu(data, "train")[0].depth, millimetres(7) / 1000, rtol=1e-6)
    np.testing.assert_allclose(open_nyu(data, "test")[0].depth, eighth(3) * (10 / 255), rtol=1e-6)


def test_the_largest_of_8_bits_is_clipped(data: Path) -> None:
    stored = eighth(7)
    stored[2, 3:5] = 255, 254
    save(data / "nyu2_train/den_out/7.png", stored)
    np.testing.assert_allclose(open_nyu(data, "train")[0].depth[2, 3:5], [0, 254 / 25.5], rtol=1e-6)


def test_8_bits_of_another_unit(data: Path) -> None:
    save(data / "nyu2_train/den_out/7.png", np.full((HEIGHT, WIDTH), 2, dtype=np.uint8))
    with pytest.raises(DataError) as caught:
        open_nyu(data, "train")[0]
    one_line(caught.value, data / "nyu2_train/den_out/7.png", "0.07843 m", "8-bit PNG with 255 for 10 m")


def test_native_training_pairs_are_cropped(data: Path) -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(1, 255, (480, 640)).astype(np.uint8)
    save(data / "nyu2_train/den_out/7.jpg", picture(7, 640, 480))
    save(data / "nyu2_train/den_out/7.png", stored)
    np.testing.assert_allclose(open_nyu(data, "train")[0].depth, stored[45:472, 43:608] * (10 / 255), rtol=1e-6)


@pytest.mark.parametrize("part", ["../..", "..", ".", "nyu2_train", "nyu2_test"])
def test_pointed_at_another_level(data: Path, part: str) -> None:
    if part == "../..":  # the zip unpacked to data/ itself lies one folder higher
        data = data.rename(data.parents[1] / "data")
        shutil.rmtree(data.parent / "nyu_data")
        part = ".."
    assert len(open_nyu(data / part, "train")) == 2
    assert open_nyu(data / part, "test")[0].name == "nyu2_test/00003_colors.png"


def test_only_the_inner_folders(data: Path) -> None:
    inner = data.rename(data.parents[1] / "kept")
    assert open_nyu(inner, "train")[1].name == "nyu2_train/attic_out/12.jpg"


def test_lists_beside_the_folder(data: Path) -> None:
    (data / "nyu2_train.csv").rename(data.parent / "nyu2_train.csv")
    assert open_nyu(data.parent, "train")[1].name == "data/nyu2_train/attic_out/12.jpg"


def test_missing_files(data: Path) -> None:
    shutil.rmtree(data / "nyu2_train/attic_out")
    pairs = open_nyu(data, "train")
    assert (len(pairs), pairs.left_out) == (1, 1)
    one_line(pairs.description, "1 of the 2", data / "nyu2_train/attic_out/12.jpg")
    shutil.rmtree(data / "nyu2_train")
    with pytest.raises(DataError) as caught:
        open_nyu(data, "train")
    one_line(caught.value, data / "nyu2_train.csv", data / "nyu2_train/den_out/7.jpg")


@pytest.mark.parametrize(
    ("content", "part"),
    [("", "names no pairs"), ("a.jpg b.png\n", "line 1"), ("a.jpg,\n", "line 1"), ("\na.jpg,b.png,3\n", "line 2")],
)
def test_broken_csv(data: Path, content: str, part: str) -> None:
    (data / "nyu2_train.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        open_nyu(data, "train")
    one_line(caught.value, data / "nyu2_train.csv", part)


def test_mmsegmentation(tmp_path: Path) -> None:
    for split, scene, number in [("train", "den_0001a", 4), ("train", "attic_0002", 9), ("test", "den", 2)]:
        bts_pair(tmp_path, number)
        for old, new in [("rgb", f"images/{split}"), ("sync_depth", f"annotations/{split}")]:
            (tmp_path / new).mkdir(parents=True, exist_ok=True)
            source = next(tmp_path.glob(f"{old}_{number:05d}.*"))
            source.rename(tmp_path / new / f"{scene}_{number:05d}{source.suffix}")
    save(tmp_path / "images/train/zoo_00001.jpg", picture(1))
    train, test = open_nyu(tmp_path, "train"), open_nyu(tmp_path / "images" / "train", "test")
    assert train.title == "NYU Depth V2, mmsegmentation layout, train"
    assert [pair.name for pair in train] == ["images/train/attic_0002_00009.jpg", "images/train/den_0001a_00004.jpg"]
    np.testing.assert_allclose(train[0].depth, millimetres(9) / 1000, rtol=1e-6)
    assert np.abs(train[0].image.astype(int) - picture(9)).max() <= 12
    assert train.left_out == 1
    assert str(tmp_path / "annotations/train/zoo_00001.png") in train.description
    assert len(test) == 1
    np.testing.assert_allclose(test[0].depth, millimetres(2) / 1000, rtol=1e-6)
