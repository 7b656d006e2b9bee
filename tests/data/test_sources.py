"""From `--data` to a data set, and rooms as one."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from nyu_support import millimetres, picture, save

from spd.data.rooms import RoomPairs, render_room
from spd.data.rooms.pairs import ROOMS as COUNT
from spd.data.sources import ROOMS, open_pairs
from spd.errors import DataError


def test_rooms() -> None:
    train, test = (open_pairs(ROOMS, split, (64, 96)) for split in ("train", "test"))
    assert (len(train), train.title, test.title) == (COUNT, "rooms, train", "rooms, test")
    room, pair, other = render_room(7, 64, 96), train[7], test[7]
    assert pair.name == "room 7"
    assert (pair.image == room.image).all()
    assert (pair.depth == room.depth).all()
    assert pair.depth.shape == (64, 96)
    assert other.name == f"room {COUNT + 7}"
    assert (other.depth != pair.depth).any()


def test_the_last_training_room_is_no_test_room() -> None:
    assert RoomPairs(32, 32)[COUNT - 1].name != RoomPairs(32, 32, test=True)[0].name
    for index in (-1, COUNT):
        with pytest.raises(IndexError, match="numbered from 0 to 999999999"):
            RoomPairs(32, 32)[index]


def test_rooms_of_the_shapes_of_photos() -> None:
    train, test = (open_pairs(ROOMS, split, (48, 64), varied=True) for split in ("train", "test"))
    counts = Counter(train[index].depth.shape for index in range(210))
    assert counts.keys() == {(48, 64), (48, 60), (43, 64), (36, 64), (48, 36)}
    assert counts[48, 64] + counts[48, 60] == pytest.approx(120, abs=25)
    for index in range(3):
        pair = train[index]
        assert (pair.depth == render_room(index, *pair.depth.shape).depth).all()
        assert (pair.depth == train[index].depth).all()
    assert len({test[index].depth.shape for index in range(20)}) > 2


def test_a_camera_held_upright_keeps_its_lens() -> None:
    """The field of view along the longer side is the same, so that upright rooms do not look further away."""
    lying, upright = render_room(4, 48, 64).intrinsics, render_room(4, 64, 48).intrinsics
    assert lying[:2] == upright[:2]
    assert (lying[2:], upright[2:]) == ((32, 24), (24, 32))


def test_rooms_with_holes() -> None:
    whole, holed = RoomPairs(64, 96)[3].depth, RoomPairs(64, 96, holes=True)[3].depth
    assert (whole > 0).all()
    assert (open_pairs(ROOMS, "train", (64, 96), holes=True)[3].depth == holed).all()
    assert (holed == 0).any()


def test_a_folder_is_read_at_its_own_size(tmp_path: Path) -> None:
    for split, number in (("train", 1), ("test", 2)):
        save(tmp_path / f"images/{split}/a.jpg", picture(number))
        save(tmp_path / f"annotations/{split}/a.png", millimetres(number))
    for split, number in (("train", 1), ("test", 2)):
        pairs = open_pairs(str(tmp_path), split, (64, 96))  # type: ignore[arg-type]
        assert len(pairs) == 1
        assert np.abs(pairs[0].depth - millimetres(number) / 1000).max() < 1e-6


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_pairs(str(tmp_path / "nowhere"), "train")
