"""`Model.encode` takes an image in any of its forms, and says what is wrong with others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spd.errors import ImageError
from spd.runtime import Model
from spd.runtime.backend import Backend

PHOTO = np.random.default_rng(0).integers(0, 256, (160, 192, 3), dtype=np.uint8)


class Recorder(Backend):
    """Keeps the images that it is given."""

    name, precision, height, width, max_points = "recorder", "fp32", 160, 192, 512

    def __init__(self) -> None:
        self.images: list[NDArray[np.uint8]] = []

    def encode(self, image: NDArray[np.uint8]) -> Any:
        self.images.append(image[0])
        return image

    def decode(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        raise AssertionError("nothing is asked")


def test_every_form_of_an_image_is_the_same_to_the_encoder(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    data = path.read_bytes()
    backend = Recorder()
    with Model(backend, None, []) as model:
        for image in (path, str(path), data, io.BytesIO(data), Image.open(path), PHOTO, torch.from_numpy(PHOTO)):
            with model.encode(image) as scene:
                assert (scene.width, scene.height) == (192, 160)
    assert len(backend.images) == 7
    for image in backend.images:
        np.testing.assert_array_equal(image, PHOTO)


@pytest.mark.parametrize(
    ("image", "fragment"),
    [
        (None, "is of type NoneType"),
        (PHOTO.transpose(2, 0, 1), r"\[3, 160, 192\]; expected uint8 \[H, W, 3\]"),
        (PHOTO / 255, "a float64 array"),
        (np.zeros((4, 5, 4), np.uint8), r"\[4, 5, 4\]; expected"),
    ],
)
def test_what_is_no_image_never_reaches_the_encoder(image: Any, fragment: str) -> None:
    backend = Recorder()
    with Model(backend, None, []) as model, pytest.raises(ImageError, match=fragment):
        model.encode(image)
    assert not backend.images
