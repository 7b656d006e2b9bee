"""The real `spd-infer` in a process of its own, on a real bundle and real images, as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import spd
from spd.checkpoint import save_checkpoint
from spd.config import PRESETS
from spd.data.rooms import render_room
from spd.models import seeded

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
COMMAND = [sys.executable, "-m", "spd.commands.infer.cli"]
SIX_DIGITS = 5e-6
UNTRAINED = "Note: do not rely on the depths of this bundle: its weights are random, not trained.\n"


def run(folder: Path, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, input=stdin, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8", check=False
    )


def answer(folder: Path, *arguments: str | Path, stdin: str = "") -> list[dict[str, str]]:
    """Rows of the CSV on stdout of a command that succeeds."""
    done = run(folder, *arguments, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, UNTRAINED)
    return list(csv.DictReader(io.StringIO(done.stdout)))


def column(rows: list[dict[str, Any]], *names: str) -> NDArray[np.float64]:
    return np.array([[float(row[name]) for name in names] for row in rows]).squeeze(-1 if len(names) == 1 else ())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `a room.jpg` (320 x 240), `more/b.png` (200 x 260) and `more/ü房.png` (33 x 17), and pts.csv."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for name, seed, height, width in (
        ("a room.jpg", 1, 240, 320),
        ("more/b.png", 2, 260, 200),
        ("more/ü房.png", 3, 17, 33),
    ):
        Image.fromarray(render_room(seed, height, width).image).save(folder / name)
    points = np.random.default_rng(0).random((40, 2)) * (33, 17)
    (folder / "pts.csv").write_text("id,u,v\n" + "".join(f"p{i},{u},{v}\n" for i, (u, v) in enumerate(points.tolist())))
    return folder


@pytest.fixture(scope="module")
def expected(exported: Path, photos: Path) -> Callable[[str, NDArray[np.float64]], NDArray[np.float32]]:
    """Depths by the library in this process."""
    scenes: dict[str, spd.Scene] = {}
    model = spd.load(exported, backend="onnxruntime-cpu")

    def depth(image: str, points: NDArray[np.float64]) -> NDArray[np.float32]:
        if image not in scenes:
            scenes[image] = model.encode(photos / image)
        return scenes[image].depth(points)

    return depth


def test_csv_goes_in_and_comes_out_with_depths(photos: Path, exported: Path, expected) -> None:
    rows = answer(photos, "a room.jpg", "--points", "pts.csv", "--engines", exported)
    given = list(csv.DictReader((photos / "pts.csv").read_text().splitlines()))
    assert [{name: row[name] for name in ("id", "u", "v")} for row in rows] == given
    assert list(rows[0]) == ["id", "u", "v", "depth"]
    np.testing.assert_allclose(column(rows, "depth"), expected("a room.jpg", column(rows, "u", "v")), rtol=SIX_DIGITS)


@pytest.mark.parametrize("points", ["grid:700", "random:30:7", "-"])
def test_points_that_are_made_or_piped(photos: Path, exported: Path, expected, points: str) -> None:
    """700 are more than the bundle's limit of 512."""
    rows = answer(photos, "more/b.png", "--points", points, "--engines", exported.parent, stdin="1.5,2.5\n199.9,0\n")
    asked = column(rows, "u", "v")
    assert len(rows) == {"grid:700": 700, "random:30:7": 30, "-": 2}[points]
    assert ((asked >= 0) & (asked < (200, 260))).all()
    np.testing.assert_allclose(column(rows, "depth"), expected("more/b.png", asked), rtol=SIX_DIGITS)


def test_several_images_with_pictures(photos: Path, exported: Path, expected, tmp_path: Path) -> None:
    pictures = tmp_path / "Bilder ü"
    rows = answer(
        photos, "a room.jpg", "more", "--points", "pts.csv", "--engines", exported, "--picture", f"{pictures}/"
    )
    names = ["a room.jpg", str(Path("more", "b.png")), str(Path("more", "ü房.png"))]
    assert [row["image"] for row in rows] == [name for name in names for _ in range(40)]
    for i, name in enumerate(names):
        part = rows[40 * i : 40 * i + 40]
        np.testing.assert_allclose(column(part, "depth"), expected(name, column(part, "u", "v")), rtol=SIX_DIGITS)
        with Image.open(pictures / f"{Path(name).stem}.png") as picture:
            assert picture.format == "PNG"
            with Image.open(photos / name) as photo:  # drawn with its longer side at 640, the colour bar beside it
                scale = 640 / max(photo.size)
                assert picture.height == max(240, round(photo.height * scale))
                assert picture.width > round(photo.width * scale)
            picture.load()
    assert len(list(pictures.iterdir())) == 3


def test_rows_that_name_their_image_from_another_folder(photos: Path, exported: Path, expected, tmp_path: Path) -> None:
    """Paths in the CSV are found from the CSV's folder; the bundle's path is relative to the current one."""
    (photos / "named.csv").write_text(
        "u;v;image\n1;2;more/ü房.png\n30;40;a room.jpg\n3;4;more/ü房.png\n", encoding="utf-8"
    )
    engines = os.path.relpath(exported.parent, tmp_path)
    done = run(tmp_path, "--points", photos / "named.csv", "--engines", engines)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout), delimiter=";"))
    assert [row["image"] for row in rows] == ["more/ü房.png", "a room.jpg", "more/ü房.png"]
    for row in rows:
        assert float(row["depth"]) == pytest.approx(expected(row["image"], column([row], "u", "v"))[0], rel=SIX_DIGITS)


def test_json_with_intrinsics(photos: Path, exported: Path, expected, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    answer(
        photos,
        "a room.jpg",
        "--points",
        "pts.csv",
        "--engines",
        exported,
        "--out",
        out,
        "--intrinsics",
        "300,280,160,120",
    )
    rows = json.loads(out.read_text())
    points = column(rows, "u", "v")
    depth = expected("a room.jpg", points).astype(np.float64)
    ray = np.stack([(points[:, 0] - 160) / 300, (points[:, 1] - 120) / 280, np.ones(len(points))], axis=1)
    np.testing.assert_allclose(column(rows, "x", "y", "z"), ray * depth[:, None], rtol=2 * SIX_DIGITS)
    np.testing.assert_array_equal(column(rows, "depth"), column(rows, "z"))


def test_npz_with_points_outside_in_fp16(photos: Path, exported: Path, expected, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    options = ("--engines", exported, "--out", out, "--allow-outside", "--precision", "fp16")
    answer(photos, "a room.jpg", "--points", "-", *options, stdin="u,v\n320,0\n5,6\n-1,0\n7,239.99\n")
    with np.load(out) as arrays:
        assert np.isnan(arrays["depth"]).tolist() == [True, False, True, False]
        inside = expected("a room.jpg", np.array([(5, 6), (7, 239.99)]))
        np.testing.assert_allclose(arrays["depth"][[1, 3]], inside, rtol=2e-2)
        assert arrays["u"].tolist() == [320, 5, -1, 7]


@pytest.mark.slow
def test_a_checkpoint_on_torch(photos: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "atto.pt"
    save_checkpoint(checkpoint, seeded(PRESETS["atto"]).state_dict(), PRESETS["atto"])
    done = run(photos, "more/b.png", "--points", "grid:5", "--engines", checkpoint, "--backend", "torch", "-v")
    assert done.returncode == 0, done.stderr
    assert "torch fp32, 640 x 480 pixels" in done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    with spd.load(checkpoint) as model:
        depth = model.encode(photos / "more/b.png").depth(column(rows, "u", "v"))
    np.testing.assert_allclose(column(rows, "depth"), depth, rtol=2 * SIX_DIGITS)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent as a shell does on Ctrl-C, which Windows has not")
def test_ctrl_c(photos: Path, exported: Path, tmp_path: Path) -> None:
    for i in range(300):
        shutil.copy(photos / "more/b.png", tmp_path / f"{i}.png")
    command = [*COMMAND, str(tmp_path), "--points", "grid:9", "--engines", str(exported), "--out", "out.csv", "-v"]
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [next(process.stderr)]
        while "encoded" not in lines[-1]:
            lines.append(next(process.stderr))
        process.send_signal(signal.SIGINT)
        lines += process.stderr
    assert process.returncode == 130
    assert lines[-1] == "Interrupted.\n"
    assert "Traceback" not in "".join(lines)
    assert len(lines) < 300, "it was not interrupted in the middle"
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}


@pytest.mark.parametrize(
    "statement",
    ["import spd", "import spd.commands.infer.cli as c; help(c)", "import export.cli as c; help(c)"],
    ids=["import spd", "spd-infer --help", "spd-export --help"],
)
def test_help_imports_nothing_heavy(statement: str) -> None:
    heavy = ("torch", "onnxruntime", "onnx", "timm", "rich", "PIL", "numpy")
    code = f"""
import sys
def help(command):
    command.main(["--help"], standalone_mode=False)
{statement}
print("loaded:", *sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "loaded:\n"
    assert ("Usage:" in done.stdout) == ("help" in statement)


def by_folder(samples: Path) -> dict[str, list[Path]]:
    """The sample photos, each kind of folder in a list."""
    with (samples / "manifest.csv").open(encoding="utf-8", newline="") as file:
        paths = [Path(row["rgb_file"]) for row in csv.DictReader(file)]
    folders: dict[str, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parts[0], []).append(samples / path)
    return folders


@pytest.mark.parametrize("folder", ["pairs", "rgb_only", "rgb_only_derived"])
def test_every_sample_photo_is_answered(samples: Path, exported: Path, tmp_path: Path, folder: str) -> None:
    paths = by_folder(samples)[folder]
    photos = [path for path in paths if path.suffix != ".npy"]
    assert len(photos) >= 10
    picture = ("--picture", tmp_path / "pictures/") if folder == "rgb_only_derived" else ()
    with_slash = [f"{part}/" if str(part).endswith("pictures") else part for part in picture]
    rows = answer(tmp_path, *photos, "--points", "grid:60", "--engines", exported, *with_slash)
    assert {row["image"] for row in rows} == set(map(str, photos))
    assert len(rows) == 60 * len(photos)
    depth = column(rows, "depth")
    assert np.isfinite(depth).all()
    assert depth.min() > 0
    for path in photos if picture else ():
        with Image.open(tmp_path / "pictures" / f"{path.stem}.png") as drawn:
            drawn.load()
            assert drawn.height >= 240
    for path in set(paths) - set(photos):
        done = run(tmp_path, path, "--points", "grid:3", "--engines", exported)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(f"Error: {path} is not an image but a NumPy array")


def test_awkward_photos_answer_as_their_plain_copies(samples: Path, exported: Path, tmp_path: Path) -> None:
    """The turned JPEG as its pixels turned by hand, the 16-bit grey as its top 8 bits."""
    derived = samples / "rgb_only_derived"
    with Image.open(derived / "exif_orientation6.jpg") as turned, Image.open(derived / "gray16.png") as grey16:
        assert turned.getexif()[0x0112] == 6
        plain = {
            "exif_orientation6.jpg": np.rot90(np.asarray(turned), -1),
            "gray16.png": (np.asarray(grey16) // 257).astype(np.uint8),
        }
    for name, pixels in plain.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{name}.plain.png")
    images = [path for name in plain for path in (derived / name, tmp_path / f"{name}.plain.png")]
    rows = answer(tmp_path, *images, "--points", "grid:50", "--engines", exported)
    first, second, third, fourth = (rows[50 * i : 50 * i + 50] for i in range(4))
    for one, other in ((first, second), (third, fourth)):
        np.testing.assert_array_equal(column(one, "u", "v"), column(other, "u", "v"))
        np.testing.assert_allclose(column(one, "depth"), column(other, "depth"), rtol=1e-5)
    assert not np.allclose(column(first, "depth"), column(third, "depth"), rtol=1e-2)
