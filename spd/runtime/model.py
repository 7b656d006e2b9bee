"""`Model`: encodes images, each once, to scenes."""

from __future__ import annotations

from collections.abc import Callable

from spd.bundle import Manifest
from spd.errors import SPDError
from spd.images import ImageSource, read_image
from spd.preprocess import Letterbox
from spd.runtime.backend import Backend
from spd.runtime.residency import Residency
from spd.runtime.scene import Scene


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
