"""Rooms as a data set without end."""

from __future__ import annotations

from spd.data.pairs import Pair
from spd.data.rooms.render import render_room

ROOMS = 1_000_000_000
"""Rooms of each split; far more than anybody renders, so that no room is seen twice."""


class RoomPairs:
    """Rendered rooms with exact depth, made anew each time they are read. See `Pairs`."""

    rendered = True

    def __init__(self, height: int, width: int, *, test: bool = False, holes: bool = False) -> None:
        """Rooms of height x width pixels; `test` takes those never trained on, `holes` as in `render_room`."""
        self.title = f"rooms, {'test' if test else 'train'}"
        self.description = ""
        self.size = (height, width)
        self.first_seed = ROOMS if test else 0
        self.holes = holes

    def __len__(self) -> int:
        """How many rooms there are."""
        return ROOMS

    def __getitem__(self, index: int) -> Pair:
        """Render room number `index`."""
        if not 0 <= index < ROOMS:
            raise IndexError(f"there is no room {index}; they are numbered from 0 to {ROOMS - 1}")
        seed = self.first_seed + index
        room = render_room(seed, *self.size, holes=self.holes)
        return Pair(room.image, room.depth, f"room {seed}")
