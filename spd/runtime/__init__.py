"""Running bundles: one API on every backend.

    model = spd.load("engines/")     # a bundle, a folder that holds one, or a checkpoint for the torch backend
    scene = model.encode("photo.jpg")  # once per image; the cache stays on the device
    depth = scene.depth(points)      # float32 [K], metres; as often as you like

Imports neither torch nor ONNX Runtime until a backend is chosen.
"""

from spd.bundle.contract import BACKENDS
from spd.runtime.loading import load
from spd.runtime.model import Model, Stats
from spd.runtime.scene import Scene

__all__ = ["BACKENDS", "Model", "Scene", "Stats", "load"]
