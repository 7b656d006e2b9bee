"""Query points from CSV files: what is read, and how the rest is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd.errors import PointsError
from spd.points import PointTable, parse_points, read_points


def parse(text: str) -> PointTable:
    return parse_points(text.encode(), "pts.csv")


@pytest.mark.parametrize(
    "text",
    [
        "u,v\n1.5,2\n300,4e1\n",
        "u,v\n1.5,2\n300,4e1",
        "u,v\n1.5,2\n300,4e1\n\n\r\n",
        "\ufeffu,v\r\n1.5,2\r\n300,4e1\r\n",
        "u;v\n1.5;2\n300;4e1\n",
        "u\tv\n1.5\t2\n300\t4e1\n",
        "u,v\r1.5,2\r300,4e1\r",
        " U , V \n 1.5 , 2 \n 300,4e1\n",
        "X,Y\n1.5,2\n300,4e1\n",
        '"u","v"\n"1.5","2"\n"300",4e1\n',
        "v,label,u\n2,a,1.5\n4e1,b,300\n",
        "x,y,u,v\n9,9,1.5,2\n9,9,300,4e1\n",
        '"name, long";u;v\n"a; b";1.5;2\n"c\nd";300;4e1\n',
        "1.5,2\n300,4e1\n",
        "1.5;2\n300;4e1\n",
        "\ufeff1.5\t2\n300\t4e1\n",
    ],
)
def test_dialects(text: str) -> None:
    np.testing.assert_array_equal(parse(text).points, [[1.5, 2], [300, 40]])


def test_what_a_table_keeps() -> None:
    table = parse('u; label ;v\r\n1;"a ""b""\r\nc";2\r\n3;;4\r\n')
    assert table.head == "u; label ;v"
    assert table.columns == ("u", "label", "v")
    assert list(table.rows) == ['1;"a ""b""\r\nc";2', "3;;4"]
    assert table.lines.tolist() == [2, 4]
    assert list(table.cells()) == [["1", 'a "b"\r\nc', "2"], ["3", "", "4"]]
    assert table.newline == "\r\n"
    assert parse("1;2\n").head == "u;v"


@pytest.mark.parametrize("text", ["u,v\n", "u,v", "a,v,u\r\n", "image,u,v\n"])
def test_header_only_is_no_points(text: str) -> None:
    table = parse(text)
    assert table.points.shape == (0, 2)
    assert table.points.dtype == np.float64
    assert len(table.rows) == 0


REFUSED = {
    "empty": ("", "pts.csv is empty"),
    "blank": ("\n \n", "pts.csv is empty"),
    "byte order mark only": ("\ufeff", "pts.csv is empty"),
    "no such columns": ("a,b\n1,2\n", r"row 1 \('a,b'\) has no columns u,v or x,y"),
    "half the columns": ("u,y\n1,2\n", "has no columns u,v"),
    "three numbers, no header": ("1,2,3\n", "has 3 columns and no header"),
    "one number, no header": ("1\n", "has 1 columns and no header"),
    "u twice": ("u,v,U\n1,2,3\n", "row 1 has 2 columns called 'u'"),
    "another column twice": ("u,v,a,a\n1,2,3,4\n", "row 1 has 2 columns called 'a'"),
    "text": ("u,v\n1,2\n3,abc\n", "row 3: column v is 'abc'"),
    "text in the first bad row": ("u,v\n1,abc\nxyz,4\n", "row 2: column v is 'abc'"),
    "decimal comma": ("u;v\n1,5;2\n", "row 2: column u is '1,5', with a decimal comma; write 1.5"),
    "decimal comma in quotes": ('u,v\n1,"-2,50"\n', "row 2: column v is '-2,50', with a decimal comma; write -2.50"),
    "decimal comma, no header": ("1,5;2,5\n", "row 1: column u is '1,5', with a decimal comma"),
    "decimal comma after sep=": ("sep=;\nu;v\n1;2\n1;5,25\n", "row 4: column v is '5,25', with a decimal comma"),
    "comments only": ("# a\n# b\n", "holds comments only"),
    "comments without a header": ("# made by\n1,2,3\n", "row 2 .* has 3 columns and no header"),
    "quote in the header": ('# "u,v\n1,2\n', "row 1 cannot be split into cells"),
    "content beyond the header": ("u,v,\n1,2,,3\n", "row 2 has 4 columns, expected 3"),
    "two columns without a name": ("u,v,,\n1,2,,3\n", "row 1 has 2 columns called ''"),
    "three numbers and blanks": ("1 2 3\n", "has 3 columns and no header"),
    "underscore": ("u,v\n1_000,2\n", "row 2: column u is '1_000'"),
    "NaN": ("u,v\n1,2\n3,4\nnan,1\n", "row 4: column u is 'nan'"),
    "NaN, no header": ("1,2\nnan,1\n", "row 2: column u is 'nan'"),
    "infinity": ("x,y\n1,-inf\n", "row 2: column y is '-inf'"),
    "overflow": ("x,y\n1,1e999\n", "row 2: column y is '1e999'"),
    "blank cell": ("u,v\n1,\n", "row 2: column v is blank"),
    "too few": ("u,v\n1,2\n1\n", "row 3 has 1 columns, expected 2"),
    "too many": ("u,v\n1,2,3\n", "row 2 has 3 columns, expected 2"),
    "blank line between": ("u,v\n1,2\n\n3,4\n", "row 3 is blank"),
    "blank line between, quotes": ('u,v\n1,"2"\n\n3,4\n', "row 3 is blank"),
    "quote not closed": ('u,v,a\n1,2,"x\n3,4,y\n', "row 2 cannot be split into cells"),
    "text after a quote": ('u,v\n1,"2"3\n', "row 2 cannot be split into cells"),
    "after a cell of two lines": ('u,v,a\n1,2,"x\ny"\n3,z,b\n', "row 4: column v is 'z'"),
}


@pytest.mark.parametrize(("text", "fragment"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str, fragment: str) -> None:
    with pytest.raises(PointsError, match=fragment) as caught:
        parse(text)
    assert str(caught.value).startswith("pts.csv ")
    assert "\n" not in str(caught.value)


def test_not_utf_8() -> None:
    with pytest.raises(PointsError, match="row 3: byte 0xe9 is not UTF-8"):
        parse_points("u,v,name\n1,2,a\n3,4,caf\xe9\n".encode("latin-1"), "pts.csv")


def test_images_column() -> None:
    assert parse("u,Image,v\n1, a.png ,2\n").images() == ["a.png"]
    assert parse("u,v\n1,2\n").images() is None
    with pytest.raises(PointsError, match="row 3: column image is blank"):
        parse("u,v,image\n1,2,a.png\n1,2, \n").images()


def test_files_and_stdin(tmp_path: Path) -> None:
    path = tmp_path / "pts.csv"
    path.write_text("u,v\n1,2\n")
    table = read_points(str(path))
    assert isinstance(table, PointTable)
    assert table.name == str(path)
    table = read_points("-", io.BytesIO(b"1,2\n"))
    assert isinstance(table, PointTable)
    assert table.name == "standard input"
    for name, fragment in {"none.csv": "does not exist", ".": "is a folder", "a\0b": "cannot be read"}.items():
        with pytest.raises(PointsError, match=fragment):
            read_points(str(tmp_path / name))
    for name, fragment in {"": "'' is a folder", "https://host/pts.csv": "is an address, .* curl https:"}.items():
        with pytest.raises(PointsError, match=fragment):
            read_points(name)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def cell(text: str, always: bool) -> str:
    """One cell as RFC 4180 writes it."""
    return '"' + text.replace('"', '""') + '"' if always or set(text) & set('",;\t\r\n') else text


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), CELLS, CELLS), max_size=8),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_carried_cells_survive(
    rows: list[tuple[float, float, str, str]], delimiter: str, newline: str, always: bool
) -> None:
    """Quotes, delimiters and line breaks in cells: the cells are read as meant, and every row keeps its text."""
    written = [("note 1", "u", "v", "note, 2"), *((a, repr(u), repr(v), b) for u, v, a, b in rows)]
    text = "".join(delimiter.join(cell(c, always) for c in row) + newline for row in written)
    table = parse(text)
    np.testing.assert_array_equal(table.points, np.array([row[:2] for row in rows]).reshape(-1, 2))
    assert [(cells[0], cells[3]) for cells in table.cells()] == [row[2:] for row in rows]
    assert newline.join([table.head, *table.rows]) + newline == text
