"""Points from the bytes of a CSV.

A CSV has a header with the columns `u,v` or `x,y` (u to the right, v down, pixels of the image as shown; see
`spd.bundle.contract`), or no header and two columns. An `image` column says which image a row asks about. All other
columns are carried along: a table keeps the text of every row as it came, so that what is written is what was read.

Commas, semicolons or tabs separate; quotes work as in RFC 4180. Row numbers in messages are line numbers as an editor
shows them; a header is row 1.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from spd.errors import PointsError
from spd.points.table import IMAGE_COLUMN, PointTable

POINT_COLUMNS = (("u", "v"), ("x", "y"))
"""Names of the two point columns, in order of preference, whatever their case."""
DELIMITERS = ",;\t"


def parse_points(data: bytes, name: str) -> PointTable:
    """Read the bytes of a CSV; `name` is what messages call it. Blank lines at the end are left out.

    Raises:
        PointsError: see `read_points`.
    """
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise PointsError(f"{name} row {row}: byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8") from error
    if not text.strip():
        raise PointsError(f"{name} is empty; expected a header with the columns u,v and a row per point")
    delimiter = _delimiter(text)
    records = _records(text, delimiter, name)
    first = next(records)
    _, head, cells = first
    positions = _point_columns(cells)
    if positions is None:
        _check_headerless(cells, f"{name} row 1 ({head[:60]!r})")
        head, cells, positions, records = delimiter.join("uv"), ["u", "v"], (0, 1), chain([first], records)
    columns = tuple(cell.strip() for cell in cells)
    _check_unique(columns, positions, name)
    rows, lines, pairs = _collect(records, len(columns), positions, name)
    return PointTable(
        name=name,
        head=head,
        columns=columns,
        rows=rows,
        lines=np.array(lines, dtype=np.int64),
        points=_numbers(pairs, lines, [columns[p] for p in positions], name),
        point_columns=positions,
        delimiter=delimiter,
        newline="\r\n" if data[: data.find(b"\n") + 1].endswith(b"\r\n") else "\n",
    )


def _delimiter(text: str) -> str:
    """What separates the names of the point columns in the first line, or else what it has most of."""
    first = next(io.StringIO(text, newline=""))
    for delimiter in DELIMITERS:
        if _point_columns([cell.strip().strip('"') for cell in first.split(delimiter)]):
            return delimiter
    return max(DELIMITERS, key=first.count)


def _point_columns(cells: Sequence[str]) -> tuple[int, int] | None:
    names = [cell.strip().casefold() for cell in cells]
    for u, v in POINT_COLUMNS:
        if u in names and v in names:
            return names.index(u), names.index(v)
    return None


def _check_headerless(cells: Sequence[str], where: str) -> None:
    """A first row that is no header must be a point."""
    try:
        numbers = len([float(cell) for cell in cells])
    except ValueError:
        numbers = 0
    if numbers == 0:
        raise PointsError(f"{where} has no columns u,v or x,y; name the two columns of pixels u and v")
    if numbers != 2:
        raise PointsError(f"{where} has {numbers} columns and no header; add a header that names two of them u and v")


def _check_unique(columns: Sequence[str], positions: tuple[int, int], name: str) -> None:
    special = {columns[p].casefold() for p in positions} | {IMAGE_COLUMN}
    keys = [column.casefold() if column.casefold() in special else column for column in columns]
    for key in keys:
        if keys.count(key) > 1:
            raise PointsError(f"{name} row 1 has {keys.count(key)} columns called {key!r}; rename all but one")


def _records(text: str, delimiter: str, name: str) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, text and cells of each record."""
    lines = io.StringIO(text, newline="")  # splits at \n, \r and \r\n only, and keeps them
    if '"' not in text:
        for number, line in enumerate(lines, start=1):
            row = line.rstrip("\r\n")
            yield number, row, row.split(delimiter)
        return
    texts = list(lines)
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    start = 0
    try:
        for cells in reader:
            yield start + 1, "".join(texts[start : reader.line_num]).rstrip("\r\n"), cells
            start = reader.line_num
    except csv.Error as error:
        raise PointsError(f"{name} row {start + 1} cannot be split into cells ({error}); check its quotes") from error


def _collect(
    records: Iterator[tuple[int, str, list[str]]], width: int, positions: tuple[int, int], name: str
) -> tuple[list[str], list[int], list[tuple[str, str]]]:
    """Text, line numbers and point cells of all rows, which must have `width` columns."""
    u, v = positions
    rows, lines, pairs = [], [], []
    for line, row, cells in records:
        if len(cells) != width:
            if not row.strip():
                raise PointsError(f"{name} row {line} is blank; delete it")
            raise PointsError(f"{name} row {line} has {len(cells)} columns, expected {width} as in row 1")
        rows.append(row)
        lines.append(line)
        pairs.append((cells[u], cells[v]))
    return rows, lines, pairs


def _numbers(
    pairs: Sequence[tuple[str, str]], lines: Sequence[int], columns: Sequence[str], name: str
) -> NDArray[np.float64]:
    """The points [K, 2]."""
    try:
        values = np.array([float(cell) for pair in pairs for cell in pair]).reshape(-1, 2)
        if np.isfinite(values).all() and not any("_" in cell for pair in pairs for cell in pair):
            return values
    except ValueError:
        pass
    for line, pair in zip(lines, pairs, strict=True):
        for column, cell in zip(columns, pair, strict=True):
            _check_number(cell, f"{name} row {line}: column {column} is")
    raise AssertionError("one of the cells is not a number")


def _check_number(cell: str, where: str) -> None:
    if not cell.strip():
        raise PointsError(f"{where} blank; give a number of pixels")
    try:
        fine = math.isfinite(float(cell)) and "_" not in cell  # Python reads 1_000 as 1000
    except ValueError:
        fine = False
    if not fine:
        raise PointsError(f"{where} {cell[:40]!r}, expected a finite number of pixels such as 320.5")
