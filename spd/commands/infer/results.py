"""From the answers of all images to the files that `spd-infer` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spd.commands.cli import write_stdout
from spd.commands.infer.outputs import ERROR_COLUMN, WRITERS, Block, to_csv
from spd.commands.infer.request import Answer, Request
from spd.files import write_atomically
from spd.points import PointTable
from spd.points.space import Intrinsics, to_space


def _columns(
    request: Request, points: NDArray[np.float64], depth: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """The new columns; x, y, z are metres to the right, down and ahead of the camera."""
    if request.intrinsics is None:
        return {"depth": depth}
    x, y, z = to_space(points, depth, Intrinsics(*request.intrinsics)).T
    return {"depth": depth, "x": x, "y": y, "z": z}


def block_of_image(request: Request, answer: Answer, several: bool) -> Block:
    """The answer for one image that was asked for all points."""
    question = answer.question
    new = _columns(request, question.points, answer.depth)
    image = str(question.task.path) if several else None
    return Block(question.table, new, image, answer.errors if request.keep_going else None)


def block_of_rows(request: Request, table: PointTable, answers: Sequence[Answer]) -> Block:
    """The answers for all images back in the order of the table's rows."""
    depth = np.full(len(table.rows), np.nan, dtype=np.float32)
    errors = [""] * len(table.rows)
    for answer in answers:
        rows = answer.question.task.rows
        assert rows is not None
        depth[rows] = answer.depth
        for row, error in zip(rows.tolist(), answer.errors, strict=True):
            errors[row] = error
    return Block(table, _columns(request, table.points, depth), errors=errors if request.keep_going else None)


def draw_pictures(answers: Sequence[Answer], pictures: Sequence[Path]) -> None:
    """Draw the points of each image that can be used into its file, a PNG."""
    from spd.commands.infer.picture import draw  # fonts and drawing, needed for --picture only

    pictures[0].parent.mkdir(exist_ok=True)
    for answer, path in zip(answers, pictures, strict=True):
        if answer.question.problem is not None:
            continue
        picture = draw(answer.question.task.read(), answer.question.points, answer.depth)
        with write_atomically(path) as file:
            picture.save(file, format="PNG")


def summary_of_problems(answers: Sequence[Answer]) -> str | None:
    """How many images could not be used, and how many points of the others; None if all could."""
    errors = [error for answer in answers if answer.question.problem is None for error in answer.errors]
    counts: dict[str, list[str | None]] = {
        "images": [answer.question.problem for answer in answers],
        "points": [*errors],
    }
    parts = [f"{sum(map(bool, found))} of {len(found)} {name}" for name, found in counts.items() if any(found)]
    return f"{' and '.join(parts)} cannot be used; the column {ERROR_COLUMN} says why" if parts else None


def write_result(out: Path | None, blocks: Sequence[Block]) -> None:
    """Write the result to a file in the form that its suffix names, or as CSV to stdout."""
    if out is None:
        write_stdout(to_csv(blocks))
        return
    data = WRITERS[out.suffix.lower()](blocks)
    with write_atomically(out) as file:
        file.write(data)
