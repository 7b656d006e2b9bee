"""The work of `spd-infer`: every image is read and encoded once, then asked for the depth of its points."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spd.commands.cli import note, write_stdout
from spd.commands.infer.images import Task, find_images, tasks_of_rows
from spd.commands.infer.outputs import WRITERS, Block, check_columns, to_csv
from spd.commands.infer.pipeline import encoded_ahead
from spd.commands.infer.targets import picture_paths
from spd.commands.places import check_file
from spd.errors import PointsError
from spd.files import write_atomically
from spd.points import IMAGE_COLUMN, Pattern, PointTable, read_points
from spd.preprocess import check_image, inside, read_image

if TYPE_CHECKING:
    from spd.runtime import Model

Item = TypeVar("Item")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    images: tuple[Path, ...]
    """Images and folders; may be empty if the points name their images."""
    points: str
    """CSV file, `-`, `grid:N` or `random:N[:SEED]`."""
    engines: Path
    """A bundle, or a folder that holds one."""
    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None
    """On the CPU; None is all cores."""
    out: Path | None = None
    """File with a suffix of `outputs.WRITERS`; None is CSV on stdout."""
    picture: str | None = None
    """PNG file, or a folder (existing, or ending in a slash) for one PNG per image."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels of the image as shown: adds x, y, z."""
    allow_outside: bool = False
    verbose: bool = False

    @property
    def new_columns(self) -> tuple[str, ...]:
        """Names of the columns that the result adds to the points."""
        return ("depth",) if self.intrinsics is None else ("depth", "x", "y", "z")


@dataclass(frozen=True)
class Question:
    """One image's points."""

    task: Task
    width: int
    """Of the image as shown, pixels."""
    height: int
    """Of the image as shown, pixels."""
    table: PointTable
    points: NDArray[np.float64]
    """[K, 2], pixels of the image as shown."""
    read_seconds: float
    """How long it took to read the image and to find its points."""


@dataclass(frozen=True)
class Answer:
    """One image's points and their depths."""

    question: Question
    depth: NDArray[np.float32]
    """[K], metres; NaN outside the image."""


def infer(request: Request) -> None:
    """Answer a request: write its pictures and its result, once every depth is known.

    Raises:
        SPDError: an image, the points or the bundle cannot be used.
        click.UsageError: the request contradicts itself, or its results have no place to go.
        OSError: a result cannot be written.
    """
    source = read_points(request.points)
    table = source if isinstance(source, PointTable) else None
    given = find_images(request.images)
    names = None
    if table is not None:
        check_columns(table, request.new_columns)
        names = table.images()
    if table is not None and names is not None:
        tasks = tasks_of_rows(table, names, given)
    elif given:
        tasks = [Task(path, None) for path in given]
    else:
        raise click.UsageError(f"no image to ask about: give IMAGE, or points with a column {IMAGE_COLUMN!r}")
    inputs = [Path(request.points), *(task.path for task in tasks)]
    if request.out is not None:
        check_file(request.out, "--out", WRITERS, inputs)
    pictures = picture_paths(request.picture, [task.path for task in tasks], inputs)
    for task in tasks:
        check_image(task.path)
    with closing(_answers(request, source, tasks)) as found:
        answers = list(_progress(found, len(tasks), request.verbose))
    if table is not None and names is not None:
        blocks = [_gathered(request, table, answers)]
    else:
        several = len(tasks) > 1 or any(path.is_dir() for path in request.images)
        blocks = [_block(request, answer, several) for answer in answers]
    if pictures:
        _draw(answers, pictures)
    _write(request.out, blocks)


def _answers(request: Request, source: PointTable | Pattern, tasks: Sequence[Task]) -> Generator[Answer, None, None]:
    """Ask each image for its points, in order, while the next ones are read and encoded."""
    ahead = encoded_ahead(tasks, partial(_read, request, source), partial(_load, request))
    with closing(ahead) as images:
        for encoded in images:
            question = encoded.question
            start = time.perf_counter()
            with encoded.scene as scene:
                depth = scene.depth(question.points, outside="nan" if request.allow_outside else "error")
            if request.verbose:
                note(
                    f"{question.task.path}: {question.width} x {question.height} pixels, "
                    f"read {_ms(question.read_seconds)}, encoded {_ms(encoded.seconds)}, "
                    f"{len(question.points)} points {_ms(time.perf_counter() - start)}"
                )
            yield Answer(question, depth)


def _read(request: Request, source: PointTable | Pattern, task: Task) -> tuple[Question, Image.Image]:
    """Read an image, and find its points; each of them lies inside unless the request allows others."""
    start = time.perf_counter()
    image = read_image(task.path)
    table = source.table(*image.size) if isinstance(source, Pattern) else source
    points = table.points if task.rows is None else table.points[task.rows]
    if not request.allow_outside:
        _check_inside(points, table, task, image)
    return Question(task, *image.size, table, points, time.perf_counter() - start), image


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _load(request: Request) -> Model:
    from spd.runtime import load  # what it imports takes longer than finding a wrong argument

    start = time.perf_counter()
    model = load(request.engines, backend=request.backend, precision=request.precision, threads=request.threads)
    manifest = model.manifest
    if manifest is not None and not (manifest.verified and manifest.trained):
        lacks = [] if manifest.trained else ["its weights are random, not trained"]
        lacks += [] if manifest.verified else ["nothing proves its graphs: it was exported with --no-verify"]
        note(f"Note: do not rely on the depths of this bundle: {'; '.join(lacks)}.")
    if request.verbose:
        height, width = model.size
        note(
            f"{request.engines}: {model.backend} {model.precision}, {width} x {height} pixels, "
            f"loaded {_ms(time.perf_counter() - start)}"
        )
        for line in model.notes:
            note(line)
    return model


def _progress(items: Iterable[Item], count: int, verbose: bool) -> Iterator[Item]:
    """A progress bar on stderr for several images, if a person is looking and no lines are printed in between."""
    if count < 2 or verbose or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console  # 60 ms that one image does not need
    from rich.progress import track

    yield from track(items, description="images", total=count, console=Console(stderr=True), transient=True)


def _check_inside(points: NDArray[np.float64], table: PointTable, task: Task, image: Image.Image) -> None:
    outside = np.flatnonzero(~inside(points, *image.size))
    if len(outside):
        row = outside[0] if task.rows is None else task.rows[outside[0]]
        u, v = points[outside[0]].tolist()
        others = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        raise PointsError(
            f"{table.name} row {table.lines[row]}{others}: point ({u:g}, {v:g}) is outside {task.path}, which is "
            f"{image.width} x {image.height} pixels; correct it, or pass --allow-outside for empty depths"
        )


def _columns(
    request: Request, points: NDArray[np.float64], depth: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """The new columns; x, y, z are metres to the right, down and ahead of the camera."""
    if request.intrinsics is None:
        return {"depth": depth}
    fx, fy, cx, cy = request.intrinsics
    x, y = (points[:, 0] - cx) / fx * depth, (points[:, 1] - cy) / fy * depth
    return {"depth": depth, "x": x.astype(np.float32), "y": y.astype(np.float32), "z": depth}


def _block(request: Request, answer: Answer, several: bool) -> Block:
    """The answer for one image that was asked for all points."""
    question = answer.question
    new = _columns(request, question.points, answer.depth)
    return Block(question.table, new, str(question.task.path) if several else None)


def _gathered(request: Request, table: PointTable, answers: Sequence[Answer]) -> Block:
    """The answers for all images back in the order of the table's rows."""
    depth = np.full(len(table.rows), np.nan, dtype=np.float32)
    for answer in answers:
        depth[answer.question.task.rows] = answer.depth
    return Block(table, _columns(request, table.points, depth))


def _draw(answers: Sequence[Answer], pictures: Sequence[Path]) -> None:
    from spd.commands.infer.picture import draw  # fonts and drawing, needed for --picture only

    pictures[0].parent.mkdir(exist_ok=True)
    for answer, path in zip(answers, pictures, strict=True):
        picture = draw(read_image(answer.question.task.path), answer.question.points, answer.depth)
        with write_atomically(path) as file:
            picture.save(file, format="PNG")


def _write(out: Path | None, blocks: Sequence[Block]) -> None:
    if out is None:
        write_stdout(to_csv(blocks))
        return
    data = WRITERS[out.suffix.lower()](blocks)
    with write_atomically(out) as file:
        file.write(data)
