"""The layout of DenseDepth's nyu_data.zip, unpacked.

    data/nyu2_train.csv, data/nyu2_test.csv                      lines `image,depth`, below the folder that holds data/
    data/nyu2_train/<scene>_out/37.jpg, 37.png                   depth in 8 bits, v / 255 * 10 metres
    data/nyu2_test/00000_colors.png, 00000_depth.png             depth in 16 bits, millimetres

Which of the two encodings a PNG has is told by its bit depth, never by its folder. Depth is filled everywhere.
"""

from __future__ import annotations

from pathlib import Path

from spd.data.nyu.files import FileReader, Names, present, read_lines
from spd.data.nyu.frame import Found, Split
from spd.errors import DataError

LAYOUT = "DenseDepth layout"
FILLED = "depth was filled in where nothing was measured: scores do not compare with those on measured depth"


def find(folder: Path, split: Split) -> Found[Names] | None:
    """A split in this layout, None if the folder has no CSV file of it.

    Names in the CSV start with `data/`, which is taken for the CSV's own folder unless that has a folder `data` itself.

    Raises:
        DataError: the CSV is broken, or no pair is there.
    """
    name = f"nyu2_{split}.csv"
    path = next((path for path in (folder / "data" / name, folder / name) if path.is_file()), None)
    if path is None:
        return None
    root, listed = path.parent, read_csv(path)
    if not (root / "data").is_dir():
        listed = [(image.removeprefix("data/"), depth.removeprefix("data/")) for image, depth in listed]
    pairs, missing = present(root, listed, str(path))
    notes = (f"pairs of {path}", FILLED, *missing)
    return Found(LAYOUT, root, pairs, FileReader(root, eight_bit=True), len(listed) - len(pairs), notes)


def read_csv(path: Path) -> list[Names]:
    """The pairs that a CSV file names.

    Raises:
        DataError: it cannot be read, a line does not have two columns, or it is empty.
    """
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        columns = [column.strip().lstrip("/") for column in line.split(",")]
        if len(columns) == 2 and all(columns):
            pairs.append((columns[0], columns[1]))
        elif line:
            raise DataError(f"{path} line {number} is {line!r}, expected an image and its depth with a comma between")
    if not pairs:
        raise DataError(f"{path} names no pairs, expected lines like 'data/nyu2_train/a_out/1.jpg,data/...1.png'")
    return pairs
