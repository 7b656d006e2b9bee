"""Results as CSV, JSON or NPZ: the points' own columns in order, then the new ones.

New columns are float [K] with NaN where a point has no depth: an empty cell in CSV (`nan` if blanks separate), null in
JSON, NaN in NPZ. CSV and JSON have six significant digits, 0.01 mm at 10 m; NPZ keeps float32. The column `error` is
text; where all is well it is empty in CSV and NPZ, and null in JSON.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.errors import PointsError
from spd.points import IMAGE_COLUMN, PointTable
from spd.points.dialect import BLANK

ERROR_COLUMN = "error"


@dataclass(frozen=True)
class Block:
    """A table and its new columns, all of K rows."""

    table: PointTable
    new: Mapping[str, NDArray[np.float32]]
    """`depth` in metres, and whatever else was asked for, by column name."""
    image: str | None = None
    """Put in front of every row as the column `image`; None adds no column."""
    errors: Sequence[str] | None = None
    """The column `error`, the last one; None adds no column."""

    @property
    def new_names(self) -> tuple[str, ...]:
        """Names of the columns that follow the table's own."""
        return (*self.new, ERROR_COLUMN) if self.errors is not None else tuple(self.new)

    def new_texts(self) -> Iterator[tuple[str, ...]]:
        """The new cells of each row; empty text where there is no number or no error."""
        columns = [*map(_texts, self.new.values()), *([] if self.errors is None else [self.errors])]
        return zip(*columns, strict=True)


def check_columns(table: PointTable, new: Sequence[str]) -> None:
    """See that the new columns are new.

    Raises:
        PointsError: the table has a column of that name.
    """
    for name in new:
        position = table.position(name)
        if position in table.point_columns:
            raise PointsError(f"{table.name} calls its points x,y, but --intrinsics adds x,y,z; rename them to u,v")
        if position is not None:
            raise PointsError(f"{table.name} has a column {table.columns[position]!r} already; rename or remove it")


def to_csv(blocks: Sequence[Block]) -> bytes:
    """CSV as UTF-8; delimiter, line end, header and rows are the text that was read, up to the new columns."""
    first = blocks[0]
    dialect, newline = first.table.dialect, first.table.newline
    delimiter = dialect.delimiter
    missing, empty = ("nan", '""') if delimiter == BLANK else ("", "")
    prefix = [] if first.image is None else [IMAGE_COLUMN]
    lines = [delimiter.join([*prefix, first.table.head, *first.new_names])]
    for block in blocks:
        image = "" if block.image is None else dialect.quoted(block.image) + delimiter
        for row, new in zip(block.table.rows, block.new_texts(), strict=True):
            cells = [text or missing for text in new]
            if block.errors is not None:
                cells[-1] = dialect.quoted(new[-1]) if new[-1] else empty
            lines.append(f"{image}{row}{delimiter}{delimiter.join(cells)}")
    return (newline.join(lines) + newline).encode("utf-8", "surrogateescape")  # file names need not be UTF-8


def to_json(blocks: Sequence[Block]) -> bytes:
    """A JSON list with an object per row: points and new columns are numbers, carried columns are text as read."""
    rows = ",\n".join(json.dumps(row) for row in chain.from_iterable(map(_objects, blocks)))
    return f"[\n{rows}\n]\n".encode() if rows else b"[]\n"


def to_npz(blocks: Sequence[Block]) -> bytes:
    """An array per column, [K] over all blocks: points float64, new columns float32, carried columns text."""
    arrays: dict[str, NDArray[Any]] = {}
    first = blocks[0]
    if first.image is not None:
        arrays[IMAGE_COLUMN] = np.repeat([block.image for block in blocks], [len(block.table.rows) for block in blocks])
    points = np.concatenate([block.table.points for block in blocks])
    if len(first.table.columns) > 2:
        carried = [cells for block in blocks for cells in block.table.cells()]
    for position, name in enumerate(first.table.columns):
        if position in first.table.point_columns:
            arrays[name] = points[:, first.table.point_columns.index(position)]
        else:
            arrays[name] = np.array([cells[position] for cells in carried], dtype=str)
    for name in first.new:
        arrays[name] = np.concatenate([block.new[name] for block in blocks])
    if first.errors is not None:
        arrays[ERROR_COLUMN] = np.array([text for block in blocks for text in block.errors or ()], dtype=str)
    file = io.BytesIO()
    # numpy.savez takes names as keyword arguments, where `file` and `allow_pickle` are not free. ZipInfo has no time of
    # its own, so that the same result is the same file.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


WRITERS: dict[str, Callable[[Sequence[Block]], bytes]] = {".csv": to_csv, ".json": to_json, ".npz": to_npz}
"""What writes a file with this suffix."""


def _texts(values: NDArray[np.float32]) -> list[str]:
    return [f"{x:.6g}" if math.isfinite(x) else "" for x in values.tolist()]


def _objects(block: Block) -> Iterator[dict[str, str | float | None]]:
    """The rows of a block, for JSON."""
    table = block.table
    front: dict[str, str | float | None] = {} if block.image is None else {IMAGE_COLUMN: block.image}
    u, v = (table.columns[position] for position in table.point_columns)
    for cells, point, values in zip(table.cells(), table.points.tolist(), block.new_texts(), strict=True):
        row = {**front, **dict(zip(table.columns, cells, strict=True))}
        row |= {name: x if math.isfinite(x) else None for name, x in zip((u, v), point, strict=True)}
        row |= {name: float(x) if x else None for name, x in zip(block.new, values, strict=False)}
        yield row if block.errors is None else row | {ERROR_COLUMN: values[-1] or None}
