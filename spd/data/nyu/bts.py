"""The layout of BTS, which AdaBins, ZoeDepth, NeWCRFs and others share.

    sync/<scene>/rgb_00045.jpg, sync_depth_00045.png                                training
    official_splits/{train,test}/<kind of scene>/rgb_00045.jpg, sync_depth_...png    the labelled images
    nyudepthv2_{train,test}_files_with_gt.txt                                       which of them, and their order

Depth is what was measured, 16-bit in millimetres with holes of 0. A line of a list names the image, its depth and the
focal length, below `sync` or `official_splits/test`; the training list's names start with a slash that means nothing.
The longer list `..._with_gt_dense.txt` names filled depth instead of the focal length; it is not read here.
"""

from __future__ import annotations

from pathlib import Path

from spd.data.nyu.files import FileReader, Names, file_names, present, read_lines
from spd.data.nyu.frame import Found, Split
from spd.errors import DataError

LAYOUT = "BTS layout"
ROOTS: dict[Split, tuple[str, ...]] = {"train": ("sync", "official_splits/train"), "test": ("official_splits/test",)}
"""Folders of a split, best first."""

LIST_FOLDERS = ("", "train_test_inputs", "data_splits", "splits")
"""Where list files are looked for, in the data set's folder and in the one above."""


def find(folder: Path, split: Split) -> Found[Names] | None:
    """A split in this layout, None if the folder has none.

    Raises:
        DataError: the list is broken, or no pair is there.
    """
    name = next((name for name in ROOTS[split] if (folder / name).is_dir()), None)
    if name is None:
        return None
    root = folder / name
    path = _list_file(folder, split) if name == ROOTS[split][0] else None
    if path:
        dense = ", whose third column, filled depth, is not read" if path.stem.endswith("_dense") else ""
        listed, note = read_list(path), f"pairs of {path}{dense}"
    else:
        listed = _walk(root)
        usual = f"nyudepthv2_{split}_files_with_gt.txt"
        if name == ROOTS[split][0]:
            note = f"no list of pairs, so all of {root} by name; put {usual} into {folder} for the usual ones"
        else:
            note = f"no {folder / ROOTS[split][0]}, so the labelled images of {root}"
    pairs, missing = present(root, listed, str(path or root))
    return Found(LAYOUT, root, pairs, FileReader(root), len(listed) - len(pairs), (note, *missing))


def read_list(path: Path) -> list[Names]:
    """The pairs that a list file names, without leading slashes.

    Raises:
        DataError: it cannot be read, a line has fewer than two columns, or it is empty.
    """
    lines = enumerate(read_lines(path), start=1)
    pairs = [parse_line(line, f"{path} line {number}") for number, line in lines if line]
    if not pairs:
        raise DataError(f"{path} names no pairs, expected lines like '/scene/rgb_0.jpg /scene/sync_depth_0.png 518.8'")
    return pairs


def parse_line(line: str, where: str) -> Names:
    """Image and depth of a list's line; further columns (focal length or filled depth) are not used.

    Raises:
        DataError: it has fewer than two columns; `where` names it.
    """
    columns = line.split()
    if len(columns) < 2:
        raise DataError(f"{where} is {line!r}, expected an image and its depth with a space between them")
    return columns[0].lstrip("/"), columns[1].lstrip("/")


def _list_file(folder: Path, split: Split) -> Path | None:
    root = folder / ROOTS[split][0]
    places = [above / name for above in (folder, folder.parent) for name in LIST_FOLDERS] + [root, root.parent]
    names = [f"nyudepthv2_{split}_files_with_gt{suffix}.txt" for suffix in ("", "_dense")]
    return next((place / name for name in names for place in places if (place / name).is_file()), None)


def _walk(root: Path) -> list[Names]:
    """Every image in the folders of `root`, with the name that its depth should have; sorted by name."""
    pairs = []
    for scene in file_names(root):
        for name in file_names(root / scene):
            if name.startswith("rgb_") and name.endswith(".jpg"):
                number = name.removeprefix("rgb_").removesuffix(".jpg")
                pairs.append((f"{scene}/{name}", f"{scene}/sync_depth_{number}.png"))
    return pairs
