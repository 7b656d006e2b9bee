"""metrics.csv: one row for each mean of the training loss and for each validation.

People open it in a spreadsheet and save it, which may add a byte order mark and columns, and change separators, decimal
points, quotes and line ends. All of that is read.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spd.files import write_atomically

METRICS = "metrics.csv"
MEANS = ("loss", "lr", "images_per_s", "skipped")
"""`loss` and `images_per_s` are means since the row before, `skipped` counts from the first step on."""
VALIDATED = ("abs_rel", "rmse", "delta1")
"""Results of a validation, in rows of their own."""
COLUMNS = ("step", *MEANS, *VALIDATED)


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|[+-]?inf", re.IGNORECASE)


class MetricsFile:
    """The file of a run that goes on after some step."""

    def __init__(self, folder: Path, step: int, say: Callable[[str], None]) -> None:
        """Keep the rows up to `step`; those of later steps are computed again.

        Columns that somebody added are kept after the others. Where something is not understood, the file as it was is
        kept under another name.

        Args:
            folder: of the run.
            step: steps done.
            say: is told in a line of a file that was kept.
        """
        self._path = folder / METRICS
        table = _read(self._path.read_bytes(), step) if self._path.exists() else _Table()
        if table.problem:
            kept = _free_name(self._path)
            shutil.copyfile(self._path, kept)
            say(f"{self._path}: {table.problem}; the file as it was is kept as {kept.name}")
        self._added = [""] * len(table.added)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *table.added])
        writer.writerows(table.rows)
        with write_atomically(self._path) as out:
            out.write(text.getvalue().encode())

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Write a row with values of some of the `COLUMNS`."""
        row = {"step": step, **values}
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow([*(row.get(name, "") for name in COLUMNS), *self._added])


@dataclass
class _Table:
    """What a file says."""

    added: list[str] = field(default_factory=list)
    """Names of the columns besides `COLUMNS`."""
    rows: list[list[str]] = field(default_factory=list)
    """Values of `COLUMNS`, then of the others."""
    problem: str = ""
    """The first thing that is not understood."""


def _read(content: bytes, last: int) -> _Table:
    """The rows up to step `last`."""
    lines = list(io.StringIO(_text(content), newline=""))
    lines = list(itertools.dropwhile(lambda line: not line.strip() or line.lower().startswith("sep="), lines))
    if not lines:
        return _Table()
    for separator in ",;\t":
        try:
            heading, *rows = csv.reader(lines, delimiter=separator)
        except csv.Error as error:
            return _Table(problem=f"is not a CSV file ({error})")
        names = [name.strip() for name in heading]
        if "step" in names:
            return _table(names, rows, last, decimal_comma=separator != ",")
    return _Table(problem="has no column step")


def _text(content: bytes) -> str:
    """The text in one of the encodings that spreadsheets write."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _table(names: list[str], rows: list[list[str]], last: int, *, decimal_comma: bool) -> _Table:
    """Sort the columns: those of a run first. A spreadsheet may leave out empty cells at the end of a row."""
    width = max(map(len, [names, *rows]))
    names = names + [""] * (width - len(names))
    padded = [row + [""] * (width - len(row)) for row in rows]
    own = [names.index(name) if name in names else None for name in COLUMNS]
    others = [place for place in range(width) if place not in own and any(row[place] for row in [names, *padded])]
    table = _Table([names[place] for place in others])
    for number, row in enumerate(padded, 1):
        values = ["" if place is None else _plain(row[place], decimal_comma) for place in own]
        if not any(row) or (values[0].isdecimal() and int(values[0]) > last):
            continue
        if _is_of_a_run(values, own):
            table.rows.append([*values, *(row[place] for place in others)])
        elif not table.problem:
            table.problem = f"row {number} is not understood ({', '.join(row)[:60]!a})"
    return table


def _plain(value: str, decimal_comma: bool) -> str:
    """A number as Python writes it, as far as a spreadsheet or pandas changed that."""
    value = value.strip()
    return value.replace(",", ".") if decimal_comma else value


def _is_of_a_run(values: Sequence[str], own: Sequence[int | None]) -> bool:
    """Whether a row has a step and all means or all results of a validation, as far as there are columns for them."""
    step, *numbers = values
    if not step.isdecimal() or not all(NUMBER.fullmatch(number) for number in numbers if number):
        return False
    filled = {name for name, value in zip(COLUMNS, values, strict=True) if value}
    present = {name for name, place in zip(COLUMNS, own, strict=True) if place is not None}
    parts = [present.intersection(part) for part in (MEANS, VALIDATED)]
    return any(part and part <= filled for part in parts) or not any(parts)


def _free_name(path: Path) -> Path:
    """Where to keep a file, beside it: metrics.old.csv, metrics.old2.csv, ..."""
    names = (path.with_name(f"{path.stem}.old{number}{path.suffix}") for number in ("", *range(2, 1000)))
    return next(name for name in names if not name.exists())
