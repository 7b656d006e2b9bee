"""From an image file to the graph's uint8 input, and points along with it.

Imports nothing but numpy and Pillow, so that a runtime needs no training packages. Points follow `spd.bundle.contract`:
`(u, v)` in pixels, (0, 0) is the outer corner of the first pixel, so resizing by s and padding by p maps u to u * s + p
with no half-pixel term.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from spd.errors import ImageError, one_line

ImageSource: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"

MAX_PIXELS = 150_000_000
"""Largest image that is decoded, pixels: 450 MB as RGB. Below 179 million, where Pillow itself refuses."""

PAD_COLOUR = (124, 116, 104)
"""ImageNet's mean colour, RGB: padding is close to 0 once the graph has normalised the image."""

# Pillow knows more, among them EPS, which starts Ghostscript. The first five are there without importing all plugins.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000")

GREY16_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(source: ImageSource) -> Image.Image:
    """Read an image as a viewer shows it.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits, of an animation the
    first frame is taken. Colour profiles are not applied.

    Args:
        source: a path, a PIL image, or a uint8 array [H, W, 3] in RGB order or [H, W] grey.

    Returns:
        A new PIL image of mode RGB.

    Raises:
        ImageError: there is no such file, it is not an image, it is damaged or too large, or an array does not fit.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with _pillow_errors("the image"):
            return _as_shown(source, "the image")
    with _open(Path(source)) as image, _pillow_errors(str(source)):
        return _as_shown(image, str(source))


def check_image(path: Path) -> None:
    """Read no more than an image's header.

    Raises:
        ImageError: there is no such file, it is not an image, or it is too large. Damaged pixels stay unnoticed.
    """
    with _open(path):
        pass


class _Quiet:
    """Ignores warnings while any thread is inside.

    Pillow warns between 89 and 179 million pixels, and of EXIF that it cannot read; both are handled here. Where
    threads overlap, `catch_warnings` alone puts the wrong filters back: the last one to leave restores the first's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catch = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catch = warnings.catch_warnings()
                self._catch.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._catch.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """The image in a file, its header read and its size checked, its pixels not decoded yet."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; check the path of the image") from error
    except (OSError, ValueError) as error:
        if path.is_dir():
            raise ImageError(f"{path} is a folder, expected an image file") from error
        raise ImageError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    with file:
        if not file.peek(1):
            raise ImageError(f"{path} is empty (0 bytes), expected an image; copy it again")
        with _pillow_errors(str(path)):
            image = Image.open(file, formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(str(path), f"{image.width} x {image.height} pixels")
            yield image


def _too_large(what: str, size: str) -> ImageError:
    return ImageError(f"{what} has {size}, the limit is {MAX_PIXELS // 1_000_000} million; resize it first")


@contextmanager
def _pillow_errors(what: str) -> Iterator[None]:
    """Whatever Pillow raises about a file becomes an ImageError, and its warnings are not shown."""
    try:
        with _QUIET:
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(what, "too many pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{what} is not an image, expected one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file: SyntaxError, KeyError, ...
        raise ImageError(f"{what} is damaged or cut off ({one_line(error)}); copy it again") from error


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (grey or colour) or array.size == 0:
        shape = ", ".join(str(side) for side in array.shape)
        raise ImageError(f"the image array is {array.dtype} [{shape}]; expected uint8 [H, W, 3] in RGB order or [H, W]")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _as_shown(image: Image.Image, what: str) -> Image.Image:
    """Decode to RGB, upright; `what` names the image in messages."""
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{what} has {image.width} x {image.height} pixels; expected at least one")
    image = ImageOps.exif_transpose(image)
    if image.mode in GREY16_MODES:
        image = _grey8(image, what)
    elif image.mode == "F":
        raise ImageError(f"{what} has floating-point pixels, whose range is not known; save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = image.convert("RGB")
    rgb.info = {}  # EXIF and transparency are applied by now; nobody must apply them again
    return rgb


def _grey8(image: Image.Image, what: str) -> Image.Image:
    """16-bit grey to 8 bits; Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.int64)
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise ImageError(f"{what} has 32-bit grey pixels from {low} to {high}; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 255 * 257


@dataclass(frozen=True)
class Letterbox:
    """How an image of any size lies inside the graph's image: aspect kept, centred, padded with `PAD_COLOUR`."""

    image_width: int
    """Width of the image as shown, pixels."""
    image_height: int
    """Height of the image as shown, pixels."""
    width: int
    """Width of the graph's image, pixels."""
    height: int
    """Height of the graph's image, pixels."""
    resized_width: int
    """Width of the part that shows the image, at least 1 pixel."""
    resized_height: int
    """Height of the part that shows the image, at least 1 pixel."""

    @classmethod
    def fit(cls, image_width: int, image_height: int, width: int, height: int) -> Letterbox:
        """The largest placement of an image_width x image_height image in a width x height one."""
        assert min(image_width, image_height, width, height) >= 1
        # Whole numbers only, so that the fitting side is met exactly; the other is rounded to the nearest pixel.
        if image_width * height >= image_height * width:
            resized = width, max(1, (2 * image_height * width + image_width) // (2 * image_width))
        else:
            resized = max(1, (2 * image_width * height + image_height) // (2 * image_height)), height
        return cls(image_width, image_height, width, height, *resized)

    @property
    def pad(self) -> tuple[int, int]:
        """Padding on the left and at the top, pixels; right and bottom get one more where it does not divide by 2."""
        return (self.width - self.resized_width) // 2, (self.height - self.resized_height) // 2

    @property
    def scale(self) -> tuple[float, float]:
        """Graph pixels per image pixel along u and v; they differ a little, as the resized image has whole pixels."""
        return self.resized_width / self.image_width, self.resized_height / self.image_height

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize (bilinear with antialiasing) and pad an RGB image: uint8 [height, width, 3], contiguous."""
        assert image.mode == "RGB"
        assert image.size == (self.image_width, self.image_height)
        resized = (self.resized_width, self.resized_height)
        if image.size != resized:
            # No reducing_gap: 3.0 saves 13 of 40 ms at 12 megapixels, but changes values by up to 4.
            image = image.resize(resized, Image.Resampling.BILINEAR)
        canvas = np.empty((self.height, self.width, 3), dtype=np.uint8)
        canvas[:] = PAD_COLOUR
        left, top = self.pad
        canvas[top : top + self.resized_height, left : left + self.resized_width] = np.asarray(image)
        return canvas

    def to_graph(self, points_K2: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map points [K, 2] from pixels of the image to pixels of the graph's image: float32 [K, 2].

        Computed in float64, where 24 bits would cost 0.001 pixels in an image 10,000 pixels wide.
        """
        return (np.asarray(points_K2, dtype=np.float64) * self.scale + self.pad).astype(np.float32)

    def to_image(self, points_K2: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map points [K, 2] from pixels of the graph's image to pixels of the image: float64 [K, 2]."""
        return (np.asarray(points_K2, dtype=np.float64) - self.pad) / self.scale


def inside(points_K2: NDArray[np.floating], image_width: int, image_height: int) -> NDArray[np.bool_]:
    """Which points [K, 2] lie in the image, 0 <= u < image_width and 0 <= v < image_height: bool [K]; NaN does not."""
    u, v = np.asarray(points_K2, dtype=np.float64).reshape(-1, 2).T
    return (u >= 0) & (u < image_width) & (v >= 0) & (v < image_height)
