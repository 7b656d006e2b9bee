"""Which images `spd-infer` asks, what it calls them, and that it reads each once."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from infer_support import command
from PIL import Image

from spd.commands.infer.cli import main
from spd.commands.infer.targets import picture_names


class StubModel:
    """A runtime for which a point's depth is the width of its image."""

    backend, precision, notes, manifest, size = "stub", "fp32", (), None, (480, 640)
    warned = ()

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def __enter__(self) -> StubModel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def encode(self, image: Image.Image) -> StubScene:
        self.encoded.append(image.width)
        return StubScene(image.width)


class StubScene:
    def __init__(self, width: int) -> None:
        self.width = width

    def __enter__(self) -> StubScene:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self) -> None:
        pass

    def depth(self, points: Any, outside: str) -> Any:
        return np.full(len(points), self.width, dtype=np.float32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubModel:
    """The stub runtime, in a folder with a.png (64 x 48), d/b.png (100 x 50) and pts.csv, one point in both."""
    stub = StubModel()
    monkeypatch.setattr("spd.runtime.load", lambda *_, **__: stub)
    monkeypatch.chdir(tmp_path)
    picture("a.png", 64)
    picture("d/b.png", 100)
    Path("pts.csv").write_text("u,v\n1,2\n")
    return stub


def picture(path: str, width: int) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Image.new("RGB", (width, 48), (90, 120, 150)).save(path)


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def answers(result: Result) -> list[tuple[str, int]]:
    """Image and depth of each row."""
    assert result.exit_code == 0, result.output
    return [(row["image"], int(row["depth"])) for row in csv.DictReader(io.StringIO(result.stdout))]


def rows_of(*names: str) -> None:
    """Write pts.csv, one row for each image."""
    with Path("pts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image", "u", "v"], *([name, 1, 2] for name in names)])


needs_links = pytest.mark.skipif(sys.platform == "win32", reason="Windows lets only administrators make links")


@needs_links
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_of_a_folder_are_images_of_their_own(model: StubModel, link: Any) -> None:
    Path("photos").mkdir()
    for name in ("1.png", "2.png"):
        link(Path("a.png").resolve(), f"photos/{name}")
    assert answers(run("photos", "--points", "pts.csv")) == [("photos/1.png", 64), ("photos/2.png", 64)]
    run("photos", "--points", "pts.csv", "--picture", "pictures/")
    assert sorted(os.listdir("pictures")) == ["1.png", "2.png"]
    rows_of("photos/2.png", "photos/1.png", "photos/2.png")
    assert [name for name, _ in answers(run("--points", "pts.csv", "--picture", "drawn/"))] == [
        "photos/2.png",
        "photos/1.png",
        "photos/2.png",
    ]
    assert sorted(os.listdir("drawn")) == ["1.png", "2.png"]


def test_two_links_keep_the_column(model: StubModel) -> None:
    shutil.copy("a.png", "copy.png")
    assert answers(run("a.png", "a.png", "--points", "pts.csv")) == [("a.png", 64)] * 2
    assert answers(run("a.png", "copy.png", "--points", "pts.csv")) == [("a.png", 64), ("copy.png", 64)]


def test_files_of_a_folder_that_are_left_out_are_counted(model: StubModel) -> None:
    for name in ("notes.txt", "Thumbs.db", ".hidden"):
        Path("d", name).touch()
    Path("d", "sub").mkdir()
    result = run("d", "a.png", "--points", "pts.csv")
    assert [name for name, _ in answers(result)] == [str(Path("d", "b.png")), "a.png"]
    assert result.stderr.startswith("Note: 2 files are left out, ")
    assert "Thumbs.db" in result.stderr
    assert result.stderr.count("\n") == 1
    Path("d", "Thumbs.db").unlink()
    assert run("d", "--points", "pts.csv").stderr.startswith("Note: 1 file is left out, ")
    Path("d", "notes.txt").unlink()
    assert run("d", "--points", "pts.csv").stderr == ""


SUFFIXES = {"jfif": "JPEG", "JPE": "JPEG", "jpeg": "JPEG", "pbm": "PPM", "pnm": "PPM", "dib": "DIB", "TIF": "TIFF"}


def test_usual_suffixes_are_taken(model: StubModel) -> None:
    Path("photos").mkdir()
    for suffix, kind in SUFFIXES.items():
        Image.new("RGB", (40, 30)).save(f"photos/{suffix}.{suffix}", "BMP" if kind == "DIB" else kind)
    assert len(answers(run("photos", "--points", "pts.csv"))) == len(SUFFIXES)


def test_pictures_of_similar_names_do_not_meet(model: StubModel) -> None:
    Path("photos").mkdir()
    for width, name in enumerate(("a.jpg", "a.png", "a-2.jpg", "A.bmp"), start=20):
        picture(f"photos/{name}", width)
    result = run("photos", "--points", "pts.csv", "--picture", "pictures/")
    assert [name for name, _ in answers(result)] == [f"photos/{n}" for n in ("A.bmp", "a-2.jpg", "a.jpg", "a.png")]
    assert sorted(os.listdir("pictures")) == ["A.png", "a-2.png", "a-3.png", "a-4.png"]


STEMS = st.text("aA2-\u00e9e\u0301\u00df", min_size=1, max_size=4).filter(lambda stem: stem.strip("."))


@given(st.lists(st.tuples(STEMS, st.sampled_from((".jpg", ".png"))), max_size=12))
def test_picture_names(names: list[tuple[str, str]]) -> None:
    images = [Path(str(i), stem + suffix) for i, (stem, suffix) in enumerate(names)]
    pictures = picture_names(images)

    def same_file(name: str) -> str:
        return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())

    assert len({same_file(name) for name in pictures}) == len(images)
    own = [same_file(image.stem) for image in images]
    for i, (image, name) in enumerate(zip(images, pictures, strict=True)):
        assert name.startswith(image.stem)
        assert (name == image.stem) == (own[i] not in own[:i])  # the first of a name keeps it


SPELLINGS = ["d/b.png", "./d/b.png", "d//b.png", "d/./b.png", "d/../d/b.png", "{here}/d/b.png", "b.png"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("given_as", ["d/b.png", "./d//b.png", "{here}/d/b.png", "d"])
def test_a_row_finds_the_image_that_was_given(model: StubModel, spelling: str, given_as: str) -> None:
    here = os.getcwd()
    names = [spelling.format(here=here), "d/b.png"]
    rows_of(*names)
    result = run("a.png", given_as.format(here=here), "--points", "pts.csv")
    assert answers(result) == [(name, 100) for name in names]
    assert model.encoded == [100]


@pytest.mark.parametrize("spelling", SPELLINGS[:-1])
def test_a_row_finds_its_image_on_disk(model: StubModel, spelling: str) -> None:
    name = spelling.format(here=os.getcwd())
    rows_of("d/b.png", name)
    assert answers(run("--points", "pts.csv")) == [("d/b.png", 100), (name, 100)]
    assert model.encoded == [100]


def test_a_row_finds_its_image_from_the_folder_of_the_csv(model: StubModel) -> None:
    rows_of("./b.png", "../a.png")
    os.rename("pts.csv", "d/pts.csv")
    for images in ((), ("a.png", "d/b.png")):
        assert answers(run(*images, "--points", "d/pts.csv")) == [("./b.png", 100), ("../a.png", 64)]


@needs_links
def test_a_row_finds_the_image_by_another_path_of_the_file(model: StubModel) -> None:
    os.symlink("d", "link")
    os.symlink("d/b.png", "other.png")
    rows_of("link/b.png", "other.png")
    assert answers(run("d/b.png", "--points", "pts.csv")) == [("link/b.png", 100), ("other.png", 100)]


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("is_given", [True, False])
def test_a_row_finds_its_image_in_another_unicode_form(
    model: StubModel, stored: Any, written: Any, is_given: bool
) -> None:
    name = unicodedata.normalize(stored, "caf\u00e9/\u00fcber.png")
    picture(name, 77)
    folder, file = unicodedata.normalize(written, name).split("/")
    mixed = f"{folder}/{unicodedata.normalize('NFC', file)}"
    rows_of(f"{folder}/{file}", mixed)
    images = (name,) if is_given else ()
    assert [depth for _, depth in answers(run(*images, "--points", "pts.csv"))] == [77, 77]
    assert model.encoded == [77]


@pytest.mark.parametrize(
    ("row", "fragment"),
    [
        ("b.png", "could be b.png or d/b.png; write its whole path"),
        ("c.png", "'c.png' is none of the images given"),
        ("d/c.png", "'d/c.png' is none of the images given"),
    ],
)
def test_a_row_that_names_none_or_several(model: StubModel, row: str, fragment: str) -> None:
    picture("b.png", 20)
    picture("c.png", 30)
    os.rename("c.png", "e.png")
    rows_of(row)
    result = run("b.png", "d/b.png", "--points", "pts.csv")
    assert result.exit_code == 1
    assert "pts.csv row 2: image" in result.stderr
    assert fragment in result.stderr
    rows_of("./b.png", "d/b.png")
    assert answers(run("b.png", "d/b.png", "--points", "pts.csv")) == [("./b.png", 20), ("d/b.png", 100)]


def test_an_image_given_twice_is_one_for_rows_that_name_it(model: StubModel) -> None:
    rows_of("a.png")
    assert answers(run("a.png", "./a.png", "a.png", "--points", "pts.csv")) == [("a.png", 64)]


def test_standard_input(model: StubModel) -> None:
    data = Path("d/b.png").read_bytes()
    assert run("-", "--points", "pts.csv", stdin=data).stdout == "u,v,depth\n1,2,100\n"
    both = run("a.png", "-", "--points", "pts.csv", "--picture", "pictures/", "-v", stdin=data)
    assert answers(both) == [("a.png", 64), ("-", 100)]
    assert "standard input: 100 x 48 pixels" in both.stderr
    assert sorted(os.listdir("pictures")) == ["a.png", "stdin.png"]
    damaged = run("-", "--points", "pts.csv", stdin=b"text")
    assert (damaged.exit_code, damaged.output) == (
        1,
        "Error: standard input is not an image but text; check the path of the image\n",
    )
    assert "standard input is empty" in run("-", "--points", "pts.csv", stdin=b"").stderr
    assert model.encoded == [100, 64, 100]


@pytest.mark.parametrize("arguments", [("-", "--points", "-"), ("-", "a.png", "-", "--points", "pts.csv")])
def test_standard_input_is_not_read_twice(model: StubModel, arguments: tuple[str, ...]) -> None:
    result = run(*arguments, stdin=Path("a.png").read_bytes())
    assert result.exit_code == 2
    assert "both read standard input" in result.stderr.splitlines()[-1]
    assert model.encoded == []


needs_dev_fd = pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")


@needs_dev_fd
def test_pipes_of_a_shell(model: StubModel) -> None:
    """A photo piped in, one from a redirected file, and one from another pipe; all are drawn too."""
    read_end, write_end = os.pipe()
    with open(write_end, "wb") as file:
        file.write(Path("d/b.png").read_bytes())  # fits into the pipe
    arguments = command("/dev/stdin", f"/dev/fd/{read_end}", "--points", "pts.csv", "--picture", "pictures/")
    with Path("a.png").open("rb") as photo:
        piped = subprocess.run(
            arguments, input=photo.read(), pass_fds=(read_end,), capture_output=True, timeout=60, check=False
        )
    os.close(read_end)
    assert piped.stderr.decode() == ""
    assert piped.stdout.decode().splitlines()[1:] == ["/dev/stdin,1,2,64", f"/dev/fd/{read_end},1,2,100"]
    assert sorted(os.listdir("pictures")) == [f"{read_end}.png", "stdin.png"]
    with Path("a.png").open("rb") as photo:
        redirected = subprocess.run(
            command("/dev/stdin", "--points", "pts.csv"), stdin=photo, capture_output=True, timeout=60, check=False
        )
    assert redirected.stdout == b"u,v,depth\n1,2,64\n"
    twice = subprocess.run(
        command("/dev/stdin", "--points", "-"), input=b"u,v\n", capture_output=True, timeout=60, check=False
    )
    assert twice.returncode == 2
    assert b"IMAGE /dev/stdin and --points - both read standard input" in twice.stderr


needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@needs_fifo
def test_a_named_pipe_is_read_once(model: StubModel) -> None:
    os.mkfifo("fifo.png")
    writer = threading.Thread(target=Path("fifo.png").write_bytes, args=(Path("d/b.png").read_bytes(),))
    writer.start()
    result = run("a.png", "fifo.png", "fifo.png", "--points", "pts.csv", "--picture", "pictures/")
    writer.join()
    assert answers(result) == [("a.png", 64), ("fifo.png", 100), ("fifo.png", 100)]
    assert sorted(os.listdir("pictures")) == ["a.png", "fifo-2.png", "fifo.png"]


@needs_fifo
def test_ctrl_c_ends_the_wait_for_a_writer(model: StubModel) -> None:
    os.mkfifo("fifo.png")
    arguments = command("a.png", "d/b.png", "fifo.png", "--points", "pts.csv")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # Opening the other end succeeds once the command waits; then it waits for bytes.
        writer = os.open("fifo.png", os.O_WRONLY)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        os.close(writer)
    assert (process.returncode, out, err) == (130, b"", b"Interrupted.\n")
