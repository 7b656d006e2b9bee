"""SPD: metric depth at chosen pixels of a photo. Encode an image once, then query any points.

import spd
model = spd.load("engines/")
scene = model.encode("photo.jpg")
depth = scene.depth([[320.5, 240.5]])  # metres
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spd.version import __version__

if TYPE_CHECKING:
    from spd import errors
    from spd.runtime import Model, Scene, Stats, load

__all__ = ["Model", "Scene", "Stats", "__version__", "errors", "load"]


def __getattr__(name: str) -> Any:
    """Import the runtime on first use, so that `spd-infer --help` and `import spd` need not load numpy and Pillow."""
    if name == "errors":
        return import_module("spd.errors")
    if name in __all__:
        return getattr(import_module("spd.runtime"), name)
    raise AttributeError(f"module 'spd' has no attribute {name!r}")
