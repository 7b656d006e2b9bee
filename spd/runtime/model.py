"""`Model` and `Scene`: encode an image once, then query points in pixels of the image as shown."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spd.bundle import Manifest
from spd.errors import PointsError, SPDError
from spd.images import ImageSource, read_image
from spd.preprocess import Letterbox, inside
from spd.runtime.backend import Backend
from spd.runtime.residency import Residency, Resident


class Model:
    """A loaded model. `encode` and the scenes' `depth` may be called from several threads at once.

    It belongs to the process that loaded it: in one that is forked later it refuses to work. Pickled, it is its path
    and options, and is loaded again where it is unpickled, on a backend chosen there. A copy shares everything with the
    original, and each of them is closed by itself.
    """

    def __init__(
        self, backend: Backend, manifest: Manifest | None, notes: list[str], cache_budget: int | None = None
    ) -> None:
        self._residency: Residency | None = Residency(backend, cache_budget)
        self.backend = backend.name
        """Name of the backend, as in `spd.load(backend=...)`."""
        self.precision = backend.precision
        """One of `spd.bundle.contract.PRECISIONS`."""
        self.size = (backend.height, backend.width)
        """Height and width of the image that the encoder sees, pixels; images of any size are fitted into it."""
        self.manifest = manifest
        """The bundle's manifest; None for a checkpoint on the torch backend."""
        self.notes = notes
        """Why backends that come before this one were not taken, and what works but not as it should, a line each."""
        self.warned: list[str] = []
        """Those of `notes` for which a warning was logged: reasons why it is slower than the bundle was made to be."""
        self.load_again: Callable[[], Model] | None = None
        """Loads the same model with the same options; None if it was not made by `spd.load`."""

    def encode(self, image: ImageSource) -> Scene:
        """Encode an image once; query the scene as often as you like.

        Args:
            image: a path; the bytes of an image file; a file opened in binary mode; a PIL image; or a uint8 array
                [H, W, 3] in RGB order or [H, W] grey, or what converts itself to one, such as a tensor in the host's
                memory. Of any size. EXIF orientation is applied.

        Raises:
            ImageError: the image cannot be read, or is of another type or shape.
            SPDError: the model is closed, or was loaded before this process was forked.
        """
        residency = self._open_residency()
        residency.process.check()
        shown = read_image(image)
        height, width = self.size
        letterbox = Letterbox.fit(shown.width, shown.height, width, height)
        return Scene(residency, residency.add(letterbox.apply(shown)[None]), letterbox)

    def close(self) -> None:
        """Give back the model's memory, as far as no open scene uses it: those stay as usable and as fast as before."""
        if self._residency is not None:
            self._residency.backend.close()
        self._residency = None

    def _open_residency(self) -> Residency:
        if self._residency is None:
            raise SPDError("the model is closed; load it again with spd.load")
        return self._residency

    def __reduce__(self) -> tuple[Callable[[], Model], tuple[()]]:
        self._open_residency()
        if self.load_again is None:
            raise SPDError("a model that spd.load did not make cannot be pickled")
        return self.load_again, ()

    def __copy__(self) -> Model:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, _: object) -> Model:
        return self.__copy__()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size
        return f"<spd.Model {height}x{width} {self.precision} on {self.backend}>"


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

    def depth(self, points: ArrayLike, *, outside: str = "error") -> NDArray[np.float32]:
        """Depth along the optical axis at points of the image.

        Args:
            points: (u, v) [K, 2]: u to the right, v down, in pixels of the image as shown. The image covers
                0 <= u < width, 0 <= v < height; the centre of the first pixel is (0.5, 0.5).
            outside: "error", or "nan" for NaN at points outside the image.

        Returns:
            Metres, float32 [K], in the order of the points. K may be 0 and may exceed the bundle's limit.

        Raises:
            PointsError: the points have another shape, are not finite, or lie outside the image.
            SPDError: the scene is closed, or was encoded before this process was forked.
        """
        place = self._open_place()
        if outside not in ("error", "nan"):
            raise ValueError(f'outside is {outside!r}, expected "error" or "nan"')
        points_K2 = _finite_points(points)
        within = inside(points_K2, self.width, self.height)
        if outside == "error" and not within.all():
            first = int(np.argmin(within))
            u, v = points_K2[first]
            raise PointsError(
                f"point {first} ({u:g}, {v:g}) is outside the image of {self.width} x {self.height} pixels; "
                'expected 0 <= u < width and 0 <= v < height, or outside="nan"'
            )
        depth = np.full(len(points_K2), np.nan, dtype=np.float32)
        if within.any():
            depth[within] = _decode(*place, self._letterbox.to_graph(points_K2[within]))
        return depth

    @property
    def cached(self) -> bool:
        """Whether its cache is on the device; False once it is evicted or closed, until the next query encodes it."""
        place = self._place
        return place is not None and (place[1].busy or place[1].cache is not None)

    def wait(self) -> None:
        """Wait until the image is encoded. On TensorRT `encode` returns before; a query waits by itself.

        Raises:
            BackendError: the encoder failed.
            SPDError: the scene is closed, or was encoded before this process was forked.
        """
        residency, resident = self._open_place()
        with residency.use(resident) as cache:
            residency.backend.wait(cache)

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


def _decode(residency: Residency, resident: Resident, points_K2: NDArray[np.float32]) -> NDArray[np.float32]:
    backend = residency.backend
    step = backend.max_points
    with residency.use(resident) as cache:
        parts = [
            backend.decode(cache, np.ascontiguousarray(points_K2[None, start : start + step]))[0]
            for start in range(0, len(points_K2), step)
        ]
    return np.concatenate(parts)


def _finite_points(points: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:  # a huge int overflows
        raise PointsError(f"points are not numbers ({error}); expected (u, v) pairs, an array [K, 2]") from error
    if array.size == 0 and array.shape in ((0,), (0, 2)):
        return array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise PointsError(f"points have shape {list(array.shape)}, expected [K, 2]: one (u, v) pair for each point")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise PointsError(f"point {first} is {tuple(array[first].tolist())}, expected finite pixel coordinates")
    return array
