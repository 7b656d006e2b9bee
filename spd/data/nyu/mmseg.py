"""The layout that mmsegmentation's converter makes of the BTS one.

    images/{train,test}/<scene>_00045.jpg
    annotations/{train,test}/<scene>_00045.png      16-bit in millimetres

Which pairs are in a split was decided when it was made; all that are there are taken.
"""

from __future__ import annotations

from pathlib import Path

from spd.data.nyu.files import FileReader, Names, file_names, is_data, present
from spd.data.nyu.frame import Found, Split

LAYOUT = "mmsegmentation layout"


def find(folder: Path, split: Split) -> Found[Names] | None:
    """A split in this layout, None if the folder has none.

    Raises:
        DataError: no image has depth.
    """
    images, depths = f"images/{split}", f"annotations/{split}"
    if not ((folder / images).is_dir() and (folder / depths).is_dir()):
        return None
    stems = [name.removesuffix(".jpg") for name in file_names(folder / images) if is_data(name, ".jpg")]
    listed = [(f"{images}/{stem}.jpg", f"{depths}/{stem}.png") for stem in stems]
    pairs, notes = present(folder, listed, str(folder / images))
    return Found(LAYOUT, folder, pairs, FileReader(folder), len(listed) - len(pairs), notes)
