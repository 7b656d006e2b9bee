"""The BTS layout: lists and their traps, no lists, and where the folder may be pointed at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nyu_support import bts_line, bts_pair, millimetres, one_line, picture

from spd.data.nyu import open_nyu
from spd.data.nyu.bts import parse_line, read_list
from spd.errors import DataError

TRAIN = [("kitchen_0028b", 45), ("basement_0001a", 7), ("kitchen_0028b", 3)]
TEST = [("study", 507), ("bathroom", 46)]
LIST = "nyudepthv2_{}_files_with_gt.txt"


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    """Both splits with their lists, and in each folder a pair that is not listed."""
    folder = tmp_path / "dataset" / "nyu_depth_v2"
    for scene, number in [*TRAIN, ("basement_0001a", 99)]:
        bts_pair(folder / "sync" / scene, number)
    for scene, number in [*TEST, ("study", 508)]:
        bts_pair(folder / "official_splits" / "test" / scene, number)
    (folder / LIST.format("train")).write_text("".join(f"{slashed(*pair)}\n" for pair in TRAIN))
    (folder / LIST.format("test")).write_text("\n".join(bts_line(*pair) for pair in TEST))  # no newline at the end
    return folder


def slashed(scene: str, number: int) -> str:
    return " ".join(f"/{name}" if "." in name and "/" in name else name for name in bts_line(scene, number).split())


@pytest.mark.parametrize(("split", "expected"), [("train", TRAIN), ("test", TEST)])
def test_pairs_of_the_list_in_its_order(nyu: Path, split: str, expected: list[tuple[str, int]]) -> None:
    pairs = open_nyu(nyu, split)  # type: ignore[arg-type]
    assert pairs.title == f"NYU Depth V2, BTS layout, {split}"
    assert len(pairs) == len(expected)
    assert pairs.left_out == 0
    for i, (scene, number) in enumerate(expected):
        pair = pairs[i]
        assert pair.name == f"{scene}/rgb_{number:05d}.jpg"
        assert pair.depth.dtype == np.float32
        np.testing.assert_allclose(pair.depth, millimetres(number) / 1000.0, rtol=1e-6)
        assert (pair.depth == 0).sum() == (millimetres(number) == 0).sum() > 24
        assert pair.image.dtype == np.uint8
        assert np.abs(pair.image.astype(int) - picture(number % 10)).max() <= 12
    with pytest.raises(IndexError):
        pairs[len(expected)]
    one_line(pairs.description, f"{len(expected)} pairs in {nyu}", nyu / LIST.format(split))


def test_training_sees_the_crop_and_testing_everything(nyu: Path) -> None:
    bts_pair(nyu / "sync" / "kitchen_0028b", 45, 640, 480)
    bts_pair(nyu / "official_splits" / "test" / "study", 507, 640, 480)
    train, test = open_nyu(nyu, "train")[0], open_nyu(nyu, "test")[0]
    # PIL's box (43, 45, 608, 472): left, top, right, bottom.
    np.testing.assert_allclose(train.depth, millimetres(45, 640, 480)[45:472, 43:608] / 1000.0, rtol=1e-6)
    np.testing.assert_allclose(test.depth, millimetres(507, 640, 480) / 1000.0, rtol=1e-6)
    assert np.abs(train.image.astype(int) - picture(5, 640, 480)[45:472, 43:608]).max() <= 12
    assert test.image.shape == (480, 640, 3)
    for array in (train.image, train.depth, test.image, test.depth):
        assert array.flags["C_CONTIGUOUS"]
        assert array.flags["WRITEABLE"]  # torch.from_numpy warns otherwise


@pytest.mark.parametrize(
    "part", ["..", ".", "sync", "official_splits", "official_splits/test", "official_splits/test/"]
)
def test_pointed_at_another_level(nyu: Path, part: str) -> None:
    assert len(open_nyu(nyu / part, "train")) == len(TRAIN)
    assert len(open_nyu(str(nyu / part), "test")) == len(TEST)


def test_relative_path(nyu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nyu / "sync")
    pairs = open_nyu(".", "test")
    monkeypatch.chdir("/")
    assert pairs[1].name == "bathroom/rgb_00046.jpg"


@pytest.mark.parametrize("place", ["train_test_inputs", "data_splits", "sync", "../train_test_inputs", ".."])
def test_where_a_list_may_be(nyu: Path, place: str) -> None:
    (nyu / place).mkdir(exist_ok=True)
    path = (nyu / LIST.format("train")).rename(nyu / place / LIST.format("train"))
    pairs = open_nyu(nyu, "train")
    assert [pair.name for pair in pairs] == [f"{scene}/rgb_{number:05d}.jpg" for scene, number in TRAIN]
    assert str(path.resolve()) in pairs.description


def test_missing_files_are_left_out_and_told(nyu: Path) -> None:
    (nyu / "sync/kitchen_0028b/sync_depth_00045.png").unlink()
    (nyu / "sync/kitchen_0028b/rgb_00003.jpg").unlink()
    pairs = open_nyu(nyu, "train")
    assert [pair.name for pair in pairs] == ["basement_0001a/rgb_00007.jpg"]
    assert pairs.left_out == 2
    one_line(pairs.description, "2 of the 3", nyu / "sync/kitchen_0028b/sync_depth_00045.png")


def test_nothing_of_the_list_is_there(nyu: Path) -> None:
    (nyu / LIST.format("train")).write_text("/attic_1/rgb_1.jpg /attic_1/sync_depth_1.png 518.8579\n" * 2)
    with pytest.raises(DataError) as caught:
        open_nyu(nyu, "train")
    one_line(caught.value, "none of the 2 pairs", LIST.format("train"), nyu / "sync/attic_1/rgb_1.jpg")


def test_without_a_list_all_folders_are_paired(nyu: Path) -> None:
    (nyu / LIST.format("train")).unlink()
    (nyu / "sync/kitchen_0028b/sync_depth_00045.png").unlink()
    pairs = open_nyu(nyu, "train")
    names = ["basement_0001a/rgb_00007.jpg", "basement_0001a/rgb_00099.jpg", "kitchen_0028b/rgb_00003.jpg"]
    assert [pair.name for pair in pairs] == names
    np.testing.assert_allclose(pairs[1].depth, millimetres(99) / 1000.0, rtol=1e-6)
    assert pairs.left_out == 1
    one_line(pairs.description, "no list", LIST.format("train"), nyu / "sync/kitchen_0028b/sync_depth_00045.png")


def test_dense_list_gives_measured_depth(nyu: Path) -> None:
    plain, dense = nyu / LIST.format("train"), nyu / "nyudepthv2_train_files_with_gt_dense.txt"
    line = (
        "basement_0001a/rgb_00099.jpg basement_0001a/sync_depth_00099.png basement_0001a/dense/sync_depth_dense_1.png"
    )
    dense.write_text(line + "\n")
    assert len(open_nyu(nyu, "train")) == len(TRAIN)  # the usual list is preferred
    plain.unlink()
    pairs = open_nyu(nyu, "train")
    assert len(pairs) == 1
    np.testing.assert_allclose(pairs[0].depth, millimetres(99) / 1000.0, rtol=1e-6)
    assert "filled depth, is not read" in pairs.description


def test_labelled_images_where_there_is_no_sync(tmp_path: Path) -> None:
    bts_pair(tmp_path / "official_splits" / "train" / "cafe", 1)
    (tmp_path / LIST.format("train")).write_text(slashed(*TRAIN[0]))  # of sync, which is not there
    pairs = open_nyu(tmp_path, "train")
    assert [pair.name for pair in pairs] == ["cafe/rgb_00001.jpg"]
    assert f"no {tmp_path / 'sync'}" in pairs.description


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "sync" / "kitchen").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        open_nyu(tmp_path, "train")
    one_line(caught.value, tmp_path / "sync", "no images")


NAME = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="_-./"), min_size=1).filter(
    lambda name: not name.startswith("/")
)


@given(NAME, NAME, st.sampled_from(["", "/", "//"]), st.sampled_from([" ", "\t", "   "]), st.lists(NAME, max_size=2))
def test_list_lines(image: str, depth: str, slash: str, gap: str, more: list[str]) -> None:
    line = gap.join([slash + image, slash + depth, *more])
    assert parse_line(line, "list") == (image, depth)


@given(NAME, st.integers(1, 10**6))
def test_list_lines_with_one_column(name: str, number: int) -> None:
    with pytest.raises(DataError, match=f"x.txt line {number} is .*expected an image and its depth"):
        parse_line(name, f"x.txt line {number}")


def test_lists_from_windows(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbf/a/rgb_1.jpg /a/d_1.png 518.8579\r\n\r\n b/rgb_2.jpg b/d_2.png \r\n")
    assert read_list(path) == [("a/rgb_1.jpg", "a/d_1.png"), ("b/rgb_2.jpg", "b/d_2.png")]


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"\n\n", "names no pairs"), (b"a.jpg b.png\nc.jpg\n", "line 2 is 'c.jpg'"), (b"\xff\xfe\x00", "is not text")],
)
def test_broken_lists(nyu: Path, content: bytes, part: str) -> None:
    path = nyu / LIST.format("train")
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_nyu(nyu, "train")
    one_line(caught.value, path, part)


def test_the_usual_lists(samples: Path) -> None:
    folder = samples.parent / "nyu"
    if not folder.is_dir():
        pytest.skip("the usual lists (../shared/nyu) are not here")
    train, test = (read_list(folder / LIST.format(split)) for split in ("train", "test"))
    assert len(train) == len(set(train)) == 24231
    assert len(test) == len(set(test)) == 654
    assert len({image.split("/")[0] for image, _ in train}) == 284
    for image, depth in train + test:
        scene, number = image.removesuffix(".jpg").split("/rgb_")
        assert depth == f"{scene}/sync_depth_{number}.png"
    assert test != sorted(test)  # so that without a list the order differs
