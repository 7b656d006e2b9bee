"""What is asked of `spd-infer` as a whole and of each image, and what each image answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spd.commands.infer.images import Task
from spd.commands.infer.outputs import ERROR_COLUMN
from spd.points import PointTable


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
    keep_going: bool = False
    """Leave the depths of what cannot be used empty, and say why in a column `error`."""
    verbose: bool = False

    @property
    def new_columns(self) -> tuple[str, ...]:
        """Names of the columns that the result adds to the points."""
        columns = ("depth",) if self.intrinsics is None else ("depth", "x", "y", "z")
        return (*columns, ERROR_COLUMN) if self.keep_going else columns


@dataclass(frozen=True)
class Question:
    """One image's points."""

    task: Task
    width: int
    """Of the image as shown, pixels; 0 if it cannot be used."""
    height: int
    """Of the image as shown, pixels; 0 if it cannot be used."""
    table: PointTable
    points: NDArray[np.float64]
    """[K, 2], pixels of the image as shown."""
    read_seconds: float
    """How long it took to read the image and to find its points."""
    problem: str | None = None
    """Why the image cannot be used."""


@dataclass(frozen=True)
class Answer:
    """One image's points and their depths."""

    question: Question
    depth: NDArray[np.float32]
    """[K], metres; NaN outside the image, and if it cannot be used."""
    errors: Sequence[str]
    """Why a row has no depth, [K]; empty text where it has one, or is allowed to have none."""
