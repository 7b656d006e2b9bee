"""Points from the bytes of a CSV.

A CSV has a header with the columns `u,v` or `x,y` (u to the right, v down, pixels of the image as shown; see
`spd.bundle.contract`), or no header and two columns. An `image` column says which image a row asks about. All other
columns are carried along: a table keeps the text of every row as it came, so that what is written is what was read.

Commas, semicolons, tabs, bars or blanks separate; quotes work as in RFC 4180. These are read, and not carried along: a
byte order mark, a first line such as `sep=;`, lines before the first row that begin with `#` (the header may be one of
them), lines at the end that begin so where there are some at the beginning, and delimiters at the end of rows.

Row numbers in messages are line numbers as an editor shows them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from spd.errors import PointsError
from spd.points.decoding import decode
from spd.points.dialect import DELIMITERS, Dialect, QuoteError, find_dialect, names_points, point_columns
from spd.points.table import IMAGE_COLUMN, PointTable

LINE_END = re.compile(r"\r\n|\r|\n|\Z")
SEPARATOR = re.compile(r'"?sep=([^\w"\r\n])"?[ \t,;|]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
"""The first line by which a spreadsheet tells another one what separates."""
COMMENTS_AT_THE_END = re.compile(r'(?:[\r\n]+#[^\r\n"]*)+\Z')
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


@dataclass(frozen=True)
class _Body:
    """What follows the lines that are not carried along."""

    text: str
    """All rows, and the header unless it is a comment."""
    first_line: int
    """Line number of its first line."""
    delimiter: str | None
    """What the CSV says separates."""
    header: tuple[int, str] | None
    """Line number and text of the header, where it is a comment."""


def parse_points(data: bytes, name: str) -> PointTable:
    """Read the bytes of a CSV; `name` is what messages call it.

    Raises:
        PointsError: see `read_points`.
    """
    text = decode(data, name)
    body = _body(text)
    line, head = body.header or (body.first_line, body.text[: _line_end(body.text).start()])
    dialect = find_dialect(head, body.text, body.delimiter)
    records = _records(body.text, body.first_line, dialect, name)
    first = next(records if body.header is None else _records(head, line, dialect, name), None)
    if first is None:
        raise PointsError(f"{name} holds comments only; expected a header with the columns u,v and a row per point")
    line, head, cells = first
    positions = point_columns(cells)
    if positions is None:
        _check_headerless(cells, f"{name} row {line} ({head[:60]!r})")
        head, cells, positions, records = dialect.delimiter.join("uv"), ["u", "v"], (0, 1), chain([first], records)
    rows = _collect(records, cells, positions, dialect, name)
    columns = tuple(cell.strip() for cell in cells[: rows.width])
    _check_unique(columns, positions, f"{name} row {line}")
    return PointTable(
        name=name,
        head=_cut(head, len(cells) - rows.width, dialect),
        columns=columns,
        rows=rows.texts,
        lines=np.array(rows.lines, dtype=np.int64),
        points=_numbers(rows.pairs, rows.lines, [columns[p] for p in positions], name),
        point_columns=positions,
        dialect=dialect,
        newline="\r\n" if _line_end(text).group() == "\r\n" else "\n",
    )


def _line_end(text: str, start: int = 0) -> re.Match[str]:
    found = LINE_END.search(text, start)
    assert found is not None, "the end of the text is one"
    return found


def _body(text: str) -> _Body:
    """Leave out a `sep=` line and comments."""
    start, line, header = 0, 1, None
    separator = SEPARATOR.match(text)
    if separator:
        start, line = separator.end(), 2
    begin = start
    while text.startswith("#", start):
        end = _line_end(text, start)
        content = text[start : end.start()].lstrip("#").lstrip(" ")
        if content.startswith(DELIMITERS):  # a column called #
            break
        if names_points(content):
            header = line, content
        start, line = end.end(), line + 1
    rest = text[start:]
    if start > begin:
        rest = COMMENTS_AT_THE_END.sub("", rest)
    return _Body(rest, line, separator and separator[1], header)


def _records(text: str, first_line: int, dialect: Dialect, name: str) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, text and cells of each record."""
    try:
        yield from dialect.records(text, first_line)
    except QuoteError as error:
        raise PointsError(f"{name} row {error.line} cannot be split into cells ({error}); check its quotes") from error


def _check_headerless(cells: Sequence[str], where: str) -> None:
    """A first row that is no header must be a point."""
    while cells and not cells[-1].strip():
        cells = cells[:-1]
    try:
        numbers = len([float(cell.replace(",", ".")) for cell in cells])
    except ValueError:
        numbers = 0
    if numbers == 0:
        raise PointsError(f"{where} has no columns u,v or x,y; name the two columns of pixels u and v")
    if numbers != 2:
        raise PointsError(f"{where} has {numbers} columns and no header; add a header that names two of them u and v")


def _check_unique(columns: Sequence[str], positions: tuple[int, int], where: str) -> None:
    special = {columns[p].casefold() for p in positions} | {IMAGE_COLUMN}
    keys = [column.casefold() if column.casefold() in special else column for column in columns]
    for key in keys:
        if keys.count(key) > 1:
            raise PointsError(f"{where} has {keys.count(key)} columns called {key!r}; rename all but one")


@dataclass(frozen=True)
class _Rows:
    texts: list[str]
    lines: list[int]
    pairs: list[tuple[str, str]]
    """The cells of the point columns."""
    width: int
    """How many columns the rows have."""


def _collect(
    records: Iterator[tuple[int, str, list[str]]],
    header: Sequence[str],
    positions: tuple[int, int],
    dialect: Dialect,
    name: str,
) -> _Rows:
    """Bring all rows to the width of the header.

    Delimiters at the end of a row or of the header are left out, unless there is content between them.
    """
    named, u, v = _width(header), *positions
    texts, lines, pairs = [], [], []
    width = named
    for line, row, cells in records:
        count, text = len(cells), row
        if count != named:  # not for every row of a large file
            if count > named and _width(cells) <= named:
                text = _cut(row, count - named, dialect)
            elif count == len(header):
                width = count
            elif row.strip():
                raise PointsError(f"{name} row {line} has {count} columns, expected {len(header)} as in the first row")
            else:
                raise PointsError(f"{name} row {line} is blank; delete it")
        texts.append(text)
        lines.append(line)
        pairs.append((cells[u], cells[v]))
    if width > named:
        end = dialect.delimiter * (width - named)
        texts = [text if len(dialect.cells(text)) == width else text + end for text in texts]
    return _Rows(texts, lines, pairs, width)


def _width(cells: Sequence[str]) -> int:
    """Number of cells up to the last one that is not blank."""
    return next((count for count in range(len(cells), 0, -1) if cells[count - 1].strip()), 0)


def _cut(row: str, count: int, dialect: Dialect) -> str:
    """A row without its last cells, which are blank."""
    for _ in range(count):
        row = row[: row.rindex(dialect.delimiter)]
    return row


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
    if DECIMAL_COMMA.fullmatch(cell):
        number = cell.strip().replace(",", ".")
        raise PointsError(f"{where} {cell[:40]!r}, with a decimal comma; write {number[:40]}, also in all other rows")
    try:
        fine = math.isfinite(float(cell)) and "_" not in cell  # Python reads 1_000 as 1000
    except ValueError:
        fine = False
    if not fine:
        raise PointsError(f"{where} {cell[:40]!r}, expected a finite number of pixels such as 320.5")
