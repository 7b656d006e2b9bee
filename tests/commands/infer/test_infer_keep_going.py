"""`spd-infer --keep-going`: what cannot be used costs its own rows only, and says why."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from spd.commands.infer.cli import main
from spd.data.rooms import render_room

ALL_IMAGES = ("a.png", "cut.png", "b.png", "none.png")
SUMMARY = "the column error says why\n"


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The current folder, with a.png (64 x 48), b.png (40 x 30), cut.png, which is cut off, and no none.png."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(render_room(1, 48, 64).image).save("a.png")
    Image.fromarray(render_room(2, 30, 40).image).save("b.png")
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:-3000])
    Path("pts.csv").write_text("id,u,v\np,10.5,20\nq,50,29\n")


@pytest.fixture
def infer(exported: Path):
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--engines", str(exported), "--backend", "onnxruntime-cpu"])

    return run


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def last_line(result: Result) -> str:
    return result.stderr.splitlines(keepends=True)[-1]


def test_images_and_points_that_cannot_be_used(infer) -> None:
    result = infer(*ALL_IMAGES, "--points", "pts.csv", "--keep-going")
    assert result.exit_code == 1
    assert last_line(result) == f"Error: 2 of 4 images and 1 of 4 points cannot be used; {SUMMARY}"
    table = rows(result.stdout)
    assert list(table[0]) == ["image", "id", "u", "v", "depth", "error"]
    assert [(row["image"], row["id"]) for row in table] == [(image, id_) for image in ALL_IMAGES for id_ in "pq"]
    errors = [row["error"] for row in table]
    assert errors[:2] == ["", ""]
    assert errors[2].startswith("cut.png is damaged or cut off")
    assert errors[2] == errors[3]
    assert errors[4] == ""
    assert errors[5] == "point (50, 29) is outside b.png, which is 40 x 30 pixels"
    assert errors[6] == errors[7] == "none.png does not exist; check the path of the image"
    assert [not row["depth"] for row in table] == [bool(error) for error in errors]
    alone = rows(infer("a.png", "--points", "pts.csv").stdout)
    assert [row["depth"] for row in table[:2]] == [row["depth"] for row in alone]


def test_nothing_is_wrong(infer) -> None:
    result = infer("a.png", "--points", "pts.csv", "--keep-going")
    plain = infer("a.png", "--points", "pts.csv")
    assert (result.exit_code, result.stderr) == (0, plain.stderr)
    header, *lines = plain.stdout.splitlines()
    assert result.stdout.splitlines() == [f"{header},error", *(f"{line}," for line in lines)]


def test_without_the_option_the_first_problem_ends_the_run(infer) -> None:
    result = infer(*ALL_IMAGES[:3], "--points", "pts.csv", "--out", "out.csv")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cut.png is damaged" in last_line(result)
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("points", ["grid:6", "random:6"])
def test_points_made_for_an_image_whose_size_is_not_known(infer, points: str) -> None:
    """One row says why; it has no point."""
    result = infer("cut.png", "a.png", "--points", points, "--keep-going", "--out", "out.csv", "--picture", "pictures/")
    assert result.exit_code == 1
    table = rows(Path("out.csv").read_text())
    assert [row["image"] for row in table] == ["cut.png", *["a.png"] * 6]
    assert (table[0]["u"], table[0]["v"], table[0]["depth"]) == ("", "", "")
    assert table[0]["error"].startswith("cut.png is damaged")
    assert all(float(row["depth"]) > 0 and not row["error"] for row in table[1:])
    assert [path.name for path in Path("pictures").iterdir()] == ["a.png"]


def test_json_and_npz(infer) -> None:
    """What CSV leaves empty is null or NaN; the error is null or empty text."""
    for out in ("out.json", "out.npz"):
        arguments = ("cut.png", "a.png", "--points", "grid:2", "--intrinsics", "50,50,32,24", "--keep-going")
        assert infer(*arguments, "--out", out).exit_code == 1
    found = json.loads(Path("out.json").read_text(), parse_constant=pytest.fail)
    assert list(found[0]) == ["image", "u", "v", "depth", "x", "y", "z", "error"]
    assert [found[0][name] for name in ("u", "v", "depth", "x", "y", "z")] == [None] * 6
    assert found[0]["error"].startswith("cut.png is damaged")
    assert [row["error"] for row in found[1:]] == [None, None]
    with np.load("out.npz") as arrays:
        assert list(arrays) == ["image", "u", "v", "depth", "x", "y", "z", "error"]
        assert arrays["error"].tolist() == [row["error"] or "" for row in found]
        np.testing.assert_allclose(arrays["depth"][1:], [row["depth"] for row in found[1:]], rtol=5e-6)
        assert np.isnan([arrays[name][0] for name in ("u", "v", "depth", "x", "y", "z")]).all()


def test_rows_that_name_their_image(infer) -> None:
    Path("named.csv").write_text("image;u;v\nnone.png;1;2\nb.png;1;2\ncut.png;1;2\nb.png;40;2\na.png;1;2\n")
    result = infer("--points", "named.csv", "--keep-going")
    assert result.exit_code == 1
    table = list(csv.DictReader(io.StringIO(result.stdout), delimiter=";"))
    assert [row["image"] for row in table] == ["none.png", "b.png", "cut.png", "b.png", "a.png"]
    assert [bool(row["depth"]) for row in table] == [False, True, False, False, True]
    assert table[0]["error"] == "named.csv row 2: image 'none.png' does not exist; correct the path"
    assert table[3]["error"] == "point (40, 2) is outside b.png, which is 40 x 30 pixels"
    assert [table[i]["error"] for i in (1, 4)] == ["", ""]
    given = infer("b.png", "--points", "named.csv", "--keep-going")
    table = list(csv.DictReader(io.StringIO(given.stdout), delimiter=";"))
    assert [bool(row["depth"]) for row in table] == [False, True, False, False, False]
    assert "is none of the images given" in table[4]["error"]


def test_an_error_with_the_delimiter_in_it(infer) -> None:
    Path("x,y.png").write_text("no image")
    table = rows(infer("x,y.png", "a.png", "--points", "pts.csv", "--keep-going").stdout)
    assert table[0]["image"] == "x,y.png"
    assert table[0]["error"].startswith("x,y.png is not an image")
    Path("blanks.txt").write_text("u v\n1 2\n99 2\n")
    result = infer("a.png", "--points", "blanks.txt", "--keep-going").stdout
    cells = list(csv.reader(io.StringIO(result), delimiter=" "))
    assert cells[0] == ["u", "v", "depth", "error"]
    assert cells[1][3] == ""
    assert cells[2] == ["99", "2", "nan", "point (99, 2) is outside a.png, which is 64 x 48 pixels"]


def test_points_outside_that_are_allowed_are_no_error(infer) -> None:
    result = infer("b.png", "--points", "pts.csv", "--keep-going", "--allow-outside")
    assert result.exit_code == 0
    assert [(bool(row["depth"]), row["error"]) for row in rows(result.stdout)] == [(True, ""), (False, "")]


def test_no_image_can_be_used(infer) -> None:
    result = infer("cut.png", "--points", "pts.csv", "--keep-going", "-v", "--picture", "p.png")
    assert result.exit_code == 1
    assert result.stdout.count("cut.png is damaged") == 2
    assert "cut.png: left out: cut.png is damaged" in result.stderr
    assert last_line(result) == f"Error: 1 of 1 images cannot be used; {SUMMARY}"
    assert not Path("p.png").exists()


def test_what_the_option_does_not_forgive(infer) -> None:
    Path("taken.csv").write_text("u,v,error\n1,2,x\n")
    Path("words.csv").write_text("u,v\n1,x\n")
    for arguments, words in {
        ("a.png", "--points", "taken.csv"): "has a column 'error' already",
        ("a.png", "--points", "words.csv"): "row 2: column v is 'x'",
        ("a.png", "--points", "none.csv"): "none.csv does not exist",
    }.items():
        result = infer(*arguments, "--keep-going")
        assert (result.exit_code, result.stdout) == (1, "")
        assert words in last_line(result)
