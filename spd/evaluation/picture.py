"""One image's result for the eye: photo, ground truth, prediction and relative error side by side."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from spd.commands.infer.picture import BACKGROUND, TEXT, colour, depth_range
from spd.evaluation.points import measured
from spd.evaluation.protocol import EncodedImage, Judged, ask
from spd.utils.metrics import bounded

GRID = 4
"""Distance in pixels of the points that are asked for the picture; in between it is interpolated."""
LARGEST_ERROR = 0.5
"""Relative error that gets the last colour."""
MIN_WIDTH = 320
"""Narrowest panel in pixels; smaller images are enlarged by a whole number."""
GAP = 8
TEXT_SIZE = 15

F32 = npt.NDArray[np.float32]


def draw(judged: Judged) -> Image.Image:
    """Draw one image that `evaluate` has just judged, while it can still be asked.

    Both depths have the colours of the range of the truth, near is red; a prediction beyond it has the end's colour.
    Hatched are pixels without a true depth, and in the error also those outside the crop, which do not count.

    Returns:
        An RGB image.

    Raises:
        SPDError: whatever the predictor raises.
    """
    counted, known = judged.candidates.valid, measured(judged.pair.depth)
    truth = np.where(known, judged.pair.depth, np.float32(1))
    predicted = densified(judged.scene, truth.shape[0], truth.shape[1], judged.scale)
    limits = depth_range(truth[counted])
    assert limits is not None  # there are no Candidates without a valid pixel
    near, far = limits
    error = np.abs(predicted - truth) / truth
    label, metrics = list(judged.by_k.items())[-1]
    which = label if label.isalpha() else f"K = {label}"
    depth_bar = f"{near:.2f} m", f"{far:.2f} m", colour(np.linspace(near, far, 256), near, far)
    error_bar = "0%", f"{LARGEST_ERROR:.0%} or more", _error_colour(np.linspace(0, LARGEST_ERROR, 256))
    panels = [
        _panel(judged.pair.image, judged.pair.name, None),
        _panel(_hatched(colour(truth, near, far), known), "ground truth", depth_bar),
        _panel(colour(predicted, near, far), "prediction", depth_bar),
        _panel(_hatched(_error_colour(error), counted), f"error, AbsRel {metrics.abs_rel:.3f} ({which})", error_bar),
    ]
    width, height = panels[0].size
    picture = Image.new("RGB", (len(panels) * (width + GAP) + GAP, height + 2 * GAP), BACKGROUND)
    for number, panel in enumerate(panels):
        picture.paste(panel, (GAP + number * (width + GAP), GAP))
    return picture


def densified(scene: EncodedImage, height: int, width: int, scale: float = 1.0) -> F32:
    """Depth for every pixel of an image from a grid of points: float32 [H, W], metres, bounded as for the metrics.

    The points lie in the middles of equal cells of about `GRID` pixels, and depths in between are bilinear.
    """
    rows, columns = math.ceil(height / GRID), math.ceil(width / GRID)
    u = (np.arange(columns) + 0.5) * width / columns
    v = (np.arange(rows) + 0.5) * height / rows
    points = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
    depth = bounded(ask(scene, points) * scale).astype(np.float32).reshape(rows, columns)
    return np.asarray(Image.fromarray(depth).resize((width, height), Image.Resampling.BILINEAR))


def _error_colour(error: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Colours of relative errors [...]: RGB [..., 3], blue at 0, red at `LARGEST_ERROR`."""
    return colour(error, LARGEST_ERROR, 0.0)


def _hatched(rgb: npt.NDArray[np.float64], shown: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """RGB [H, W, 3] with grey stripes over what is not `shown`."""
    rows, columns = np.indices(shown.shape)
    stripes = np.where((rows + columns) // 4 % 2, 40.0, 90.0)
    return np.where(shown[..., None], rgb, stripes[..., None])


def _panel(
    rgb: npt.NDArray[np.generic], title: str, bar: tuple[str, str, npt.NDArray[np.float64]] | None
) -> Image.Image:
    """Pixels [H, W, 3] under a title and above a colour bar: its two labels, and its colours [N, 3] in between."""
    font = ImageFont.load_default(TEXT_SIZE)
    pixels = Image.fromarray(np.rint(rgb.astype(np.float64)).astype(np.uint8))
    enlarged = math.ceil(MIN_WIDTH / pixels.width)
    pixels = pixels.resize((pixels.width * enlarged, pixels.height * enlarged), Image.Resampling.NEAREST)
    line = 2 * TEXT_SIZE
    panel = Image.new("RGB", (pixels.width, pixels.height + 2 * line), BACKGROUND)
    panel.paste(pixels, (0, line))
    pen = ImageDraw.Draw(panel)
    pen.text((0, line // 2), _fitted(title, font, panel.width), TEXT, font, anchor="lm")
    if bar is not None:
        left, right, colours = bar
        middle = line + pixels.height + line // 2
        start, end = (math.ceil(font.getlength(text)) + GAP for text in (left, right))
        pen.text((0, middle), left, TEXT, font, anchor="lm")
        pen.text((panel.width, middle), right, TEXT, font, anchor="rm")
        stripe = Image.fromarray(np.rint(colours).astype(np.uint8)[None])
        panel.paste(stripe.resize((panel.width - start - end, TEXT_SIZE)), (start, middle - TEXT_SIZE // 2))
    return panel


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A text of one line that is no wider than `width` pixels: of a long path the end is kept."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    shown = text
    while shown and font.getlength(shown) > width:
        text = text[1:]
        shown = f"...{text}" if text else ""
    return shown
