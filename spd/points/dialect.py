"""How the cells of a CSV are told apart: spreadsheets and numpy write several dialects."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

POINT_COLUMNS = (("u", "v"), ("x", "y"))
"""Names of the two point columns, in order of preference, whatever their case."""
BLANK = " "
DELIMITERS = (",", ";", "\t", "|", BLANK)
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Dialect:
    """What separates the cells of a row; quotes work as in RFC 4180."""

    delimiter: str = ","
    """One character; a blank stands for any number of blanks."""
    skips_blanks: bool = False
    """Whether blanks before a cell are not part of it, as in `u, "v"`."""

    def cells(self, row: str) -> list[str]:
        """The cells of a row as text.

        Raises:
            csv.Error: its quotes do not match.
        """
        if '"' in row:
            return self._trimmed(row, next(self._reader([row])))
        return self._cells_without_quotes(row)

    def records(self, text: str, first_line: int) -> Iterator[tuple[int, str, list[str]]]:
        """Line number, text and cells of each record; a quoted cell may run over several lines.

        Args:
            text: whole lines.
            first_line: the number of the first of them.

        Raises:
            QuoteError: the quotes of a record do not match.
        """
        lines = io.StringIO(text, newline="")  # splits at \n, \r and \r\n only, and keeps them
        if '"' not in text:
            for number, line in enumerate(lines, start=first_line):
                row = line.rstrip("\r\n")
                yield number, row, self._cells_without_quotes(row)
            return
        texts = list(lines)
        reader = self._reader(texts)
        start = 0
        try:
            for cells in reader:
                row = "".join(texts[start : reader.line_num]).rstrip("\r\n")
                yield start + first_line, row, self._trimmed(row, cells)
                start = reader.line_num
        except csv.Error as error:
            raise QuoteError(start + first_line, str(error)) from error

    def quoted(self, text: str) -> str:
        """A cell with this text, as it is written."""
        file = io.StringIO()
        csv.writer(file, delimiter=self.delimiter, lineterminator="").writerow([text])
        return file.getvalue()

    def _cells_without_quotes(self, row: str) -> list[str]:
        cells = row.split(self.delimiter)
        return [cell for cell in cells if cell] if self.delimiter == BLANK else cells

    def _reader(self, lines: Sequence[str]) -> Any:
        return csv.reader(lines, delimiter=self.delimiter, skipinitialspace=self.skips_blanks, strict=True)

    def _trimmed(self, row: str, cells: list[str]) -> list[str]:
        """Without the empty cell that the reader finds after blanks at the end."""
        return cells[:-1] if self.delimiter == BLANK and row.endswith(BLANK) and not cells[-1] else cells


COMMAS = Dialect()


class QuoteError(Exception):
    """The quotes of a record do not match."""

    def __init__(self, line: int, reason: str) -> None:
        """Give the line where the record begins, and the reason."""
        super().__init__(reason)
        self.line = line


def find_dialect(first: str, text: str, delimiter: str | None = None) -> Dialect:
    """The dialect of a CSV.

    Args:
        first: its header, or its first row where it has none.
        text: all of it.
        delimiter: what it says of itself, if it does.
    """
    delimiter = delimiter or _delimiter(first)
    return Dialect(delimiter, delimiter == BLANK or _has_blanks_before_quotes(text, delimiter))


def point_columns(cells: Sequence[str]) -> tuple[int, int] | None:
    """Positions of the point columns among the names of a header; None if they are not there."""
    names = [cell.strip().casefold() for cell in cells]
    for u, v in POINT_COLUMNS:
        if u in names and v in names:
            return names.index(u), names.index(v)
    return None


def names_points(line: str) -> bool:
    """Whether a line is a header with the point columns, in any dialect."""
    return any(map(point_columns, _cells_by_delimiter(line).values()))


def _cells_by_delimiter(line: str) -> dict[str, list[str]]:
    """The cells of a line for each delimiter, as if none held a delimiter."""
    return {d: [cell.strip().strip('"') for cell in line.split(d) if d != BLANK or cell] for d in DELIMITERS}


def _delimiter(first: str) -> str:
    """What separates the names of the point columns, or two numbers, or else what there is most of."""
    by_delimiter = _cells_by_delimiter(first)
    for delimiter, cells in by_delimiter.items():
        if point_columns(cells):
            return delimiter
    for delimiter, cells in by_delimiter.items():
        numbers = [cell for cell in cells if cell]  # there may be a delimiter at the end
        if len(numbers) == 2 and all(map(_looks_like_a_number, numbers)):
            return delimiter
    most = max(DELIMITERS[:-1], key=first.count)
    return most if most in first else BLANK


def _looks_like_a_number(cell: str) -> bool:
    """Whether a cell is a number, maybe with a decimal comma."""
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True


def _has_blanks_before_quotes(text: str, delimiter: str) -> bool:
    """Whether a quoted cell follows blanks; quotes within a quoted cell do not count."""
    if '"' not in text:
        return False
    opening = re.compile(rf'(?:\A|[\r\n]|{re.escape(delimiter)}) +"')
    return opening.search(text) is not None and opening.search(re.sub('"[^"]*"', '""', text)) is not None
