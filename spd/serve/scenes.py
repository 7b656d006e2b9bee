"""The scenes that clients have sent, by ids that cannot be guessed."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import NoReturn

from starlette.exceptions import HTTPException

from spd.runtime import Scene
from spd.serve.metrics import Metrics
from spd.serve.settings import Settings

FORGOTTEN = 10_000
"""Ids of scenes that are gone for which the answer is why, and not just that there is no such scene."""


@dataclass
class Entry:
    """One scene of one client."""

    scene: Scene
    focal_px: float | None
    """Focal length in pixels, as the file's EXIF has it."""
    asked: float = field(default_factory=time.monotonic)
    """When it was last asked."""


class Scenes:
    """What clients may ask about; all methods are called in the event loop's thread.

    The runtime decides which caches stay on the device; see `cache_budget` of `spd.load`. Here scenes end that were not
    asked for a while, and evicted ones if the settings say so.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._entries: dict[str, Entry] = {}
        self._gone: dict[str, str] = {}
        """Why a scene is gone, by its id, the oldest first."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def check_room(self) -> None:
        """Refuse another scene where there are as many as the settings allow.

        Raises:
            HTTPException: there are.
        """
        if len(self) >= self._settings.max_scenes:
            line = f"the server holds {len(self)} scenes, its most; delete some, or wait until they are no longer asked"
            raise HTTPException(429, line, {"Retry-After": "5"})

    def add(self, scene: Scene, focal_px: float | None) -> str:
        """Hold a scene, which may have taken the room of others; its id."""
        name = secrets.token_urlsafe(16)
        self._entries[name] = Entry(scene, focal_px)
        if self._settings.on_evicted == "410":
            for evicted in [key for key, entry in self._entries.items() if entry.scene.nbytes == 0]:
                self._end(evicted, "evicted", "it had to make room for newer ones; send its image again")
        return name

    def get(self, name: str) -> Entry:
        """The scene of an id; it counts as asked now.

        Raises:
            HTTPException: there is none.
        """
        if name not in self._entries:
            self.refuse(name)
        entry = self._entries[name]
        entry.asked = time.monotonic()
        return entry

    def refuse(self, name: str) -> NoReturn:
        """Say that there is no such scene, or no longer.

        Raises:
            HTTPException: always.
        """
        if name in self._gone:
            raise HTTPException(410, f"the scene is gone: {self._gone[name]}")
        raise HTTPException(404, "there is no such scene; send its image to /scenes")

    def delete(self, name: str) -> None:
        """Close a scene at its client's wish.

        Raises:
            HTTPException: there is none.
        """
        self.get(name)
        self._entries.pop(name).scene.close()

    def close_idle(self) -> None:
        """Close the scenes that nobody asked for a while."""
        seconds = self._settings.idle_seconds
        limit = time.monotonic() - seconds
        for name in [name for name, entry in self._entries.items() if entry.asked < limit]:
            self._end(name, "idle", f"it was not asked for {seconds:g} seconds; send its image again")

    def close(self) -> None:
        """Close all."""
        while self._entries:
            self._entries.popitem()[1].scene.close()

    def _end(self, name: str, reason: str, line: str) -> None:
        self._entries.pop(name).scene.close()
        self._metrics.closed.labels(reason).inc()
        self._gone[name] = line
        if len(self._gone) > FORGOTTEN:
            del self._gone[next(iter(self._gone))]
