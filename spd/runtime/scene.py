"""`Scene`: an encoded image, which answers queries of points in pixels of the image as shown."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from spd.errors import BackendError, SPDError
from spd.points.space import Intrinsics, to_space
from spd.preprocess import Letterbox
from spd.runtime.arrays import SupportsDLPack, check_out, fill, of_its_kind
from spd.runtime.queries import are_inside, as_points, query, which_inside
from spd.runtime.residency import Residency, Resident

Points: TypeAlias = "NDArray[Any] | Sequence[Any]"
Tensor = TypeVar("Tensor", bound=SupportsDLPack)
Out = TypeVar("Out")


class Scene:
    """An encoded image. Its cache stays on the device until the scene is closed or no longer referenced.

    Under a `cache_budget` it may be evicted meanwhile; the next query then encodes the image again.
    """

    def __init__(self, residency: Residency, resident: Resident, letterbox: Letterbox) -> None:
        self._place: tuple[Residency, Resident] | None = residency, resident
        self._forget = weakref.finalize(self, residency.remove, resident)
        self._letterbox = letterbox
        self._name = residency.backend.name
        self.width = letterbox.image_width
        """Width of the image as shown, pixels."""
        self.height = letterbox.image_height
        """Height of the image as shown, pixels."""

    @overload
    def depth(
        self, points: Points, *, outside: str = "error", check: bool = True, out: None = None, stream: Any = None
    ) -> NDArray[np.float32]: ...
    @overload
    def depth(
        self, points: Tensor, *, outside: str = "error", check: bool = True, out: None = None, stream: Any = None
    ) -> Tensor: ...
    @overload
    def depth(
        self, points: Any, *, outside: str = "error", check: bool = True, out: Out, stream: Any = None
    ) -> Out: ...
    def depth(
        self, points: Any, *, outside: str = "error", check: bool = True, out: Any = None, stream: Any = None
    ) -> Any:
        """Depth along the optical axis at points of the image.

            >>> scene.depth([[320.5, 240.5], [0, 0]]).shape
            (2,)

        Args:
            points: (u, v) [K, 2]: u to the right, v down, in pixels of the image as shown. The image covers
                0 <= u < width, 0 <= v < height; the centre of the first pixel is (0.5, 0.5). Lists, or an array or
                tensor of numbers of any library. Those on a GPU are copied to the host, to be checked and mapped.
            outside: "error", or "nan" for NaN at points outside the image.
            check: whether to look for points that are not finite or lie outside. Without that, they have meaningless
                depths, and `outside` has no effect.
            out: a float32 buffer [K] of any library to write the depths to.
            stream: the CUDA stream of tensors on a GPU: its handle, or an object with `__cuda_stream__`. By default
                the current one of their library. Of no account for arrays in the host's memory.

        Returns:
            Metres, float32 [K], in the order of the points: `out` if it is given. Otherwise a torch tensor on the
            device of the points where they are one, an array of their library where that follows Python's array API
            standard, and a numpy array for all others. K may be 0 and may exceed the bundle's limit.

        Raises:
            PointsError: the points have another shape, are not finite, or lie outside the image.
            InputError: `out` does not fit, or `stream` is none.
            SPDError: the scene is closed, or was encoded before this process was forked.
        """
        place = self._open_place()
        if outside not in ("error", "nan"):
            raise ValueError(f'outside is {outside!r}, expected "error" or "nan"')
        points_K2 = as_points(points, stream)
        if out is not None:
            check_out(out, (len(points_K2),))
        depth = self._depth(*place, points_K2, outside, check)
        if out is None:
            return of_its_kind(points, depth, stream)
        fill(out, depth, stream)
        return out

    @overload
    def xyz(
        self, points: Points, intrinsics: Any, *, outside: str = "error", check: bool = True, stream: Any = None
    ) -> NDArray[np.float32]: ...
    @overload
    def xyz(
        self, points: Tensor, intrinsics: Any, *, outside: str = "error", check: bool = True, stream: Any = None
    ) -> Tensor: ...
    def xyz(
        self, points: Any, intrinsics: Any, *, outside: str = "error", check: bool = True, stream: Any = None
    ) -> Any:
        """Points in space: where the pixels lie in the coordinates of the camera.

            >>> x, y, z = scene.xyz([[320.5, 240.5]], (518.9, 519.5, 320.5, 240.5))[0]
            >>> float(x), float(y)
            (0.0, 0.0)

        Args:
            points: as in `depth`.
            intrinsics: (fx, fy, cx, cy), or a camera matrix [3, 3] without skew, in pixels of the image as shown. Add
                0.5 to cx and cy of a calibration that puts pixel centres at whole numbers, as OpenCV's do.
            outside: as in `depth`.
            check: as in `depth`.
            stream: as in `depth`.

        Returns:
            Metres, float32 [K, 3], of the points' kind: x to the right, y down, z forward along the optical axis.

        Raises:
            PointsError: as in `depth`.
            InputError: the intrinsics are not those of a camera.
            SPDError: as in `depth`.
        """
        camera = Intrinsics.of(intrinsics)
        points_K2 = as_points(points, stream)
        depth = self.depth(points_K2, outside=outside, check=check)
        return of_its_kind(points, to_space(points_K2, depth, camera), stream)

    def routes(self, points: Any) -> NDArray[np.int64]:
        """Which cells of the coarsest feature map each point attends to (B3b in the paper), for looking into a network.

        Args:
            points: as in `depth`; all have to be inside the image.

        Returns:
            int64 [K, R]: numbers of R cells each, row by row, of a map of `model.size` / 32 cells.

        Raises:
            PointsError: as in `depth`.
            BackendError: the bundle was exported without routes, or the backend does not give them.
            SPDError: as in `depth`.
        """
        residency, resident = self._open_place()
        backend, points_K2 = residency.backend, as_points(points)
        if not backend.routed_tokens:
            raise BackendError(
                f"{self._name} gives no routes: that takes a bundle exported with --with-routes, on onnxruntime-cpu or "
                "onnxruntime-cuda"
            )
        which_inside(points_K2, self.width, self.height, "error")
        if not len(points_K2):
            return np.empty((0, backend.routed_tokens), np.int64)
        return query(residency, resident, self._letterbox, points_K2, backend.routes)

    @property
    def nbytes(self) -> int | None:
        """Bytes that its cache takes on the device now: 0 once it is evicted or closed; None if that is not known."""
        if self._place is None:
            return 0
        residency, resident = self._place
        return 0 if resident.cache is None else residency.backend.cache_bytes

    def wait(self) -> None:
        """Wait until the image is encoded. On TensorRT `encode` returns before; a query waits by itself.

        Raises:
            BackendError: the encoder failed.
            SPDError: the scene is closed, or was encoded before this process was forked.
        """
        residency, resident = self._open_place()
        cache = residency.enter(resident)
        try:
            residency.backend.wait(cache)
        finally:
            residency.leave(resident)

    def _depth(
        self, residency: Residency, resident: Resident, points_K2: NDArray[np.float64], outside: str, check: bool
    ) -> NDArray[np.float32]:
        ask = residency.backend.decode
        if not len(points_K2):
            return np.empty(0, np.float32)
        if not check or are_inside(points_K2, self.width, self.height):
            return query(residency, resident, self._letterbox, points_K2, ask)
        within = which_inside(points_K2, self.width, self.height, outside)
        depth = np.full(len(points_K2), np.nan, np.float32)
        if within.any():
            depth[within] = query(residency, resident, self._letterbox, points_K2[within], ask)
        return depth

    def _open_place(self) -> tuple[Residency, Resident]:
        place = self._place  # as another thread may close the scene meanwhile
        if place is None:
            raise SPDError("the scene is closed; encode the image again")
        place[0].process.check()
        return place

    def close(self) -> None:
        """Give back the scene's memory on the device now."""
        self._place = None
        self._forget()

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise SPDError("a scene cannot be copied or pickled: its cache is on the device; encode the image again there")

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = " closed" if self._place is None else ""
        return f"<spd.Scene {self.width} x {self.height} pixels on {self._name}{state}>"
