"""The command `spd-infer`, with a runtime whose depth is a known function of the point."""

import csv
import io
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from spd.commands.infer.cli import main
from spd.errors import PointsError
from spd.preprocess import inside


def depth_of(u: float, v: float, width: int) -> float:
    """Different for every point, and for images of different widths."""
    return 1 + u / 100 + v / 10000 + width


@dataclass
class StubScene:
    width: int
    height: int

    def __enter__(self) -> "StubScene":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self) -> None:
        pass

    def depth(self, points: NDArray[np.float64], outside: str = "error") -> NDArray[np.float32]:
        within = inside(points, self.width, self.height)
        if outside == "error" and not within.all():
            raise PointsError("a point lies outside")
        return np.where(within, depth_of(points[:, 0], points[:, 1], self.width), np.nan).astype(np.float32)  # type: ignore[arg-type]


@dataclass
class StubModel:
    backend: str = "stub"
    precision: str = "fp32"
    notes: list[str] = field(default_factory=lambda: ["tensorrt: not installed", "warned of"])
    warned: tuple[str, ...] = ("warned of",)
    manifest: Any = None
    size: tuple[int, int] = (480, 640)
    encoded: list[tuple[int, int]] = field(default_factory=list)
    loaded: list[dict[str, Any]] = field(default_factory=list)

    def load(self, path: Path, **options: Any) -> "StubModel":
        self.loaded.append({"path": str(path), **options})
        return self

    def __enter__(self) -> "StubModel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def encode(self, image: Image.Image) -> StubScene:
        self.encoded.append(image.size)
        return StubScene(*image.size)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubModel:
    """The stub runtime, in a folder with two images a.png (64 x 48) and more/b.png (100 x 50)."""
    stub = StubModel()
    monkeypatch.setattr("spd.runtime.load", stub.load, raising=False)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), (90, 120, 150)).save("a.png")
    Path("more").mkdir()
    Image.new("RGB", (100, 50), (150, 120, 90)).save("more/b.png")
    Path("pts.csv").write_text("u,v\n10.5,20\n0,47.5\n")
    return stub


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_csv_to_stdout(model: StubModel) -> None:
    result = run("a.png", "--points", "pts.csv")
    assert result.exit_code == 0
    assert result.stdout == "u,v,depth\n10.5,20,65.107\n0,47.5,65.0048\n"
    assert result.stderr == ""
    assert model.loaded == [{"path": "engines", "backend": "auto", "precision": None, "threads": None}]


def test_rows_and_columns_come_out_as_they_came(model: StubModel) -> None:
    Path("pts.csv").write_bytes(
        b'\xef\xbb\xbfid; V ;note;U\r\n007;20;"a ""b"", c\r\nd";10.50\r\nx; 47.5;;0e0\r\n',
    )
    result = run("a.png", "--points", "pts.csv")
    assert result.exit_code == 0
    assert result.stdout_bytes == (
        b'id; V ;note;U;depth\r\n007;20;"a ""b"", c\r\nd";10.50;65.107\r\nx; 47.5;;0e0;65.0048\r\n'
    )


def test_stdin_without_a_header(model: StubModel) -> None:
    result = run("a.png", "--points", "-", stdin="10.5,20\n")
    assert result.stdout == "u,v,depth\n10.5,20,65.107\n"


@pytest.mark.parametrize(
    ("given", "written"),
    {
        "sep=;\r\nu;v\r\n10.5;20\r\n": "u;v;depth\r\n10.5;20;65.107\r\n",
        "# u,v\n10.5,20\n": "u,v,depth\n10.5,20,65.107\n",
        "u,v,,\n10.5,20,,\n": "u,v,depth\n10.5,20,65.107\n",
        " 10.5   20\n  -1.0   20\n": "u v depth\n 10.5   20 65.107\n  -1.0   20 nan\n",
    }.items(),
)
def test_dialects_come_out_plain(model: StubModel, given: str, written: str) -> None:
    Path("pts.csv").write_bytes(given.encode())
    assert run("a.png", "--points", "pts.csv", "--allow-outside").stdout_bytes.decode() == written


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz"])
def test_no_points(model: StubModel, suffix: str) -> None:
    Path("pts.csv").write_text("u,v,note\n")
    assert run("a.png", "--points", "pts.csv").stdout == "u,v,note,depth\n"
    result = run("a.png", "--points", "pts.csv", "--out", f"out{suffix}", "--picture", "p.png")
    assert (result.exit_code, result.output) == (0, "")
    if suffix == ".json":
        assert json.loads(Path("out.json").read_text()) == []
    if suffix == ".npz":
        assert {name: array.shape for name, array in np.load("out.npz").items()} == dict.fromkeys(
            ("u", "v", "note", "depth"), (0,)
        )
    Path("pts.csv").write_text("image,u,v\n")
    assert run("--points", "pts.csv").stdout == "image,u,v,depth\n"


def test_several_images_share_the_points(model: StubModel) -> None:
    """Each argument is answered, also one that is found twice."""
    result = run("a.png", "more", "more/b.png", "a.png", "--points", "pts.csv", "--out", "out.csv")
    assert (result.exit_code, result.output) == (0, "")
    table = rows(Path("out.csv").read_text())
    assert table[0] == ["image", "u", "v", "depth"]
    b = str(Path("more", "b.png"))
    assert [row[0] for row in table[1:]] == ["a.png", "a.png", b, b, b, b, "a.png", "a.png"]
    a_depths, b_depths = [65.107, 65.00475], [101.107, 101.00475]
    depths = [*a_depths, *b_depths, *b_depths, *a_depths]
    assert [float(row[3]) for row in table[1:]] == pytest.approx(depths, rel=1e-5)
    assert model.encoded == [(64, 48), (100, 50), (100, 50), (64, 48)]
    assert len(model.loaded) == 1


def test_a_folder_with_one_image_has_the_column_too(model: StubModel) -> None:
    assert run("more", "--points", "pts.csv").stdout.startswith("image,u,v,depth\n")


def test_image_column(model: StubModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows stay in order, each image is encoded once, and paths are found from here or from the CSV."""
    names = ["b.png", "a.png", "b.png", str(Path("more", "b.png")), "a.png"]
    text = "u,image,v\n" + "".join(f"{i},{name},{i + 1}\n" for i, name in enumerate(names))
    Path("more", "pts.csv").write_text(text)
    result = run("--points", "more/pts.csv")
    assert result.exit_code == 0, result.output
    assert model.encoded == [(100, 50), (64, 48)]
    table = rows(result.stdout)
    assert table[0] == ["u", "image", "v", "depth"]
    for i, (row, name) in enumerate(zip(table[1:], names, strict=True)):
        assert row[:3] == [str(i), name, str(i + 1)]
        assert float(row[3]) == pytest.approx(depth_of(i, i + 1, 100 if "b" in name else 64), rel=1e-5)
    Path("pts.csv").write_text(text)
    assert run("a.png", "more", "--points", "pts.csv").stdout == result.stdout


def test_patterns_are_made_per_image(model: StubModel) -> None:
    table = rows(run("a.png", "more/b.png", "--points", "grid:6").stdout)[1:]
    assert len(table) == 12
    assert max(float(row[1]) for row in table[:6]) < 64 < max(float(row[1]) for row in table[6:])
    first = run("a.png", "--points", "random:5:3").stdout
    assert first == run("a.png", "--points", "random:5:3").stdout != run("a.png", "--points", "random:5").stdout


def test_intrinsics(model: StubModel) -> None:
    result = run("a.png", "--points", "pts.csv", "--intrinsics", "50,40,32,24", "--out", "out.json")
    assert result.exit_code == 0
    for row, (u, v) in zip(json.loads(Path("out.json").read_text()), [(10.5, 20), (0, 47.5)], strict=True):
        depth = depth_of(u, v, 64)
        assert list(row) == ["u", "v", "depth", "x", "y", "z"]
        assert row["z"] == row["depth"] == pytest.approx(depth, rel=1e-5)
        assert row["x"] == pytest.approx((u - 32) / 50 * depth, rel=1e-5)
        assert row["y"] == pytest.approx((v - 24) / 40 * depth, rel=1e-5)


def test_allow_outside(model: StubModel) -> None:
    Path("pts.csv").write_text("u,v,note\n64,0,a\n1,1,b\n")
    arguments = ("a.png", "--points", "pts.csv", "--allow-outside", "--intrinsics", "50,40,32,24")
    assert run(*arguments).stdout.splitlines()[1] == "64,0,a,,,,"
    run(*arguments, "--out", "out.json")
    missing = dict.fromkeys(("depth", "x", "y", "z"))
    assert json.loads(Path("out.json").read_text())[0] == {"u": 64, "v": 0, "note": "a", **missing}
    run(*arguments, "--out", "out.npz")
    with np.load("out.npz") as arrays:
        assert np.isnan([arrays[name][0] for name in missing]).all()
        assert arrays["depth"][1] == np.float32(depth_of(1, 1, 64))
        assert arrays["note"].tolist() == ["a", "b"]
        assert (arrays["u"].dtype, arrays["depth"].dtype) == (np.float64, np.float32)


def test_npz_with_awkward_column_names(model: StubModel) -> None:
    Path("pts.csv").write_text("u,file,v,a/b,\n1,x,2,y,z\n")
    assert run("a.png", "more", "--points", "pts.csv", "--out", "out.npz").exit_code == 0
    with np.load("out.npz") as arrays:
        assert {n: arrays[n].tolist() for n in ("file", "a/b", "")} == {
            "file": ["x"] * 2,
            "a/b": ["y"] * 2,
            "": ["z"] * 2,
        }
        assert arrays["image"].tolist() == ["a.png", str(Path("more", "b.png"))]


def test_pictures(model: StubModel) -> None:
    assert run("a.png", "--points", "grid:4", "--picture", "p.png").exit_code == 0
    assert Image.open("p.png").convert("RGB").height == 480
    Image.new("RGB", (9, 9)).save("more/a.jpg")
    assert run("a.png", "more", "--points", "grid:4", "--picture", "pictures/").exit_code == 0
    assert sorted(os.listdir("pictures")) == ["a-2.png", "a.png", "b.png"]


def test_notes_and_verbose_go_to_stderr(model: StubModel) -> None:
    model.manifest = SimpleNamespace(verified=False, trained=False)
    plain = run("a.png", "--points", "pts.csv")
    assert plain.stderr.count("\n") == 1
    assert "not trained" in plain.stderr
    assert "--no-verify" in plain.stderr
    verbose = run(
        "a.png", "more", "--points", "pts.csv", "-v", "--backend", "torch", "--precision", "fp16", "--threads", "3"
    )
    assert "stub fp32" in verbose.stderr
    assert "tensorrt: not installed" in verbose.stderr
    assert "warned of" not in verbose.stderr, "it is on standard error already"
    assert "b.png: 100 x 50 pixels" in verbose.stderr
    assert verbose.stdout.count("\n") == 5
    assert model.loaded[-1] == {"path": "engines", "backend": "torch", "precision": "fp16", "threads": 3}


def test_a_million_points(model: StubModel) -> None:
    points = np.random.default_rng(0).random((1_000_000, 2)) * (64, 48)
    text = "".join(f"{i},{u:.5f},{v:.5f},row {i}\n" for i, (u, v) in enumerate(points.tolist()))
    Path("pts.csv").write_text("id,u,v,note\n" + text)
    start = time.perf_counter()
    result = run("a.png", "--points", "pts.csv", "--out", "out.csv")
    assert time.perf_counter() - start < 20
    assert result.exit_code == 0
    written = Path("out.csv").read_text().splitlines()
    assert len(written) == 1_000_001
    for i in (0, 500_000, 999_999):
        number, u, v, note, depth = written[i + 1].split(",")
        assert (number, note) == (str(i), f"row {i}")
        assert float(depth) == pytest.approx(depth_of(float(u), float(v), 64), rel=1e-5)


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("spd-infer, version ")
