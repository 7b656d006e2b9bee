"""SPD: metric depth at chosen pixels of a photo. Encode an image once, then query any points.

import spd
model = spd.load("engines/")
scene = model.encode("photo.jpg")
depth = scene.depth([[320.5, 240.5]])  # metres
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spd.version import __version__

if TYPE_CHECKING:
    from spd.runtime import Model, Scene, load

__all__ = ["Model", "Scene", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the runtime on first use, so that `spd-infer --help` and `import spd` need not load numpy and Pillow."""
    if name in ("Model", "Scene", "load"):
        from spd import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module 'spd' has no attribute {name!r}")
