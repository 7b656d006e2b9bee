"""Which images a query is about: IMAGE arguments, folders, or the `image` column of the points."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spd.errors import ImageError, PointsError
from spd.points import PointTable

SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Files of a folder that are taken for images, whatever the case."""


@dataclass(frozen=True)
class Task:
    """One image and the rows of the table that ask about it."""

    path: Path
    rows: NDArray[np.int64] | None
    """Indices into the table; None stands for all."""
    problem: PointsError | None = None
    """Why the image that the rows name was not found."""


def find_images(arguments: Iterable[Path]) -> list[Path]:
    """The images that IMAGE arguments name, in order, each once; a folder stands for its images, sorted by name.

    Raises:
        ImageError: a folder holds no image. Whether the other paths exist is not looked at.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        paths = [argument]
        if argument.is_dir():
            files = (path for path in argument.iterdir() if path.is_file() and not path.name.startswith("."))
            paths = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
            if not paths:
                raise ImageError(f"{argument} holds no images, expected files ending in {' '.join(SUFFIXES)}")
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def tasks_of_rows(table: PointTable, names: list[str], given: list[Path], *, keep_problems: bool = False) -> list[Task]:
    """Group the rows of a table by the image that each names, in the order of first appearance.

    A relative path is looked for in the current folder, then in the folder of the CSV. If images are `given`, a row
    names one of them instead, by its path or its file name.

    Args:
        table: the points.
        names: the `image` column, [K].
        given: images named on the command line, possibly none.
        keep_problems: whether an image that is not there becomes a task with a problem.

    Raises:
        PointsError: a row names an image that is not there, unless problems are kept.
    """
    by_name: dict[str, set[Path]] = defaultdict(set)
    for path in given:
        for name in {str(path), path.name}:
            by_name[name].add(path)
    paths: dict[str, Path] = {}
    problems: dict[str, PointsError] = {}
    for name, line in zip(names, table.lines.tolist(), strict=True):
        if name not in paths:
            where = f"{table.name} row {line}: image {name!r}"
            try:
                paths[name] = _given(name, by_name, where) if given else _on_disk(name, Path(table.name).parent, where)
            except PointsError as error:
                if not keep_problems:
                    raise
                paths[name], problems[name] = Path(name), error
    rows: dict[str, list[int]] = defaultdict(list)
    shown: dict[str, Path] = {}
    resolved = {name: os.path.realpath(path) for name, path in paths.items()} | {name: name for name in problems}
    for row, name in enumerate(names):
        rows[resolved[name]].append(row)
        shown.setdefault(resolved[name], paths[name])
    return [Task(shown[key], np.array(indices, dtype=np.int64), problems.get(key)) for key, indices in rows.items()]


def _given(name: str, by_name: dict[str, set[Path]], where: str) -> Path:
    matches = by_name.get(name, set())
    if not matches:
        raise PointsError(f"{where} is none of the images given; give it too, or no image at all")
    if len(matches) > 1:
        raise PointsError(f"{where} could be {' or '.join(sorted(map(str, matches)))}; write its whole path")
    return next(iter(matches))


def _on_disk(name: str, folder: Path, where: str) -> Path:
    path = Path(name)
    for candidate in (path, folder / path):
        if os.path.exists(candidate):  # Path.exists raises on a name that is too long
            return candidate
    also = "" if path.is_absolute() or folder == Path() else f", nor in {folder}"
    raise PointsError(f"{where} does not exist{also}; correct the path")
