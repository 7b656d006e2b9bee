"""What `spd-bulk` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """The arguments of the command, by the names of its options."""

    photos: tuple[str, ...]
    points: str
    out: str
    engines: Path
    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None
    workers: int | None = None
    """By default as many as the GPUs allow, or one for each machine."""
    num_gpus: float = 0.0
    """Of each worker; may be a fraction."""
    address: str | None = None
    """Of a cluster's head, such as auto or ray://head:10001; None for processes of this machine."""
    part: int = 64
    """Photos in each file of results."""
