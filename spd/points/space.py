"""Points of an image and their depths as points in space."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spd.errors import InputError


class Intrinsics(NamedTuple):
    """A pinhole camera, in pixels of the image as shown. (0, 0) is the outer corner of the first pixel.

    Calibrations that put (0, 0) at the centre of the first pixel, as OpenCV's do, have 0.5 less in cx and cy.
    """

    fx: float
    """Focal length along u."""
    fy: float
    """Focal length along v."""
    cx: float
    """u of the optical axis."""
    cy: float
    """v of the optical axis."""

    @classmethod
    def of(cls, intrinsics: Any) -> Intrinsics:
        """From (fx, fy, cx, cy), or from a camera matrix [3, 3] without skew.

        Raises:
            InputError: it is neither, not finite, or has a focal length that is not above 0.
        """
        try:
            array = np.asarray(intrinsics, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"intrinsics are not numbers ({error}); expected fx, fy, cx, cy") from error
        if array.shape == (3, 3):
            fx, fy, cx, cy = array[0, 0], array[1, 1], array[0, 2], array[1, 2]
            if not np.array_equal(array, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]):
                raise InputError(f"intrinsics are {array.tolist()}, expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
            array = np.array([fx, fy, cx, cy])
        if array.shape != (4,):
            raise InputError(f"intrinsics have shape {list(array.shape)}, expected fx, fy, cx, cy or a matrix [3, 3]")
        made = cls(*array.tolist())
        if not np.isfinite(array).all() or made.fx <= 0 or made.fy <= 0:
            raise InputError(f"intrinsics are {tuple(made)}, expected finite numbers with focal lengths above 0")
        return made


def to_space(
    points_K2: NDArray[np.float64], depth_K: NDArray[np.float32], intrinsics: Intrinsics
) -> NDArray[np.float32]:
    """Points in space, float32 [K, 3] in metres: x to the right, y down, z forward along the optical axis.

    Args:
        points_K2: (u, v) in pixels of the image as shown.
        depth_K: metres along the optical axis.
        intrinsics: of the camera.
    """
    fx, fy, cx, cy = intrinsics
    xyz_K3 = np.empty((len(depth_K), 3), dtype=np.float32)
    xyz_K3[:, 0] = (points_K2[:, 0] - cx) / fx * depth_K
    xyz_K3[:, 1] = (points_K2[:, 1] - cy) / fy * depth_K
    xyz_K3[:, 2] = depth_K
    return xyz_K3
