"""Rooms as a data set without end."""

from __future__ import annotations

import numpy as np

from spd.data.pairs import Pair
from spd.data.rooms.render import render_room
from spd.preprocess import Letterbox

ROOMS = 1_000_000_000
"""Rooms of each split; far more than anybody renders, so that no room is seen twice."""

SHAPES = ((4, 3), (4, 3), (5, 4), (5, 4), (3, 2), (16, 9), (3, 4))
"""Width and height of what cameras take, in the shares that rooms of varied shape have: Kinect's and the paper's most.

A network that was shown no padding reads metres off a letterboxed photo as if its focal length were that of one that
fills the image: 0.94 of it for 5:4 in 4:3, so that all of it looks further away.
"""


class RoomPairs:
    """Rendered rooms with exact depth, made anew each time they are read. See `Pairs`."""

    rendered = True

    def __init__(
        self, height: int, width: int, *, test: bool = False, holes: bool = False, varied: bool = False
    ) -> None:
        """Rooms of height x width pixels.

        Args:
            height: of the images in pixels.
            width: of the images in pixels.
            test: take rooms that are never trained on.
            holes: as in `render_room`.
            varied: instead of all of one shape, each room of one of `SHAPES`, as large as height x width can show it.
        """
        self.title = f"rooms, {'test' if test else 'train'}"
        self.description = ""
        self.size = (height, width)
        self.first_seed = ROOMS if test else 0
        self.holes = holes
        self.varied = varied

    def __len__(self) -> int:
        """How many rooms there are."""
        return ROOMS

    def __getitem__(self, index: int) -> Pair:
        """Render room number `index`."""
        if not 0 <= index < ROOMS:
            raise IndexError(f"there is no room {index}; they are numbered from 0 to {ROOMS - 1}")
        seed = self.first_seed + index
        room = render_room(seed, *self._size(seed), holes=self.holes)
        return Pair(room.image, room.depth, f"room {seed}")

    def _size(self, seed: int) -> tuple[int, int]:
        """Height and width of a room's image in pixels."""
        if not self.varied:
            return self.size
        height, width = self.size
        shape = SHAPES[int(np.random.default_rng([seed, 3]).integers(len(SHAPES)))]
        shown = Letterbox.fit(*shape, width, height)
        return shown.resized_height, shown.resized_width
