"""`Model`: encodes images, each once, to scenes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spd.bundle import Manifest
from spd.errors import ImageError, InputError, SPDError, one_line
from spd.images import ImageSource, read_image
from spd.preprocess import Letterbox
from spd.runtime.ahead import one_ahead
from spd.runtime.arrays import GpuArray, SupportsCuda, SupportsDLPack, gpu_array, on_gpu, to_host
from spd.runtime.backend import Backend
from spd.runtime.residency import Residency
from spd.runtime.scene import Scene

logger = logging.getLogger("spd")


@dataclass(frozen=True)
class Stats:
    """What a model has done since it was loaded, and what it holds now."""

    encodings: int
    """Times that an image was encoded; more than there were images if scenes were evicted and asked again."""
    evictions: int
    """Caches that were given up for others under the `cache_budget`."""
    scenes: int
    """Scenes whose cache is on the device now."""
    bytes: int | None
    """Bytes that those caches take; None on torch, which does not say."""
    graphs: int
    """CUDA graphs that were captured on TensorRT."""
    fallbacks: int
    """CUDA graphs that could not be captured: their kernels are enqueued one by one, which is slower."""


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

    @overload
    def encode(self, image: ImageSource | SupportsDLPack | SupportsCuda, *, stream: Any = None) -> Scene: ...
    @overload
    def encode(self, image: list[Any] | tuple[Any, ...], *, stream: Any = None) -> list[Scene]: ...
    def encode(self, image: Any, *, stream: Any = None) -> Scene | list[Scene]:
        """Encode an image once; query the scene as often as you like.

            >>> scene = model.encode(np.zeros((480, 640, 3), np.uint8))
            >>> scene.width, scene.height
            (640, 480)
            >>> len(model.encode([np.zeros((480, 640, 3), np.uint8), np.zeros((90, 160, 3), np.uint8)]))
            2

        Args:
            image: a path; the bytes of an image file; a file opened in binary mode; a PIL image; or a uint8 array or
                tensor [H, W, 3] in RGB order or [H, W] grey, of any library. Of any size. EXIF orientation is applied.
                A list or tuple of images gives a list of scenes: all or, if one fails, none.

                An array in the host's memory that is C-contiguous and of `Model.size` is not copied. One on a GPU goes
                to a TensorRT encoder by a copy on the device if it is of that size and has `__cuda_array_interface__`.
                Others, and all on other backends or under a `cache_budget`, are copied to the host, with a line in
                `Model.notes`.
            stream: the CUDA stream of arrays on a GPU: its handle, or an object with `__cuda_stream__`. They are read
                after the work that is in it now, and before what comes into it later. By default the current stream of
                their library. Of no account for others.

        Raises:
            ImageError: the image cannot be read, or is of another type or shape.
            InputError: `stream` is none.
            SPDError: the model is closed, or was loaded before this process was forked.
        """
        residency = self._open_residency()
        residency.process.check()
        if not isinstance(image, list | tuple):
            return self._encode(residency, image, stream)
        scenes: list[Scene] = []
        try:
            for each in image:
                scenes.append(self._encode(residency, each, stream))
        except BaseException:
            for scene in scenes:
                scene.close()
            raise
        return scenes

    def stream(self, frames: Iterable[Any]) -> Generator[Scene, None, None]:
        """Scenes of the frames of a video: the next one is read and encoded while you query the one before.

            >>> frames = (np.full((480, 640, 3), grey, np.uint8) for grey in range(3))
            >>> for scene in model.stream(frames):
            ...     print(scene.depth([[320.5, 240.5]]).shape)
            (1,)
            (1,)
            (1,)

        Args:
            frames: images as `encode` takes them. The iterator runs in a thread of its own, one frame ahead.

        Yields:
            A scene for each frame, in order. It is closed when the next one is asked for. Close the generator when
            leaving it early.

        Raises:
            SPDError: as `encode`, where the scene of the frame would have been; the frames after it are not read.
        """
        making = (self.encode(frame) for frame in frames)
        with closing(one_ahead(making, Scene.close, threading.Event())) as scenes:
            for scene in scenes:
                with scene:
                    yield scene

    def warm_up(self, points: Iterable[int] = (1, 64, 256)) -> None:
        """Do now what the first calls would do: allocate, compile, and on TensorRT capture CUDA graphs.

            >>> model.warm_up(points=(64, 256))

        Args:
            points: numbers of points that will be asked at once.

        Raises:
            InputError: a number is below 1.
            SPDError: the model is closed, or a call failed.
        """
        height, width = self.size
        counts = tuple(points)
        if min(counts, default=1) < 1:
            raise InputError(f"points is {counts}, expected numbers of at least 1")
        for _ in range(3):  # on TensorRT the first run is plain, the second captured, the third launched
            with self.encode(np.zeros((height, width, 3), np.uint8)) as scene:
                for count in counts:
                    scene.depth(np.full((count, 2), 0.5))
                scene.wait()

    def stats(self) -> Stats:
        """What it has done so far, and what it holds now.

            >>> model.stats().evictions
            0

        Raises:
            SPDError: the model is closed.
        """
        residency = self._open_residency()
        backend, scenes = residency.backend, residency.resident_scenes
        nbytes = None if backend.cache_bytes is None else scenes * backend.cache_bytes
        return Stats(residency.encodings, residency.evictions, scenes, nbytes, *backend.cuda_graphs())

    def close(self) -> None:
        """Give back the model's memory, as far as no open scene uses it: those stay as usable and as fast as before."""
        if self._residency is not None:
            self._residency.backend.close()
        self._residency = None

    def _encode(self, residency: Residency, image: Any, stream: Any) -> Scene:
        height, width = self.size
        pixels = self._array(residency, image, stream)
        if isinstance(pixels, GpuArray):
            return Scene(residency, residency.add(pixels), Letterbox.fit(width, height, width, height))
        if pixels is not None and pixels.dtype == np.uint8 and pixels.shape == (height, width, 3):
            letterbox = Letterbox.fit(width, height, width, height)
            return Scene(residency, residency.add(np.ascontiguousarray(pixels)[None]), letterbox)
        shown = read_image(image if pixels is None else pixels)
        letterbox = Letterbox.fit(shown.width, shown.height, width, height)
        return Scene(residency, residency.add(letterbox.apply(shown)[None]), letterbox)

    def _array(self, residency: Residency, image: Any, stream: Any) -> NDArray[Any] | GpuArray | None:
        """An image as an array on the host, or on the GPU if the encoder takes it there. None if it is no array."""
        if isinstance(image, str | bytes | Image.Image):
            return None
        try:
            if on_gpu(image):
                found = self._gpu_array(residency, image, stream)
                if found is not None:
                    return found
            converted = to_host(image, stream)
            if not isinstance(converted, np.ndarray) and hasattr(converted, "__array_interface__"):
                converted = np.asarray(converted)
        except (TypeError, ValueError, BufferError, RuntimeError, AttributeError) as error:
            raise ImageError(f"the image cannot be copied to the host ({one_line(error)})") from error
        return converted if isinstance(converted, np.ndarray) else None

    def _gpu_array(self, residency: Residency, image: Any, stream: Any) -> GpuArray | None:
        if not residency.backend.takes_gpu_arrays:
            self._note(f"images on a GPU are copied to the host for {self.backend}")
        elif residency.keeps_images:
            self._note("images on the GPU are copied to the host, where a cache_budget keeps them")
        else:
            found = gpu_array(image, stream)
            if found is not None and (found.shape, found.typestr) == ((*self.size, 3), "|u1"):
                return found
            height, width = self.size
            self._note(
                f"images on the GPU that are not contiguous uint8 [{height}, {width}, 3] are copied to the host and "
                "fitted there"
            )
        return None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            logger.info("%s", note)
            self.notes.append(note)

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
