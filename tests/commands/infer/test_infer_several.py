"""`spd-infer` on several images: they overlap, and what is printed keeps its order."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from spd.commands.infer.cli import main
from spd.commands.infer.request import Request
from spd.commands.infer.run import infer
from spd.errors import BackendError, PointsError

COUNT = 6
"""Images in the folder."""


class Model:
    """The runtime for the command: a point's depth is the width of its image."""

    backend, precision, notes, manifest, size = "stub", "fp32", ("tensorrt: not installed",), None, (480, 640)
    warned = ()

    def __init__(self, fails_at: dict[int, BaseException]) -> None:
        self.fails_at = fails_at
        """By width of the image: what its query raises."""
        self.encoded: list[int] = []
        self.open = 0

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.open

    def encode(self, image: Image.Image) -> Scene:
        self.encoded.append(image.width)
        self.open += 1
        return Scene(self, image.width)


class Scene:
    def __init__(self, model: Model, width: int) -> None:
        self.model, self.width, self.is_open = model, width, True

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        pass

    def close(self) -> None:
        self.model.open -= self.is_open
        self.is_open = False

    def depth(self, points: Any, outside: str) -> Any:
        assert self.is_open
        if self.width in self.model.fails_at:
            raise self.model.fails_at[self.width]
        return np.full(len(points), self.width, dtype=np.float32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Model:
    """The stub runtime, in a folder with 0.png (10 x 9) to 5.png (15 x 9) and pts.csv with one point in all of them."""
    stub = Model({})
    monkeypatch.setattr("spd.runtime.load", lambda *_, **__: stub)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(COUNT):
        Image.new("RGB", (10 + i, 9)).save(f"photos/{i}.png")
    Path("pts.csv").write_text("u,v\n1,2\n")
    return stub


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["photos", "--points", "pts.csv", *arguments])


def verbose_lines(count: int) -> str:
    """What `-v` says of loading and of the first images, as a pattern."""
    ms = r"\d+\.\d ms"
    return rf"engines: stub fp32, 640 x 480 pixels, loaded {ms}\ntensorrt: not installed\n" + "".join(
        rf"photos.{i}\.png: {10 + i} x 9 pixels, read {ms}, encoded {ms}, 1 points {ms}\n" for i in range(count)
    )


def test_output_keeps_its_order(model: Model) -> None:
    result = run("-v")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "image,u,v,depth",
        *(f"{Path('photos', f'{i}.png')},1,2,{10 + i}" for i in range(COUNT)),
    ]
    assert re.fullmatch(verbose_lines(COUNT), result.stderr)
    assert model.encoded == [10, 11, 12, 13, 14, 15]
    assert model.open == 0


@pytest.mark.parametrize("what", ["damaged", "outside", "query", "Ctrl-C"])
def test_the_third_image_fails(model: Model, what: str) -> None:
    """The images before it have their lines, it has its own, and nothing is written; the fifth fails too."""
    photo = Path("photos", "2.png")
    message, code = "Error: stub failed", 1
    if what == "damaged":
        Image.effect_noise((12, 9), 50).save(photo)
        photo.write_bytes(photo.read_bytes()[:-30])
        message = rf"Error: {re.escape(str(photo))} is damaged or cut off \(.*\); copy it again"
    elif what == "outside":
        Image.new("RGB", (12, 2)).save(photo)
        message = (
            rf"Error: pts\.csv row 2: point \(1, 2\) is outside {re.escape(str(photo))}, which is 12 x 2 pixels; "
            "correct it, or pass --allow-outside for empty depths"
        )
    elif what == "query":
        model.fails_at[12] = BackendError("stub failed")
    else:
        model.fails_at[12] = KeyboardInterrupt()
        message, code = "Interrupted.", 130
    model.fails_at[14] = PointsError("the fifth")
    result = run("-v", "--out", "out.csv", "--picture", "pictures/")
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert re.fullmatch(rf"{verbose_lines(2)}{message}\n", result.stderr), result.stderr
    assert model.encoded in ([10, 11], [10, 11, 12], [10, 11, 12, 13])
    assert (12 in model.encoded) == (what in ("query", "Ctrl-C"))
    assert model.open == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("spd-ahead")]
    assert sorted(path.name for path in Path().iterdir()) == ["photos", "pts.csv"]


def test_the_progress_bar_counts_images(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves on with each image that is answered, and is not there for one image."""
    totals, answered = [], []

    def track(sequence: Iterator[Any], *, total: int, **_: object) -> Iterator[Any]:
        totals.append(total)
        for one in sequence:
            answered.append(one.question.width)
            yield one

    monkeypatch.setattr("rich.progress.track", track)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    infer(Request((Path("photos"),), "pts.csv", Path("engines"), out=Path("out.csv")))
    infer(Request((Path("photos", "0.png"),), "pts.csv", Path("engines"), out=Path("out.csv")))
    assert totals == [COUNT]
    assert answered == [10, 11, 12, 13, 14, 15]
