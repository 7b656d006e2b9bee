"""Training augmentation that keeps metric depth true (paper 7.3).

A picture enlarged s times is what the same camera would take of a scene whose depths are all s times smaller: a point
(X, Y, Z) seen at f X / Z moves to s f X / Z = f X / (Z / s). So the depth map is divided by s, as the network has to
read metres off a picture without being told the focal length. Cropping, padding and mirroring change no depth.

s is 1 where the whole picture would fill the network's image, as the runtime shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.transforms.v2 import ColorJitter

from spd.data.pairs import Pair
from spd.preprocess import PAD_COLOUR, Letterbox

SCALES = (0.8, 1.2)
"""Range of s (paper 7.3)."""
BRIGHTNESS = 0.2
CONTRAST = 0.2
SATURATION = 0.2
HUE = 0.1
"""Share of the colour circle; the other three are shares of the pixel values (paper 7.3)."""


@dataclass(frozen=True)
class Placement:
    """How a picture lies in the training image."""

    scale: float
    """s: enlargement against the letterbox that the runtime would put the whole picture into."""
    left: float
    """Where the picture lies along u, from 0 (its left edge on the image's) to 1 (its right edge on the image's)."""
    top: float
    """The same along v."""
    mirrored: bool
    """Left and right exchanged."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Placement:
        """A random placement (paper 7.3)."""
        return cls(rng.uniform(*SCALES), rng.random(), rng.random(), bool(rng.random() < 0.5))


CENTRED = Placement(1.0, 0.5, 0.5, mirrored=False)
"""What the runtime does with a picture: the letterbox."""


def place(pair: Pair, height: int, width: int, placement: Placement = CENTRED) -> Pair:
    """Resize, mirror and crop or pad a pair.

    The picture is resampled bilinearly with antialiasing, the depth to the nearest pixel, so that no depth is made up
    across an edge or a hole. Padding has no depth.

    Args:
        pair: of any size, whole or a part.
        height: of the result in pixels.
        width: of the result in pixels.
        placement: by default the runtime's letterbox.

    Returns:
        A pair of height x width pixels whose depths are those of `pair`, divided by `placement.scale`.
    """
    rows, columns = pair.depth.shape
    whole_rows, whole_columns = pair.cut_from or (rows, columns)
    fit = Letterbox.fit(whole_columns, whole_rows, width, height)
    shown = (
        max(1, round(fit.resized_width * placement.scale * columns / whole_columns)),
        max(1, round(fit.resized_height * placement.scale * rows / whole_rows)),
    )
    image, depth = Image.fromarray(pair.image), Image.fromarray(pair.depth)
    if shown != (columns, rows):
        image = image.resize(shown, Image.Resampling.BILINEAR)
        depth = depth.resize(shown, Image.Resampling.NEAREST)
    if placement.mirrored:
        image, depth = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (image, depth))
    at = int((width - shown[0]) * placement.left), int((height - shown[1]) * placement.top)
    canvas = Image.new("RGB", (width, height), PAD_COLOUR)
    canvas.paste(image, at)
    measured = Image.new("F", (width, height))
    measured.paste(depth, at)
    metres = np.asarray(measured, dtype=np.float32) / np.float32(placement.scale)
    return Pair(np.asarray(canvas), metres, pair.name)


def jitter_colours(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Random brightness, contrast, saturation and hue, in random order (paper 7.3): uint8 [H, W, 3] to the same."""
    jitter = ColorJitter(BRIGHTNESS, CONTRAST, SATURATION, HUE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        return np.asarray(jitter(Image.fromarray(image)))
