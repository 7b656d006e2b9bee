"""CSV as spreadsheets and numpy write it is read to the same points, and what is no CSV is named."""

from __future__ import annotations

import csv
import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spd.errors import PointsError
from spd.points import PointTable, parse_points


def parse(text: str) -> PointTable:
    return parse_points(text.encode(), "pts.csv")


READ = {
    "sep line": "sep=;\r\nu;v\r\n1.5;2\r\n300;4e1\r\n",
    "sep line, quoted": '"sep=,"\nu,v\n1.5,2\n300,4e1\n',
    "sep line, tab": "sep=\t\nu\tv\n1.5\t2\n300\t4e1\n",
    "sep line, unusual": "SEP=^\nu^v\n1.5^2\n300^4e1\n",
    "sep line, no header": "sep=;\n1.5;2\n300;4e1\n",
    "numpy header": "# u,v\n1.5,2\n300,4e1\n",
    "numpy header of two lines": "# made by numpy\n# u v\n1.5 2\n300 4e1\n",
    "comment after the header": "# u,v\n# pixels\n1.5,2\n300,4e1\n",
    "comment with a quote": '# 5" wide\nu,v\n1.5,2\n300,4e1\n',
    "comment, no header": "# clicked by hand, twice\n1.5,2\n300,4e1\n",
    "numpy footer": "# u,v\n1.5,2\n300,4e1\n# end\n#\n",
    "hash without a blank": "#u;v\n1.5;2\n300;4e1\n",
    "column called #": "#,u,v\n1,1.5,2\n2,300,4e1\n",
    "names in quotes after blanks": 'u, "v"\n1.5, 2\n300, 4e1\n',
    "cells in quotes after blanks": 'u,  "v", "a, b"\n1.5, "2", "c, d"\n 300,  "4e1", ""\n',
    "blanks": "u v\n1.5 2\n300 4e1\n",
    "columns of blanks": "  u       v\n  1.5     2  \n300.0  4e1\n",
    "blanks and quotes": '"u" "v" "a b"\n1.5 2 "c d"\n300  4e1 "" \n',
    "blanks, no header": " 1.5   2\n 300 4e1\n",
    "bars": "u|v\n1.5|2\n300|4e1\n",
    "bars, no header": "1.5 | 2\n300 | 4e1\n",
    "doubled byte order mark": "\ufeff\ufeffu,v\n1.5,2\n300,4e1\n",
    "delimiters at the end": "u,v,\n1.5,2,\n300,4e1,\n",
    "several at the end": "u,v,,,\n1.5,2,,,\n300,4e1,,,\n",
    "at the end of rows alone": "u,v\n1.5,2,\n300,4e1, ,\n",
    "at the end of the header alone": "u,v,,\n1.5,2\n300,4e1,\n",
    "at the end, no header": "1.5;2;\n300;4e1;\n",
    "rows of delimiters at the end": "u;v\n1.5;2\n300;4e1\n;\n ; \n;;\n",
    "carriage returns": "sep=,\r# u,v\r1.5,2\r300,4e1\r",
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_read(text: str) -> None:
    np.testing.assert_array_equal(parse(text).points, [[1.5, 2], [300, 40]])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""  # those two write none themselves
    table = parse_points(f"{mark}u\tv\tname\r\n1.5\t2\tTür 房\r\n".encode(encoding), "pts.txt")
    np.testing.assert_array_equal(table.points, [[1.5, 2]])
    assert table.rows == ["1.5\t2\tTür 房"]
    assert table.newline == "\r\n"


def test_what_is_not_carried_along() -> None:
    """The header comes out plain; the rows are the text that came, without delimiters that would shift new columns."""
    table = parse("sep=;\n# by hand\n# id;u;v;;\na b;1;2;\n c ;3;4\n# end\n;;\n")
    assert table.head == "id;u;v"
    assert table.columns == ("id", "u", "v")
    assert table.rows == ["a b;1;2", " c ;3;4"]
    assert table.lines.tolist() == [4, 5]


def test_a_column_without_a_name_is_kept_where_it_has_content() -> None:
    table = parse("u,v,\n1,2\n3,4,note\n5,6,\n")
    assert table.head == "u,v,"
    assert list(table.cells()) == [["1", "2", ""], ["3", "4", "note"], ["5", "6", ""]]


def test_rows_after_a_header_are_never_comments() -> None:
    assert list(parse("name,u,v\n#1,2,3\n#2,4,5\n").cells()) == [["#1", "2", "3"], ["#2", "4", "5"]]


def workbook(*files: tuple[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files:
            archive.writestr(name, text, zipfile.ZIP_STORED if name == "mimetype" else None)
    return data.getvalue()


OLD_EXCEL = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504)
NOT_CSV = {
    "xlsx": (workbook(("[Content_Types].xml", "<Types/>"), ("xl/workbook.xml", "<workbook/>")), "is a workbook"),
    "ods": (workbook(("mimetype", "application/vnd.oasis.opendocument.spreadsheet")), "is a workbook"),
    "xls": (OLD_EXCEL, "is a workbook; export its sheet as CSV"),
    "another archive": (workbook(("points.csv", "u,v\n1,2\n")), "is not a text file"),
    "array": (b"\x93NUMPY\x01\x00v\x00{}", "is not a text file"),
    "UTF-16 without a mark": ("u,v\n1,2\n".encode("utf-16-le"), "is not a text file; .* saved as UTF-8"),
    "UTF-32": ("u,v\n1,2\n".encode("utf-32"), "row 1 .* has no columns|is not a text file"),
    "UTF-16 cut off": ("u,v\n1,2\n".encode("utf-16")[:-1], "begins as UTF-16, but is not"),
}


@pytest.mark.parametrize(("data", "fragment"), NOT_CSV.values(), ids=NOT_CSV)
def test_not_csv(data: bytes, fragment: str) -> None:
    with pytest.raises(PointsError, match=fragment) as caught:
        parse_points(data, "pts.csv")
    assert str(caught.value).isprintable()


PAIRS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=6)
NAMES = st.sampled_from([("u", "v"), ("x", "y"), ("U", "V")])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
NOTES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(deadline=None)
@given(
    pairs=PAIRS,
    notes=st.lists(NOTES, min_size=6, max_size=6),
    names=NAMES,
    dialect=st.fixed_dictionaries(
        {
            "delimiter": st.sampled_from(",;\t| "),
            "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
            "lineterminator": ENDS,
        }
    ),
    before=st.sampled_from(["", "\ufeff", "\ufeff\ufeff", "sep="]),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
)
def test_what_csv_writer_writes(
    pairs: list[tuple[float, float]],
    notes: list[str],
    names: tuple[str, str],
    dialect: dict[str, Any],
    before: str,
    encoding: str,
) -> None:
    if dialect["quoting"] == csv.QUOTE_MINIMAL:
        if dialect["lineterminator"] != "\r\n":  # writer leaves the other line end without quotes
            notes = [note.replace("\r", "").replace("\n", "") for note in notes]
        if dialect["delimiter"] == " ":  # where several blanks are one, there is no empty cell without quotes
            notes = [note or "-" for note in notes]
    file = io.StringIO(newline="")
    writer = csv.writer(file, **dialect)
    writer.writerow(["note", *names])
    writer.writerows([note, *pair] for note, pair in zip(notes, pairs, strict=False))
    if before == "sep=":
        before += dialect["delimiter"] + dialect["lineterminator"]
    table = parse_points((before + file.getvalue()).encode(encoding), "pts.csv")
    np.testing.assert_array_equal(table.points, pairs)
    assert [cells[0] for cells in table.cells()] == notes[: len(pairs)]
    assert table.dialect.delimiter == dialect["delimiter"]


@settings(deadline=None)
@given(
    pairs=PAIRS,
    names=st.none() | NAMES,
    delimiter=st.sampled_from([",", ";", "\t", "|", " ", ", "]),
    fmt=st.sampled_from(["%.18e", "%.3f", "%9.2f", "%g"]),
    newline=ENDS,
    comments=st.sampled_from(["# ", "#", ""]),
    footer=st.sampled_from(["", "end", "two\nlines"]),
)
def test_what_savetxt_writes(
    pairs: list[tuple[float, float]],
    names: tuple[str, str] | None,
    delimiter: str,
    fmt: str,
    newline: str,
    comments: str,
    footer: str,
) -> None:
    given_footer = footer if names and comments else ""  # without a # before it, nothing tells that it is one
    file = io.StringIO(newline="")
    header = delimiter.join(names) if names else ""
    array: NDArray[np.float64] = np.array(pairs)
    np.savetxt(file, array, fmt, delimiter, newline, header, given_footer, comments)
    written = np.array([[float(fmt % x) for x in pair] for pair in pairs])
    np.testing.assert_array_equal(parse(file.getvalue()).points, written)


@settings(deadline=None)
@given(
    st.sampled_from(["", "u,v\n", "# u v\n", "sep=;\n", '"u"\tv\ta\n', "x|y|\n"]),
    st.text('uvxy#,;|\t "\n\r1.5-', max_size=30),
)
def test_any_text_is_a_table_or_refused_in_one_line(begin: str, rest: str) -> None:
    refused = ""
    try:
        table = parse(begin + rest)
    except PointsError as error:
        refused = str(error)
    if refused:
        assert len(refused.splitlines()) == 1
        return
    assert np.isfinite(table.points).all()
    for row in (table.head, *table.rows):
        assert len(table.dialect.cells(row)) == len(table.columns)
    points = [[float(cells[position]) for position in table.point_columns] for cells in table.cells()]
    np.testing.assert_array_equal(table.points, np.array(points).reshape(-1, 2))
