"""Procedural indoor scenes with exact metric depth: to train, to check with, and for pictures."""

from spd.data.rooms.pairs import RoomPairs
from spd.data.rooms.render import Room, render_room, rooms, sense

__all__ = ["Room", "RoomPairs", "render_room", "rooms", "sense"]
