"""Which photos a job is about."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from spd.bulk.listing import list_photos
from spd.bulk.places import Place
from spd.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A tree of files."""
    for name in ("b.JPG", "a.png", "notes.md", ".hidden.png", "deep/c.webp", "deep/er/d.jpg", "deep/.cache/e.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def named(folder: Path | str, *names: str) -> list[str]:
    return [f"{folder}/{name}" for name in names]


def test_a_folder_stands_for_its_photos_at_any_depth(photos: Path) -> None:
    expected = ("a.png", "b.JPG", "deep/c.webp", "deep/er/d.jpg")
    assert list_photos([str(photos)]) == named(photos, *expected)
    assert list_photos([f"file://{photos}"]) == named(f"file://{photos}", *expected)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a.png"]),
        ("*", ["a.png", "b.JPG"]),
        ("*/*", ["deep/c.webp"]),
        ("**/*.jpg", ["deep/er/d.jpg"]),
        ("**", ["a.png", "b.JPG", "deep/c.webp", "deep/er/d.jpg"]),
        ("[ab].*", ["a.png", "b.JPG"]),
        ("deep/**/?.*", ["deep/c.webp", "deep/er/d.jpg"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_wildcards(photos: Path, pattern: str, expected: list[str], scheme: str) -> None:
    assert list_photos([f"{scheme}{photos}/{pattern}"]) == named(f"{scheme}{photos}", *expected)


def test_lists_and_columns(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("one.jpg\n\n s3://bucket/two.png \none.jpg\n")
    parquet.write_table(pa.table({"path": ["three.jpg", None, "one.jpg"], "size": [1, 2, 3]}), tmp_path / "t.parquet")
    listed = list_photos([str(tmp_path / "list.txt"), f"{tmp_path}/t.parquet:path", f"{photos}/a.png"])
    assert listed == ["one.jpg", "s3://bucket/two.png", "three.jpg", f"{photos}/a.png"]


def test_names_in_addresses_are_quoted_and_can_be_read_again(tmp_path: Path) -> None:
    for name in ("50% a[1].jpg", "é?.png"):
        (tmp_path / name).write_text(name)
    for argument in (f"file://{tmp_path}", f"file://{tmp_path}/*.*"):
        listed = list_photos([argument])
        assert [Place(name).read(100).decode() for name in listed] == ["50% a[1].jpg", "é?.png"]


def test_a_file_whose_name_has_brackets_is_itself(photos: Path) -> None:
    (photos / "[1].jpg").touch()
    assert list_photos([f"{photos}/[1].jpg"]) == [f"{photos}/[1].jpg"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("nothing.jpg", "does not exist"),
        ("*.gif", "names no photo"),
        ("t.parquet", "t.parquet:COLUMN"),
        ("t.parquet:name", "has no column name, only size"),
        ("t.parquet:size", "holds 1, expected paths"),
        ("none.parquet:size", "cannot be read"),
        ("none.txt", "cannot be read"),
        ("empty", "names no photo"),
        ("ftp9://host/x.jpg", "cannot be reached"),
    ],
)
def test_what_names_no_photo_is_refused(tmp_path: Path, argument: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    parquet.write_table(pa.table({"size": [1]}), tmp_path / "t.parquet")
    where = argument if "://" in argument else f"{tmp_path}/{argument}"
    with pytest.raises(InputError, match=said.replace("[", r"\[")) as caught:
        list_photos([where])
    assert "\n" not in str(caught.value)
