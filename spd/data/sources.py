"""From what a user writes after `--data` to a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from spd.data.pairs import Pairs

ROOMS = "rooms"
"""The name that stands for the procedural rooms instead of a folder."""

Split = Literal["train", "test"]


def open_pairs(
    data: str, split: Split, size: tuple[int, int] = (256, 320), *, varied: bool = False, holes: bool = False
) -> Pairs:
    """Open a data set.

    Args:
        data: "rooms", or a path to NYU Depth V2 in one of the layouts of `spd.data.nyu.dataset`.
        split: train or test.
        size: height and width in pixels that rooms are rendered at; pairs on disk have their own.
        varied: render rooms in the shapes of photos instead, as large as they fit into `size`.
        holes: measure rooms as a structured-light sensor does, see `render_room`.

    Raises:
        DataError: there is nothing at the path, or nothing that is known.
    """
    if data == ROOMS:
        from spd.data.rooms.pairs import RoomPairs  # not needed for data on disk

        return RoomPairs(*size, test=split == "test", varied=varied, holes=holes)
    from spd.data.nyu import open_nyu  # needs h5py and scipy

    return open_nyu(data, split)
