"""Images as a viewer shows them, and the letterbox that carries points along."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from spd.errors import ImageError
from spd.preprocess import MAX_PIXELS, PAD_COLOUR, Letterbox, check_image, inside, read_image

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    assert image.mode == "RGB"
    return np.asarray(image)


# How a camera that was held as EXIF says stores what a viewer shows upright.
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].swapaxes(0, 1),
    8: lambda shown: np.rot90(shown, -1),
}


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](PHOTO)))
    options = {"lossless": True} if suffix == "webp" else {}
    image = read_image(save(tmp_path / f"photo.{suffix}", stored, exif=exif, **options))
    np.testing.assert_array_equal(pixels(image), PHOTO)
    np.testing.assert_array_equal(pixels(read_image(image)), PHOTO)  # applied once, not again


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = read_image(save(tmp_path / f"ramp.{suffix}", Image.fromarray(ramp)))
    expected = np.rint(ramp / 257)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(pixels(image), expected)


def test_32_bit_grey_out_of_range_and_float_are_refused(tmp_path: Path) -> None:
    for value, fragment in ((np.int32(70000), "32-bit grey"), (np.float32(0.5), "floating-point")):
        path = save(tmp_path / "grey.tiff", Image.fromarray(np.full((2, 2), value)))
        with pytest.raises(ImageError, match=fragment):
            read_image(path)


def palette(colours: list[int]) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette(colours)
    image.putdata([0, 1])
    return image


MODES = {
    "rgba on white": (Image.new("RGBA", (1, 1), (100, 0, 200, 51)), {}, [[(224, 204, 244)]]),
    "rgba hidden": (Image.new("RGBA", (1, 1), (1, 2, 3, 0)), {}, [[(255, 255, 255)]]),
    "grey with alpha": (Image.new("LA", (1, 1), (0, 51)), {}, [[(204, 204, 204)]]),
    "grey": (Image.new("L", (1, 1), 77), {}, [[(77, 77, 77)]]),
    "black and white": (Image.new("1", (1, 1), 1), {}, [[(255, 255, 255)]]),
    "palette": (palette([10, 20, 30, 40, 50, 60]), {}, [[(10, 20, 30), (40, 50, 60)]]),
    "palette with a hole": (
        palette([10, 20, 30, 40, 50, 60]),
        {"transparency": 0},
        [[(255, 255, 255), (40, 50, 60)]],
    ),
    "rgb with a colour key": (Image.new("RGB", (1, 1), (9, 8, 7)), {"transparency": (9, 8, 7)}, [[(255, 255, 255)]]),
}


@pytest.mark.parametrize(("image", "options", "expected"), MODES.values(), ids=MODES)
def test_modes(tmp_path: Path, image: Image.Image, options: dict[str, Any], expected: list[Any]) -> None:
    path = save(tmp_path / "image.png", image, **options)
    np.testing.assert_allclose(pixels(read_image(path)), expected, atol=1)


def test_cmyk(tmp_path: Path) -> None:
    path = save(tmp_path / "red.tiff", Image.new("CMYK", (1, 1), (0, 255, 255, 0)))
    np.testing.assert_array_equal(pixels(read_image(path)), [[(255, 0, 0)]])


def test_sources_agree(tmp_path: Path) -> None:
    path = save(tmp_path / "photo.ppm", Image.fromarray(PHOTO))
    for source in (path, str(path), Image.fromarray(PHOTO), PHOTO, np.asfortranarray(PHOTO)):
        np.testing.assert_array_equal(pixels(read_image(source)), PHOTO)
    np.testing.assert_array_equal(pixels(read_image(PHOTO[..., 0]))[..., 2], PHOTO[..., 0])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2, 3), np.float32),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((2, 0, 3), np.uint8),
        np.zeros((0, 2), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
    ],
)
def test_arrays_that_do_not_fit(array: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"expected uint8 \[H, W, 3\]"):
        read_image(array)


@pytest.mark.parametrize("suffix", ["png", "jpeg", "tiff", "ppm", "bmp", "gif", "webp", "jp2"])
@pytest.mark.parametrize("part", [0.5, 0.95])
def test_truncated(tmp_path: Path, suffix: str, part: float) -> None:
    path = save(tmp_path / f"cut.{suffix}", Image.fromarray(RNG.integers(0, 256, (64, 48, 3), dtype=np.uint8)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError, match=r"cut\.\w+ is (damaged|not an image)") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12500, 60000])  # below and above the size that Pillow itself refuses
def test_image_bomb(tmp_path: Path, side: int) -> None:
    assert side * side > MAX_PIXELS
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    filters = list(warnings.filters)
    for read in (read_image, check_image):
        with pytest.raises(ImageError, match="the limit is 150 million"):
            read(path)
    assert list(warnings.filters) == filters


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    cases = {
        "empty.png": "is empty",
        "text.png": "is not an image",
        "drawing.eps": "is not an image",  # Pillow would start Ghostscript
        "missing.png": "does not exist",
        ".": "is a folder",
        "a\0b": "cannot be opened",
    }
    for name, fragment in cases.items():
        for read in (read_image, check_image):
            with pytest.raises(ImageError, match=fragment):
                read(tmp_path / name)


def test_corrupt_exif_is_ignored(tmp_path: Path) -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    assert read_image(save(tmp_path / "photo.jpg", Image.fromarray(PHOTO), exif=broken)).size == (9, 6)


def test_samples(samples: Path) -> None:
    upright = read_image(samples / "rgb_only_derived" / "exif_orientation6.jpg")
    assert upright.size == (640, 480)
    for path in sorted(samples.glob("rgb_only*/*")):
        assert np.asarray(read_image(path)).std() > 10, path  # neither black nor clipped to white


def test_imports_no_frameworks() -> None:
    code = "import sys, spd.preprocess; sys.exit(bool({'torch', 'timm', 'onnx', 'tensorrt'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SIDES = st.integers(1, 6000)
GRAPH_SIDES = st.integers(1, 40).map(lambda n: 32 * n)


@given(SIDES, SIDES, GRAPH_SIDES, GRAPH_SIDES)
def test_letterbox_geometry(image_width: int, image_height: int, width: int, height: int) -> None:
    box = Letterbox.fit(image_width, image_height, width, height)
    scale = min(width / image_width, height / image_height)
    ideal = np.array([image_width, image_height]) * scale
    resized = np.array([box.resized_width, box.resized_height])
    assert (resized >= 1).all()
    assert (resized <= (width, height)).all()
    assert (resized == (width, height)).any()
    assert ((np.abs(resized - ideal) <= 0.5 + 1e-9) | (resized == 1)).all()
    right, bottom = np.array([width, height]) - box.pad - resized
    assert 0 <= right - box.pad[0] <= 1
    assert 0 <= bottom - box.pad[1] <= 1
    corners = box.to_graph(np.array([[0, 0], [image_width, image_height]]))
    np.testing.assert_array_equal(corners, [box.pad, box.pad + resized])


@given(SIDES, SIDES, GRAPH_SIDES, GRAPH_SIDES, st.floats(0, 1), st.floats(0, 1))
def test_letterbox_round_trip(iw: int, ih: int, width: int, height: int, u: float, v: float) -> None:
    box = Letterbox.fit(iw, ih, width, height)
    points = np.array([[u * iw, v * ih]])
    graph = box.to_graph(points)
    assert graph.dtype == np.float32
    # float32 holds the graph's coordinates to 2^-24 of the graph's side, the image's side once mapped back
    tolerance = 2.0**-23 * np.array([width, height]) / box.scale
    assert (np.abs(box.to_image(graph) - points) <= tolerance + 1e-9).all()


def test_letterbox_of_the_same_size_is_the_identity() -> None:
    photo = RNG.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    box = Letterbox.fit(96, 64, 96, 64)
    applied = box.apply(read_image(photo))
    np.testing.assert_array_equal(applied, photo)
    assert applied.flags.c_contiguous
    points = RNG.random((10, 2)).astype(np.float32) * 64
    np.testing.assert_array_equal(box.to_graph(points), points)


@pytest.mark.parametrize("size", [(1500, 300), (300, 1500), (1, 5000), (5000, 1), (37, 23), (1, 1)])
def test_letterbox_pads_with_the_mean_colour(size: tuple[int, int]) -> None:
    box = Letterbox.fit(*size, 640, 480)
    applied = box.apply(Image.new("RGB", size, (255, 0, 255)))
    assert applied.shape == (480, 640, 3)
    shown = (applied == (255, 0, 255)).all(axis=2)
    assert shown.sum() == box.resized_width * box.resized_height
    assert (applied[~shown] == PAD_COLOUR).all()


@pytest.mark.parametrize("size", [(250, 130), (1000, 400), (100, 200)])
def test_points_and_pixels_move_together(size: tuple[int, int]) -> None:
    """A ramp's value at a graph pixel's centre is the ramp at the image point that `to_image` gives."""
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = (np.arange(width) + 0.5) / width * 255
    ramp[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    box = Letterbox.fit(width, height, 320, 224)
    applied = box.apply(Image.fromarray(ramp))
    centre = np.stack(np.meshgrid(np.arange(320) + 0.5, np.arange(224) + 0.5), axis=-1).reshape(-1, 2)
    points = box.to_image(centre)
    shown = inside(points, width, height)
    assert shown.sum() == box.resized_width * box.resized_height
    expected = points[shown] / size * 255
    assert np.abs(applied.reshape(-1, 3)[shown, :2] - expected).max() < 3


def test_inside() -> None:
    points = np.array([[0, 0], [4.999, 2.999], [5, 0], [0, 3], [-0.001, 1], [np.nan, 1], [np.inf, 1]])
    assert inside(points, 5, 3).tolist() == [True, True, False, False, False, False, False]
    assert inside(np.zeros((0, 2)), 5, 3).shape == (0,)


def test_files_are_closed(tmp_path: Path) -> None:
    """An open file that is collected is a ResourceWarning, and those are errors here."""
    path = save(tmp_path / "a.png", Image.fromarray(PHOTO))
    check_image(path)
    read_image(path)
    assert read_image(Image.open(io.BytesIO(path.read_bytes()))).size == (9, 6)
