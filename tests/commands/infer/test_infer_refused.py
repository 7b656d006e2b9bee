"""What `spd-infer` does with requests that it cannot answer."""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from spd.commands.infer.cli import main
from spd.errors import BackendError


class StubModel:
    """A runtime for which every point is a metre away."""

    manifest = None

    def __init__(self) -> None:
        self.encoded: list[tuple[int, int]] = []
        self.fails: BaseException | None = None

    def __enter__(self) -> "StubModel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def encode(self, image: Image.Image) -> "StubModel":
        self.encoded.append(image.size)
        return self

    def wait(self) -> None:
        pass

    def depth(self, points: NDArray[np.float64], outside: str = "error") -> NDArray[np.float32]:
        if self.fails:
            raise self.fails
        return np.ones(len(points), np.float32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubModel:
    """The stub runtime, in a folder with two images a.png (64 x 48) and more/b.png (100 x 50)."""
    stub = StubModel()
    monkeypatch.setattr("spd.runtime.load", lambda *_, **__: stub)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), (90, 120, 150)).save("a.png")
    Path("more").mkdir()
    Image.new("RGB", (100, 50), (150, 120, 90)).save("more/b.png")
    Path("pts.csv").write_text("u,v\n10.5,20\n0,47.5\n")
    return stub


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def odd_files(model: StubModel) -> Iterator[None]:
    Path("empty.png").touch()
    Path("text.png").write_text("text")
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:-30])
    Path("nothing").mkdir()
    tables = {
        "empty": "",
        "nan": "u,v\n1,2\n3,nan\n",
        "depth": "u,v,Depth\n1,2,3\n",
        "xy": "x,y\n1,2\n",
        "z": "u,v,z\n1,2,3\n",
        "far": "u,v\n1,2\n64,0\n-1,0\n",
        "image": "image,u,v\na.png,1,2\nnone.png,1,2\n",
        "far_image": "image,u,v\nmore/b.png,99,2\na.png,99,2\n",
    }
    for name, text in tables.items():
        Path(f"{name}.csv").write_text(text)
    Path("book.csv").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504))
    yield
    assert not [path for path in Path().rglob("*") if path.name.startswith((".", "out", "p.png", "pictures"))]


OUT = ("--out", "out.csv")
REFUSED = {
    "no points": (("a.png",), 2, "Missing option '--points'"),
    "no image": (("--points", "pts.csv"), 2, "no image to ask about"),
    "no image for a grid": (("--points", "grid:4"), 2, "no image to ask about"),
    "missing image": (("none.png", "--points", "pts.csv", *OUT), 1, "none.png does not exist"),
    "empty image": (("empty.png", "--points", "pts.csv", *OUT), 1, "empty.png is empty"),
    "no image file": (("text.png", "--points", "pts.csv", *OUT), 1, "text.png is not an image"),
    "damaged image": (("cut.png", "--points", "pts.csv", *OUT), 1, "cut.png is damaged"),
    "one bad image of several": (("a.png", "more", "cut.png", "--points", "pts.csv", *OUT), 1, "cut.png is damaged"),
    "folder without images": (("nothing", "--points", "pts.csv", *OUT), 1, "nothing holds no images"),
    "missing points": (("a.png", "--points", "none.csv", *OUT), 1, "none.csv does not exist"),
    "points folder": (("a.png", "--points", "more", *OUT), 1, "more is a folder"),
    "empty points": (("a.png", "--points", "empty.csv", *OUT), 1, "empty.csv is empty"),
    "points at an address": (("a.png", "--points", "https://host/p.csv", *OUT), 1, "https://host/p.csv is an address"),
    "workbook": (("a.png", "--points", "book.csv", *OUT), 1, "book.csv is a workbook; export its sheet as CSV"),
    "image as points": (("a.png", "--points", "a.png", *OUT), 1, "a.png is not a text file; expected a CSV"),
    "NaN": (("a.png", "--points", "nan.csv", *OUT), 1, "nan.csv row 3: column v is 'nan'"),
    "grid": (("a.png", "--points", "grid:x", *OUT), 1, "'grid:x' is not grid:N"),
    "has depth": (("a.png", "--points", "depth.csv", *OUT), 1, "depth.csv has a column 'Depth' already"),
    "x,y and intrinsics": (("a.png", "--points", "xy.csv", "--intrinsics", "1,1,1,1", *OUT), 1, "rename them to u,v"),
    "z and intrinsics": (
        ("a.png", "--points", "z.csv", "--intrinsics", "1,1,1,1", *OUT),
        1,
        "has a column 'z' already",
    ),
    "far": (
        ("a.png", "--points", "far.csv", *OUT),
        1,
        "far.csv row 3 (and 1 more): point (64, 0) is outside",
    ),
    "outside its image": (
        ("--points", "far_image.csv", *OUT),
        1,
        "row 3: point (99, 2) is outside a.png, which is 64",
    ),
    "image column": (("--points", "image.csv", *OUT), 1, "image.csv row 3: image 'none.png' does not exist"),
    "image not given": (("a.png", "--points", "image.csv", *OUT), 1, "image 'none.png' is none of the images given"),
    "intrinsics": (("a.png", "--points", "pts.csv", "--intrinsics", "1,2,3"), 2, "is not four numbers"),
    "focal length": (("a.png", "--points", "pts.csv", "--intrinsics", "0,2,3,4"), 2, "focal lengths above 0"),
    "backend": (("a.png", "--points", "pts.csv", "--backend", "cuda"), 2, "'cuda' is not one of"),
    "no threads": (("a.png", "--points", "pts.csv", "--threads", "0"), 2, "0 is not in the range"),
    "out suffix": (("a.png", "--points", "pts.csv", "--out", "out.txt"), 2, "must end in .csv or .json or .npz"),
    "out folder": (("a.png", "--points", "pts.csv", "--out", "none/out.csv"), 2, "the folder of"),
    "out is the input": (("a.png", "--points", "pts.csv", "--out", "more/../pts.csv"), 2, "would overwrite an input"),
    "picture suffix": (("a.png", "--points", "pts.csv", "--picture", "p.jpg"), 2, "must end in .png"),
    "picture of several": (("a.png", "more", "--points", "pts.csv", "--picture", "p.png"), 2, "one file for 2 images"),
    "picture is the input": (("a.png", "--points", "pts.csv", "--picture", "a.png"), 2, "would overwrite an input"),
    "pictures on inputs": (("more", "--points", "pts.csv", "--picture", "more"), 2, "would overwrite an input"),
    "picture folder": (("a.png", "--points", "pts.csv", "--picture", "none/pictures/"), 2, "the folder of"),
}


@pytest.mark.parametrize(("arguments", "code", "fragment"), REFUSED.values(), ids=REFUSED)
@pytest.mark.usefixtures("odd_files")
def test_refused(model: StubModel, arguments: tuple[str, ...], code: int, fragment: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    *before, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    assert fragment in last
    assert "Traceback" not in result.stderr
    assert bool(before) == (code == 2)  # click shows the usage first
    if "damaged" not in fragment and "row 3: point" not in fragment:
        assert model.encoded == []  # found before any work


def test_errors_of_the_runtime(model: StubModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise BackendError("tensorrt is not\ninstalled")

    monkeypatch.setattr("spd.runtime.load", load, raising=False)
    result = run("a.png", "--points", "pts.csv")
    assert (result.exit_code, result.stderr) == (1, "Error: tensorrt is not installed\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c(model: StubModel, error: BaseException) -> None:
    model.fails = error
    result = run("a.png", "--points", "pts.csv", "--out", "out.csv")
    assert (result.exit_code, result.output) == (130, "Interrupted.\n")
    assert not Path("out.csv").exists()


def test_mistakes_of_our_own_are_not_hidden(model: StubModel) -> None:
    model.fails = AssertionError("a mistake")
    assert isinstance(run("a.png", "--points", "pts.csv").exception, AssertionError)
