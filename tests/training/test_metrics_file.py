"""metrics.csv when a run goes on: rows survive whatever a spreadsheet made of them, and nothing is lost unsaid."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd.training.metrics_file import COLUMNS, METRICS, MetricsFile

MEANS = {"loss": 0.1234567890123, "lr": 1e-4, "images_per_s": 12.5, "skipped": 3}
VALIDATED = {"abs_rel": 0.25, "rmse": float("nan"), "delta1": 0.75}


def whole(folder: Path) -> list[list[str]]:
    """A file of four steps with a validation after the second, and its rows."""
    folder.mkdir(exist_ok=True)
    file = MetricsFile(folder, 0, pytest.fail)
    for step in (1, 2, 3, 4):
        file.append(step, MEANS)
        if step == 2:
            file.append(step, VALIDATED)
    return rows(folder)


def rows(folder: Path) -> list[list[str]]:
    """Heading and rows."""
    with (folder / METRICS).open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def saved(table: list[list[str]], separator: str = ",", line_end: str = "\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=line_end, quoting=quoting).writerows(table)
    return text.getvalue()


def test_a_file_that_nobody_changed_stays(tmp_path: Path) -> None:
    whole(tmp_path)
    before = (tmp_path / METRICS).read_bytes()
    MetricsFile(tmp_path, 4, pytest.fail)
    assert (tmp_path / METRICS).read_bytes() == before


def test_rows_after_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
    table = whole(tmp_path)
    with (tmp_path / METRICS).open("a") as file:
        file.write("4,0.")  # cut off where the run was killed
    MetricsFile(tmp_path, 3, pytest.fail).append(4, MEANS)
    assert rows(tmp_path) == table


@settings(deadline=None, max_examples=60)
@given(
    separator=st.sampled_from(",;\t"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    place=st.integers(0, len(COLUMNS)),
    first=st.sampled_from(["", "sep=", "\n"]),
    trimmed=st.booleans(),
    comma=st.booleans(),
)
def test_saved_by_a_spreadsheet(
    tmp_path_factory: pytest.TempPathFactory,
    separator: str,
    line_end: str,
    quoting: int,
    encoding: str,
    place: int,
    first: str,
    trimmed: bool,
    comma: bool,
) -> None:
    """With a column of notes somewhere, and empty cells trimmed at the ends of rows."""
    folder = tmp_path_factory.mktemp("run")
    table = whole(folder)
    notes = ["R\xfcckfrage; a, b", "", 'says "no"', "", "", ""]
    changed = []
    for note, row in zip(notes, table, strict=True):
        cells = [cell.replace(".", ",") for cell in row] if comma and separator != "," else list(row)
        cells.insert(place, note)
        while trimmed and not cells[-1]:
            del cells[-1]
        changed.append(cells)
    head = f"sep={separator}{line_end}" if first == "sep=" else first
    (folder / METRICS).write_bytes((head + saved(changed, separator, line_end, quoting)).encode(encoding))
    MetricsFile(folder, 4, pytest.fail).append(5, MEANS)
    *kept, added = rows(folder)
    assert kept == [[*row, note] for note, row in zip(notes, table, strict=True)]
    assert added == ["5", *map(str, MEANS.values()), "", "", "", ""]
    assert [path.name for path in folder.iterdir()] == [METRICS]


def test_a_column_may_be_gone(tmp_path: Path) -> None:
    table = whole(tmp_path)
    place = COLUMNS.index("lr")
    (tmp_path / METRICS).write_text(saved([row[:place] + row[place + 1 :] for row in table]))
    MetricsFile(tmp_path, 4, pytest.fail)
    assert rows(tmp_path)[1:] == [[*row[:place], "", *row[place + 1 :]] for row in table[1:]]


@pytest.mark.parametrize(
    ("text", "words", "kept"),
    [
        ("something else\n1,2\n", "has no column step", []),
        ("\0\n", "", []),
        ("step,loss\n1,0.5\n2,May 5\n3,0.5\n", "row 2 is not understood ('2, May 5')", ["1", "3"]),
        ("step,loss\n1.000,0.5\n", "row 1 is not understood ('1.000, 0.5')", []),
        ("step,loss\n1,0.5\nmean,0.5\n", "row 2 is not understood ('mean, 0.5')", ["1"]),
        ("step,loss,lr\n1,0.5\n", "row 1", []),
    ],
)
def test_what_is_not_understood_is_kept_aside(tmp_path: Path, text: str, words: str, kept: list[str]) -> None:
    said: list[str] = []
    for number in range(2):
        (tmp_path / METRICS).write_text(text)
        MetricsFile(tmp_path, 9, said.append)
        assert [row[0] for row in rows(tmp_path)[1:]] == kept
        name = ("metrics.old.csv", "metrics.old2.csv")[number]
        assert (tmp_path / name).read_text() == text
        assert words in said[number]
        assert said[number].endswith(f"is kept as {name}")
        assert "\n" not in said[number]


@pytest.mark.parametrize("text", ["", "\n", "\ufeff"])
def test_an_empty_file_is_no_loss(tmp_path: Path, text: str) -> None:
    (tmp_path / METRICS).write_text(text, encoding="utf-8")
    MetricsFile(tmp_path, 9, pytest.fail)
    assert rows(tmp_path) == [[*COLUMNS]]


@settings(deadline=None, max_examples=60)
@given(content=st.binary(max_size=200) | st.text('step,;los0123456789."\n', max_size=200).map(str.encode))
def test_any_file_is_read_or_kept(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / METRICS).write_bytes(content)
    said: list[str] = []
    MetricsFile(folder, 10**12, said.append)
    assert rows(folder)[0][: len(COLUMNS)] == [*COLUMNS]
    assert [path.read_bytes() for path in folder.glob("metrics.old*")] == [content] * len(said)
