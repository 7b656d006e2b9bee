"""What whoever starts the server decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """The command line of `spd-serve`, but for what concerns the model. The defaults are those of the command."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    idle_seconds: float = 600
    """A scene that nobody asks for so long is closed."""
    max_scenes: int = 1000
    max_upload: int = 32 * MIB
    """Most bytes of an image file."""
    max_pixels: int = 50_000_000
    """Most pixels of an image, as its header says."""
    max_points: int = 100_000
    """Most points of one question, and most cells of a grid."""
    workers: int = 2
    """Threads that decode images and run the model."""
    queue: int = 32
    """Requests that may wait for a worker, or be on their way in."""
    on_evicted: str = "encode"
    """`encode`: a scene that had to make room is encoded again when it is asked. `410`: it is gone."""
    drain_seconds: int = 10
    """How long requests may take to finish once the server is to end."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may use the server; `*` stands for all."""
    page: Path | None = None
    """Folder with the page's files; None for no page."""
    verbose: bool = False
