"""Depth Anything V2 Small: dense depth that is then read at the points, the accuracy ceiling (paper 8).

Weights of `depth_estimation_type` "metric" predict metres. Those of "relative" predict inverse depth up to a scale and
a shift that differ from photo to photo.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from spd.baselines.depth_anything_weights import PATCH, SIZE, load_weights, random_small
from spd.errors import BackendError, InputError, PointsError
from spd.extras import pip_install
from spd.images import ImageSource, read_image
from spd.preprocess import inside

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DepthAnythingForDepthEstimation

MIN_DISPARITY = 1e-6  # relative weights say exactly 0 for the farthest pixels


class DenseScene:
    """The dense prediction for one photo."""

    def __init__(self, dense_HW: NDArray[np.float32], width: int, height: int, relative: bool) -> None:
        self.dense = dense_HW
        """What the network says, float32 [h, w], covering the photo: metres, or inverse depth of relative weights."""
        self.width = width
        """Width of the photo as shown, pixels."""
        self.height = height
        """Height of the photo as shown, pixels."""
        self._relative = relative

    def depth(self, points: ArrayLike) -> NDArray[np.float32]:
        """Depth at points (u, v) [K, 2] in pixels of the photo as shown, read bilinearly between pixel centres.

        Half a pixel at the border has a centre on one side only, whose value is taken.

        Returns:
            float32 [K], in metres; of relative weights 1 / (inverse depth), in a unit of the photo's own.

        Raises:
            PointsError: the points have another shape, are not finite, or lie outside the photo.
        """
        import torch  # 2 s that `--help` of a command does without

        points_K2 = np.asarray(points, dtype=np.float64)
        if points_K2.ndim != 2 or points_K2.shape[1] != 2:
            raise PointsError(
                f"points have shape {list(points_K2.shape)}, expected [K, 2]: a (u, v) pair for each point"
            )
        within = inside(points_K2, self.width, self.height)
        if not within.all():
            first = int(np.argmin(within))
            u, v = points_K2[first]
            raise PointsError(
                f"point {first} ({u:g}, {v:g}) is outside the image of {self.width} x {self.height} pixels; "
                "expected 0 <= u < width and 0 <= v < height"
            )
        grid_K2 = (2 * points_K2 / (self.width, self.height) - 1).astype(np.float32)
        sampled = torch.nn.functional.grid_sample(
            torch.from_numpy(self.dense)[None, None],
            torch.from_numpy(grid_K2)[None, None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        values: NDArray[np.float32] = sampled[0, 0, 0].numpy()
        if self._relative:
            values = np.reciprocal(np.maximum(values, np.float32(MIN_DISPARITY)))
        return values


class DepthAnything:
    """A network of the Depth Anything family with its weights, on a GPU if torch sees one."""

    def __init__(self, model: DepthAnythingForDepthEstimation, name: str, size: int = SIZE) -> None:
        """Take a network.

        Args:
            model: in eval mode.
            name: where its weights come from, for people.
            size: short side of the images it is given, pixels, a multiple of 14.

        Raises:
            InputError: the size is not a multiple of 14.
        """
        import torch  # as above

        if size < PATCH or size % PATCH:
            raise InputError(f"size is {size}, expected a multiple of {PATCH} pixels such as {SIZE}")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        self.name = name
        self.size = size
        self.relative: bool = model.config.depth_estimation_type == "relative"
        """Whether it knows depth only up to a scale and a shift, so that it must be aligned before it is compared.

        Aligning the median finds the scale alone: what the shift bends stays an error.
        """

    def encode(self, image: ImageSource) -> DenseScene:
        """Predict the depth of a whole photo: a path, a PIL image, or a uint8 array [H, W, 3] in RGB order.

        Raises:
            ImageError: the photo cannot be read.
        """
        import torch  # as above

        from spd.utils.float32 import true_float32

        shown = read_image(image)
        with torch.inference_mode(), true_float32():
            dense_1HW = self.model(self.preprocess(shown)).predicted_depth
        return DenseScene(dense_1HW[0].float().cpu().numpy(), shown.width, shown.height, self.relative)

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image, resized and normalised: [1, 3, h, w] in the dtype and on the device of the network."""
        import torch  # as above

        from spd.models.spd import IMAGENET_MEAN, IMAGENET_STD  # as above

        resized = image.resize(resized_size(image.width, image.height, self.size), Image.Resampling.BICUBIC)
        image_HW3 = torch.from_numpy(np.array(resized)).to(self.device)
        mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=self.device)
        normalised: Tensor = (image_HW3 / 255 - mean) / std
        dtype: torch.dtype = self.model.dtype
        return normalised.permute(2, 0, 1)[None].to(dtype)


def resized_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height that an image is resized to: the short side to `size`, both to multiples of 14, all in pixels.

    The aspect is kept as far as multiples of 14 allow, as Depth Anything's authors do it.
    """
    scale = size / min(width, height)
    new_width, new_height = (max(size, PATCH * round(side * scale / PATCH)) for side in (width, height))
    return new_width, new_height


def load_depth_anything(source: str | Path | None, size: int = SIZE) -> DepthAnything:
    """Load Depth Anything.

    Args:
        source: a folder with config.json and model.safetensors, or a name on the Hugging Face hub, from where they may
            be downloaded. None for the network of V2 Small with random weights, for measuring time; it says 0..20 m.
        size: short side of the images that the network is given, pixels, a multiple of 14.

    Raises:
        BackendError: transformers or torch is not installed.
        CheckpointError: the weights are missing, cannot be downloaded, or are not those of a Depth Anything.
        InputError: the size is not a multiple of 14.
    """
    missing = [package for package in ("torch", "transformers") if find_spec(package) is None]
    if missing:
        raise BackendError(f"Depth Anything needs {' and '.join(missing)}: {pip_install('train')}")
    if source is None:
        return DepthAnything(random_small(), "Depth Anything V2 Small with random weights", size)
    return DepthAnything(load_weights(source), str(source), size)
