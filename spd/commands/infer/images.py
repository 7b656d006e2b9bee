"""Which images a query is about: IMAGE arguments, folders, or the `image` column of the points."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spd.commands.cli import note
from spd.errors import ImageError, InputError, PointsError
from spd.images import check_image, is_pipe, read_image, read_to_end
from spd.points import PointTable

SUFFIXES = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jfif", ".jif", ".jp2", ".jpe",
    ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Files of a folder that are taken for images, whatever the case."""
STDIN = "-"
"""The IMAGE that stands for standard input."""


@dataclass(frozen=True)
class Task:
    """One image and the rows of the table that ask about it."""

    path: Path
    rows: NDArray[np.int64] | None
    """Indices into the table; None stands for all."""
    problem: InputError | None = None
    """Why it cannot be asked, such as that it was not found."""
    data: bytes | None = None
    """What a pipe gave, as it can be read only once; None for a file."""

    @property
    def name(self) -> str:
        """What messages call the image."""
        return "standard input" if str(self.path) == STDIN else str(self.path)

    def check(self) -> None:
        """Read the image's header; see `check_image`."""
        check_image(self.path if self.data is None else self.data, self.name)

    def read(self) -> Image.Image:
        """Read the image, as often as wanted; see `read_image`.

        Raises:
            InputError: it cannot be read, or has a problem.
        """
        if self.problem is not None:
            raise self.problem
        return read_image(self.path if self.data is None else self.data, self.name)


def find_images(arguments: Iterable[Path]) -> list[Path]:
    """The images that IMAGE arguments name, in order; a folder stands for its images, sorted by name.

    Each argument and each file of a folder is an image of its own, also where two are the same file. Files of a folder
    that are left out are counted in a note on stderr.

    Raises:
        ImageError: a folder holds no image. Whether the other paths exist is not looked at.
    """
    found: list[Path] = []
    left_out: list[Path] = []
    for argument in arguments:
        if not argument.is_dir():
            found.append(argument)
            continue
        files = sorted(path for path in argument.iterdir() if path.is_file() and not path.name.startswith("."))
        images = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not images:
            raise ImageError(f"{argument} holds no images, expected files ending in {' '.join(SUFFIXES)}")
        found += images
        left_out += [path for path in files if path.suffix.lower() not in SUFFIXES]
    if left_out:
        files_are = "1 file is" if len(left_out) == 1 else f"{len(left_out)} files are"
        first = left_out[0] if len(left_out) == 1 else f"{left_out[0]} and others"
        note(f"Note: {files_are} left out, whose names do not end as an image's: {first}")
    return found


def check_stdin(arguments: Iterable[Path], points: str) -> None:
    """See that standard input is read once.

    Raises:
        click.UsageError: two of the images and the points come from there.
    """
    readers = [f"IMAGE {path}" for path in arguments if _is_stdin(str(path))]
    readers += [f"--points {points}"] if _is_stdin(points) else []
    if len(readers) > 1:
        raise click.UsageError(f"{readers[0]} and {readers[1]} both read standard input; give one of them as a file")


def read_pipes(tasks: Sequence[Task], *, keep_problems: bool = False) -> list[Task]:
    """Read what can be read only once; look at the headers of all images.

    Pipes are read one after the other and in the main thread, where Ctrl-C ends the wait for a writer.

    Args:
        tasks: one for each image.
        keep_problems: whether an image that cannot be read becomes a task with a problem; headers are then left for
            later.

    Raises:
        ImageError: an image cannot be read, or is none, unless problems are kept.
    """
    pipes: dict[Path, Task] = {}
    for task in tasks:
        path = task.path
        if task.problem is None and path not in pipes and (str(path) == STDIN or is_pipe(path)):
            try:
                pipes[path] = replace(task, data=_read_pipe(path))
            except ImageError as error:
                if not keep_problems:
                    raise
                pipes[path] = replace(task, problem=error)
    ready = [replace(pipes.get(task.path, task), rows=task.rows) for task in tasks]
    if not keep_problems:
        for task in ready:
            task.check()
    return ready


def tasks_of_rows(table: PointTable, names: list[str], given: list[Path], *, keep_problems: bool = False) -> list[Task]:
    """Group the rows of a table by the image that each names, in the order of first appearance.

    A relative path is looked for in the current folder, then in the folder of the CSV. If images are `given`, a row
    names one of them instead, by its path or its file name. Two spellings of a path are the same image, whatever the
    Unicode form; a link and what it links to are two.

    Args:
        table: the points.
        names: the `image` column, [K].
        given: images named on the command line, possibly none.
        keep_problems: whether an image that is not there becomes a task with a problem.

    Raises:
        PointsError: a row names an image that is not there, unless problems are kept, or could name several.
    """
    folder = Path(table.name).parent
    among = _Given(given, folder) if given else None
    paths: dict[str, Path] = {}
    keys: dict[str, str] = {}
    problems: dict[str, InputError] = {}
    for name, line in zip(names, table.lines.tolist(), strict=True):
        if name in paths:
            continue
        where = f"{table.name} row {line}: image {name!r}"
        try:
            paths[name] = among.find(name, where) if among else _find_on_disk(name, folder, where)
            keys[name] = _place(paths[name])
        except PointsError as error:
            if not keep_problems:
                raise
            paths[name], keys[name], problems[name] = Path(name), name, error
    rows: dict[str, list[int]] = defaultdict(list)
    shown: dict[str, Path] = {}
    for row, name in enumerate(names):
        rows[keys[name]].append(row)
        shown.setdefault(keys[name], paths[name])
    return [Task(shown[key], np.array(indices, dtype=np.int64), problems.get(key)) for key, indices in rows.items()]


class _Given:
    """The images of the command line, to be found by what a row calls them."""

    def __init__(self, given: Sequence[Path], folder: Path) -> None:
        self._folder = folder
        self._by_place: dict[str, Path] = {}
        self._by_name: dict[str, dict[str, Path]] = defaultdict(dict)
        self._by_file: dict[tuple[int, int], dict[str, Path]] = defaultdict(dict)
        for path in given:
            place = _place(path)
            self._by_place.setdefault(place, path)
            self._by_name[_composed(path.name)].setdefault(place, path)
            file = _file_number(path)
            if file is not None:
                self._by_file[file].setdefault(place, path)

    def find(self, name: str, where: str) -> Path:
        """The image that a row means: a file name alone, else a path, else another path of the same file."""
        places = [self._by_place.get(_place(Path(name))), self._by_place.get(_place(self._folder / name))]
        matches = list(self._by_name.get(_composed(name), {}).values())
        if not matches:
            matches = [path for path in places if path is not None][:1]
        if not matches:
            numbers = [_file_number(Path(name)), _file_number(self._folder / name)]
            matches = [path for number in numbers if number for path in self._by_file.get(number, {}).values()]
            matches = list(dict.fromkeys(matches))
        if not matches:
            raise PointsError(f"{where} is none of the images given; give it too, or no image at all")
        if len(matches) > 1:
            raise PointsError(f"{where} could be {' or '.join(sorted(map(str, matches)))}; write its whole path")
        return matches[0]


def _find_on_disk(name: str, folder: Path, where: str) -> Path:
    path = Path(name)
    for candidate in (path, folder / path):
        found = _existing(candidate)
        if found is not None:
            return found
    also = "" if path.is_absolute() or folder == Path() else f", nor in {folder}"
    raise PointsError(f"{where} does not exist{also}; correct the path")


def _existing(path: Path) -> Path | None:
    """A path that is there, in whatever Unicode form its parts have; None if it is not, or could be several."""
    if os.path.exists(path):  # Path.exists raises on a name that is too long
        return path
    if str(path).isascii() or path == path.parent:
        return None
    parent = _existing(path.parent)
    if parent is None or not parent.is_dir():
        return None
    same = [name for name in os.listdir(parent) if _composed(name) == _composed(path.name)]
    return parent / same[0] if len(same) == 1 else None


def _place(path: Path) -> str:
    """The same text for all spellings of a path. A link keeps its own name; links among its folders are followed."""
    try:
        folder = os.path.realpath(path.parent)
    except ValueError:  # a zero byte
        folder = os.path.abspath(path.parent)
    return _composed(os.path.join(folder, path.name))


def _composed(text: str) -> str:
    """Text in Unicode's composed form: macOS writes file names in the other one."""
    return unicodedata.normalize("NFC", text)


def _file_number(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others, however it is called."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_stdin(name: str) -> bool:
    """Whether an IMAGE or --points is standard input: `-`, or a path such as /dev/stdin while that is a pipe."""
    if name == STDIN:
        return True
    try:
        return is_pipe(Path(name)) and os.path.samestat(os.stat(name), os.fstat(0))
    except (OSError, ValueError):
        return False


def _read_pipe(path: Path) -> bytes:
    name = Task(path, None).name
    if str(path) == STDIN:
        if sys.stdin is None:
            raise ImageError("standard input is closed; give a file, or pipe an image into the command")
        return read_to_end(sys.stdin.buffer, name)
    try:
        with path.open("rb") as file:
            return read_to_end(file, name)
    except OSError as error:
        raise ImageError(f"{name} cannot be opened: {error.strerror or error}") from error
