"""Points and the rows that they came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd.errors import PointsError
from spd.points.dialect import COMMAS, Dialect

IMAGE_COLUMN = "image"


@dataclass(frozen=True)
class PointTable:
    """Points and the rows they came from; K rows."""

    name: str
    """The file, `standard input`, or `grid:N` and the like; for messages."""
    head: str
    """The header's text without its line end and without a `#` before it; `u,v` where there was none."""
    columns: tuple[str, ...]
    """The header's names, without surrounding blanks."""
    rows: Sequence[str]
    """The text of each row without its line end."""
    lines: NDArray[np.int64]
    """Line number of each row, [K]."""
    points: NDArray[np.float64]
    """(u, v) in pixels of the image as shown, [K, 2]; finite, but not necessarily inside. NaN for a row without one."""
    point_columns: tuple[int, int] = (0, 1)
    """Positions of u and v among the columns."""
    dialect: Dialect = COMMAS
    """How the header and the rows are split."""
    newline: str = "\n"
    """The line end of the first line."""

    def cells(self) -> Iterator[list[str]]:
        """The cells of each row as text."""
        return map(self.dialect.cells, self.rows)

    def position(self, name: str) -> int | None:
        """Position of a column, whatever its case; None where there is none."""
        return next((i for i, column in enumerate(self.columns) if column.casefold() == name), None)

    def images(self) -> list[str] | None:
        """The `image` column [K], or None.

        Raises:
            PointsError: a row names no image.
        """
        position = self.position(IMAGE_COLUMN)
        if position is None:
            return None
        names = [cells[position].strip() for cells in self.cells()]
        if "" in names:
            raise PointsError(f"{self.name} row {self.lines[names.index('')]}: column image is blank; name an image")
        return names
