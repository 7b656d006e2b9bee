"""`gate.npz`: the images and points that every form of a model is held to, and the depths it must give there.

The export writes it with what the literal model says in float32. Whoever proves another form later reads it, so nothing
is rendered or computed a second time. It is a compressed NumPy archive of four arrays, for B images with N points each:

| name | dtype | shape | content |
|---|---|---|---|
| `images` | uint8 | [B, H, W, 3] | RGB, of the bundle's size: a room and noise (`spd.bundle.gate.check_images`) |
| `points` | float32 | [B, N, 2] | (u, v) = (right, down) in pixels of the image (`spd.bundle.gate.check_points`) |
| `depth` | float32 | [B, N] | metres, of the literal model |
| `undecided` | bool | [B, N] | whether float32 leaves the routes open (`spd.bundle.gate.UNDECIDED`) |

At 480x640 with 4,096 points it takes 1.7 MB: 0.9 for the noise, which does not compress, and 0.7 for the room.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spd.bundle.manifest import GATE, Manifest
from spd.bundle.reading import Bundle
from spd.errors import BundleError, one_line


@dataclass(frozen=True)
class Reference:
    """The content of `gate.npz`."""

    images: NDArray[np.uint8]
    """[B, H, W, 3]."""
    points: NDArray[np.float32]
    """[B, N, 2], (u, v) in pixels."""
    depth: NDArray[np.float32]
    """[B, N], metres."""
    undecided: NDArray[np.bool_]
    """[B, N]: points whose depth is not compared."""

    def repeated(self, batch: int, points: int) -> Reference:
        """The same for a call of `batch` images and `points` points each: the first ones, again and again."""
        rows = np.arange(batch) % len(self.images)
        columns = np.arange(points) % self.points.shape[1]
        cells = np.ix_(rows, columns)
        return Reference(self.images[rows], self.points[cells], self.depth[cells], self.undecided[cells])

    def write(self, path: Path) -> None:
        """Write the archive.

        Raises:
            OSError: the file cannot be written.
        """
        np.savez_compressed(path, images=self.images, points=self.points, depth=self.depth, undecided=self.undecided)


def read_reference(bundle: Bundle) -> Reference:
    """Read and check the `gate.npz` of a bundle.

    Raises:
        BundleError: the bundle has none, or it is not as the table above says.
    """
    if GATE not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path} has no {GATE}, so there is nothing to hold its engines to; export it again with this "
            "spd-depth, or build with --no-verify"
        )
    path = bundle.file(GATE)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            reference = Reference(**{field.name: archive[field.name] for field in fields(Reference)})
        _check(reference, bundle.manifest)
    except Exception as error:  # what zipfile, zlib and numpy raise shares no base class
        raise BundleError(f"{path} cannot be used: {one_line(error)}; export the bundle again") from error
    return reference


def _check(reference: Reference, manifest: Manifest) -> None:
    """Refuse arrays that are not of the bundle's size, or whose numbers cannot be compared with.

    Raises:
        ValueError: says which array, and what was expected.
    """
    shape = reference.points.shape
    batch, count = shape[:2] if len(shape) == 3 else (0, 0)
    if not (batch >= 1 and 1 <= count <= manifest.max_points):
        raise ValueError(f"points has shape {list(shape)}, expected [B, N, 2] with N up to {manifest.max_points}")
    expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "images": (np.uint8, (batch, manifest.height, manifest.width, 3)),
        "points": (np.float32, (batch, count, 2)),
        "depth": (np.float32, (batch, count)),
        "undecided": (np.bool_, (batch, count)),
    }
    for name, (dtype, sizes) in expected.items():
        array = getattr(reference, name)
        if array.dtype != dtype or array.shape != sizes:
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(sizes)}")
    if not np.isfinite(reference.points).all():
        raise ValueError("points has numbers that are not finite")
    if not (np.isfinite(reference.depth) & (reference.depth > 0)).all():
        raise ValueError("depth has numbers that are not finite and above 0")
