"""The work of `spd-infer`: every image is read and encoded once, then asked for the depth of its points."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spd.commands.cli import note
from spd.commands.infer.images import Task, check_stdin, find_images, read_pipes, tasks_of_rows
from spd.commands.infer.outputs import WRITERS, check_columns
from spd.commands.infer.pipeline import encoded_ahead
from spd.commands.infer.request import Answer, Question, Request
from spd.commands.infer.results import block_of_image, block_of_rows, draw_pictures, summary_of_problems, write_result
from spd.commands.infer.targets import picture_paths
from spd.commands.places import check_file
from spd.errors import InputError, PointsError
from spd.points import IMAGE_COLUMN, Pattern, PointTable, read_points
from spd.preprocess import inside

if TYPE_CHECKING:
    from spd.runtime import Model

Item = TypeVar("Item")


def infer(request: Request) -> None:
    """Answer a request: write its pictures and its result, once every depth is known.

    Raises:
        SPDError: an image, the points or the bundle cannot be used. If the request is to keep going, images and points
            that cannot be used raise this after everything was written.
        click.UsageError: the request contradicts itself, or its results have no place to go.
        OSError: a result cannot be written.
    """
    check_stdin(request.images, request.points)
    source = read_points(request.points)
    table = source if isinstance(source, PointTable) else None
    given = find_images(request.images)
    names = None
    if table is not None:
        check_columns(table, request.new_columns)
        names = table.images()
    if table is not None and names is not None:
        tasks = tasks_of_rows(table, names, given, keep_problems=request.keep_going)
    elif given:
        tasks = [Task(path, None) for path in given]
    else:
        raise click.UsageError(f"no image to ask about: give IMAGE, or points with a column {IMAGE_COLUMN!r}")
    inputs = [Path(request.points), *(task.path for task in tasks)]
    if request.out is not None:
        check_file(request.out, "--out", WRITERS, inputs)
    pictures = picture_paths(request.picture, [task.path for task in tasks], inputs)
    tasks = read_pipes(tasks, keep_problems=request.keep_going)
    with closing(_answers(request, source, tasks)) as found:
        answers = list(_progress(found, len(tasks), request.verbose))
    if table is not None and names is not None:
        blocks = [block_of_rows(request, table, answers)]
    else:
        several = len(tasks) > 1 or any(path.is_dir() for path in request.images)
        blocks = [block_of_image(request, answer, several) for answer in answers]
    if pictures:
        draw_pictures(answers, pictures)
    write_result(request.out, blocks)
    problems = summary_of_problems(answers)
    if problems is not None:
        raise InputError(problems)


def _answers(request: Request, source: PointTable | Pattern, tasks: Sequence[Task]) -> Generator[Answer, None, None]:
    """Ask each image for its points, in order, while the next ones are read and encoded."""
    ahead = encoded_ahead(tasks, partial(_read, request, source), partial(_load, request))
    with closing(ahead) as images:
        for encoded in images:
            question = encoded.question
            if encoded.scene is None:
                if request.verbose:
                    note(f"{question.task.name}: left out: {question.problem}")
                yield _unanswered(question)
                continue
            start = time.perf_counter()
            lenient = request.allow_outside or request.keep_going
            with encoded.scene as scene:
                depth = scene.depth(question.points, outside="nan" if lenient else "error")
            if request.verbose:
                note(
                    f"{question.task.name}: {question.width} x {question.height} pixels, "
                    f"read {_ms(question.read_seconds)}, encoded {_ms(encoded.seconds)}, "
                    f"{len(question.points)} points {_ms(time.perf_counter() - start)}"
                )
            yield Answer(question, depth, _errors_of_points(request, question))


def _read(request: Request, source: PointTable | Pattern, task: Task) -> tuple[Question, Image.Image | None]:
    """Read an image, and find its points; each of them lies inside unless the request allows others."""
    start = time.perf_counter()
    try:
        image = task.read()
    except InputError as error:
        if not request.keep_going:
            raise
        table = source.table_without_points() if isinstance(source, Pattern) else source
        return Question(task, 0, 0, table, _asked(table, task), time.perf_counter() - start, str(error)), None
    table = source.table(*image.size) if isinstance(source, Pattern) else source
    question = Question(task, *image.size, table, _asked(table, task), time.perf_counter() - start)
    if not (request.allow_outside or request.keep_going):
        _check_inside(question)
    return question, image


def _asked(table: PointTable, task: Task) -> NDArray[np.float64]:
    """The points of the rows that a task is about."""
    return table.points if task.rows is None else table.points[task.rows]


def _unanswered(question: Question) -> Answer:
    """The answer of an image that cannot be used."""
    count = len(question.points)
    return Answer(question, np.full(count, np.nan, dtype=np.float32), [question.problem or ""] * count)


def _errors_of_points(request: Request, question: Question) -> list[str]:
    """Which points lie outside the image; empty text for the others, and if the request allows all."""
    errors = [""] * len(question.points)
    if not request.allow_outside:
        for index in _outside(question):
            errors[index] = _says_outside(question, index)
    return errors


def _outside(question: Question) -> list[int]:
    """Indices of the points that lie outside the image."""
    indices: list[int] = np.flatnonzero(~inside(question.points, question.width, question.height)).tolist()
    return indices


def _says_outside(question: Question, index: int) -> str:
    u, v = question.points[index].tolist()
    size = f"{question.width} x {question.height} pixels"
    return f"point ({u:g}, {v:g}) is outside {question.task.name}, which is {size}"


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
            if line not in model.warned:
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


def _check_inside(question: Question) -> None:
    outside, task, table = _outside(question), question.task, question.table
    if outside:
        row = outside[0] if task.rows is None else task.rows[outside[0]]
        others = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        raise PointsError(
            f"{table.name} row {table.lines[row]}{others}: {_says_outside(question, outside[0])}; "
            "correct it, or pass --allow-outside for empty depths"
        )
