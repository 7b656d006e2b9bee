"""Which layout a folder has, refusals where it has none, and reading from worker processes."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from nyu_support import bts_pair, densedepth_pair, h5_pair, labelled, millimetres, one_line, picture, save

from spd.data.nyu import NyuPairs, open_nyu
from spd.data.pairs import Pair, Pairs
from spd.errors import DataError

LAYOUTS = ("bts", "densedepth", "hdf5", "labelled")


def write(layout: str, folder: Path) -> Path:
    """Two training pairs in a layout."""
    metres = [(millimetres(seed) / 1000).astype(np.float32) for seed in (1, 2)]
    if layout == "bts":
        for number in (1, 2):
            bts_pair(folder / "sync" / "a", number)
    elif layout == "densedepth":
        lines = [densedepth_pair(folder / "data", "a_out", n, np.full((16, 24), 100 + n, np.uint8)) for n in (1, 2)]
        (folder / "data/nyu2_train.csv").write_text("\n".join(lines))
    elif layout == "hdf5":
        for number, depth in enumerate(metres, start=1):
            h5_pair(folder / f"train/a/{number:05d}.h5", picture(number), depth)
    else:
        labelled(folder, [picture(1), picture(2)], metres, train=[1, 2], test=[1])
    return folder


def refusal(path: Path, split: str = "train") -> DataError:
    with pytest.raises(DataError) as caught:
        open_nyu(path, split)  # type: ignore[arg-type]
    one_line(caught.value)
    return caught.value


def test_is_what_training_expects(tmp_path: Path) -> None:
    pairs: Pairs = open_nyu(write("bts", tmp_path), "train")
    assert isinstance(pairs[0], Pair)
    assert [pair.name for pair in pairs] == ["a/rgb_00001.jpg", "a/rgb_00002.jpg"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_read_the_same(tmp_path: Path, layout: str, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    pairs = open_nyu(write(layout, tmp_path), "train")
    here = [pairs[i] for i in (0, 1)]  # before the workers start: nothing may stay open
    with multiprocessing.get_context(method).Pool(2) as pool:
        there = pool.map(pairs.__getitem__, [0, 1])
    for a, b in zip(here, there, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.depth, b.depth)
    assert not np.array_equal(here[0].depth, here[1].depth)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pickled(tmp_path: Path, layout: str) -> None:
    pairs = open_nyu(write(layout, tmp_path), "train")
    again: NyuPairs = pickle.loads(pickle.dumps(pairs))
    assert (again.title, len(again), again.description) == (pairs.title, 2, pairs.description)
    np.testing.assert_array_equal(again[1].depth, pairs[1].depth)


def test_the_mat_beside_other_layouts(tmp_path: Path) -> None:
    write("labelled", write("bts", tmp_path))
    assert "BTS" in open_nyu(tmp_path, "train").title
    assert "labelled" in open_nyu(tmp_path / "nyu_depth_v2_labeled.mat", "train").title
    assert "labelled" in open_nyu(tmp_path, "test").title  # BTS has none here


def test_several_copies(tmp_path: Path) -> None:
    write("bts", tmp_path / "one")
    write("hdf5", tmp_path / "two")
    one_line(refusal(tmp_path), "2 copies", tmp_path / "one", "BTS layout", tmp_path / "two", "HDF5 layout", "point at")
    assert "HDF5" in open_nyu(tmp_path / "two", "train").title


def test_folders_beside_it_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as lost+found at the top of a disk, and a copy that was begun; a link to the copy is no second one."""
    write("bts", tmp_path / "nyu")
    (tmp_path / "begun" / "sync").mkdir(parents=True)
    (tmp_path / "latest").symlink_to(tmp_path / "nyu")
    (tmp_path / "lost+found").mkdir()
    is_dir = Path.is_dir

    def refuse(folder: Path, **options: bool) -> bool:
        if folder.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return is_dir(folder, **options)

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert len(open_nyu(tmp_path, "train")) == 2
    (tmp_path / "latest").unlink()
    (tmp_path / "nyu" / "sync").rename(tmp_path / "moved")
    one_line(refusal(tmp_path), tmp_path / "begun" / "sync", "has no images")


def test_a_link_to_a_part(tmp_path: Path) -> None:
    """The lists and the other split lie beside what it leads to."""
    write("bts", tmp_path / "disk")
    (tmp_path / "nyu").symlink_to(tmp_path / "disk" / "sync")
    assert len(open_nyu(tmp_path / "nyu", "train")) == 2


def test_a_tilde_that_stands_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one_line(refusal(Path("~nobody-of-that-name/nyu")), "~nobody-of-that-name/nyu", "does not exist")


@pytest.mark.parametrize("layout", ["hdf5", "mmseg"])
def test_what_macos_leaves_beside_files(tmp_path: Path, layout: str) -> None:
    if layout == "hdf5":
        write("hdf5", tmp_path)
    else:
        save(tmp_path / "images/train/a.jpg", picture(1))
        save(tmp_path / "annotations/train/a.png", millimetres(1))
    expected = len(open_nyu(tmp_path, "train"))
    for path in [*tmp_path.rglob("*.*")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert len(open_nyu(tmp_path, "train")) == expected


def test_unknown_folder(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    signs = ["sync/", "data/nyu2_train.csv", "train/*/*.h5", "images/train/", "nyu_depth_v2_labeled.mat"]
    one_line(refusal(tmp_path), tmp_path, *signs, "found holiday, notes.txt")
    signs = ["official_splits/test/", "nyu2_test.csv", "val/official/*.h5", "images/test/", "splits.mat"]
    one_line(refusal(tmp_path, "test"), tmp_path, *signs, "found holiday, notes.txt")


def test_empty_and_crowded_folders(tmp_path: Path) -> None:
    assert "found nothing" in str(refusal(tmp_path))
    for number in range(11):
        (tmp_path / f"{number:02d}.txt").touch()
    one_line(refusal(tmp_path), "found 00.txt, 01.txt,", "07.txt and 3 more")


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    one_line(refusal(write("bts", tmp_path), "test"), "no test pairs", "official_splits/test/", "found sync")


def test_no_such_path(tmp_path: Path) -> None:
    one_line(refusal(tmp_path / "nowhere"), tmp_path / "nowhere", "does not exist")
    one_line(refusal(tmp_path, "val"), "'val'", "train and test")


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "nyu_data.zip"
    path.write_bytes(b"PK")
    one_line(refusal(path), path, "unpack it")
    one_line(refusal(tmp_path), "unpack nyu_data.zip first")


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("x")
    one_line(refusal(path), path, "is a file")


@pytest.mark.parametrize("part", [".", "basement_0001a"])
def test_raw_recordings(tmp_path: Path, part: str) -> None:
    scene = tmp_path / "basement_0001a"
    scene.mkdir()
    for name in ("a-1316653580.471513-1316138413.dump", "d-1316653580.484909-1316138413.pgm", "r-13166535.8-79.ppm"):
        (scene / name).touch()
    one_line(refusal(tmp_path / part), scene, "raw recordings", "not registered", "sync/", "nyu_data.zip")


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    write("bts", tmp_path)
    monkeypatch.setattr("os.listdir", refuse)
    one_line(refusal(tmp_path), tmp_path / "sync", "Permission denied")
