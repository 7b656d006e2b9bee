"""One image's result for the eye: photo, ground truth, prediction and relative error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from spd.commands.infer.picture import depth_range
from spd.evaluation.points import measured
from spd.evaluation.protocol import EncodedImage, Judged, ask
from spd.utils.metrics import bounded
from spd.utils.plots import WIDTH, figure

GRID = 4
"""Distance in pixels of the points that are asked for the picture; in between it is interpolated."""
LARGEST_ERROR = 0.5
"""Relative error that gets the last colour."""
TITLE_INCHES = 0.7
"""What the titles of two rows of panels take."""
HEIGHTS = 4.0, 2 * WIDTH
"""Lowest and highest picture, inches."""
TITLE_LENGTH = 44
"""Most characters of a title: of a longer path the end is kept."""

F32 = npt.NDArray[np.float32]


def draw(judged: Judged) -> Figure:
    """Draw one image that `evaluate` has just judged, while it can still be asked.

    Both depths have the colours of the range of the truth, near is red; a prediction beyond it has the end's colour.
    Hatched are pixels without a true depth, and in the error also those outside the crop.

    Raises:
        SPDError: whatever the predictor raises.
    """
    counted, known = judged.candidates.valid, measured(judged.pair.depth)
    height, width = known.shape
    truth = np.ma.masked_where(~known, judged.pair.depth)
    predicted = densified(judged.scene, height, width, judged.scale)
    limits = depth_range(truth[counted].data)
    assert limits is not None  # there are no Candidates without a valid pixel
    error = np.ma.masked_where(~counted, np.abs(predicted - truth) / truth)
    label, metrics = list(judged.by_k.items())[-1]
    which = label if label.isalpha() else f"K = {label}"

    picture_height = np.clip(TITLE_INCHES + 0.87 * WIDTH * height / width, *HEIGHTS)  # the bars take 13% of the width
    made, (photo, error_panel, *depth_panels) = figure(float(picture_height), columns=2, rows=2)
    _show(photo, judged.pair.image, _fitted(judged.pair.name))
    title = f"relative error, mean {metrics.abs_rel:.3f} ({which})"
    shown = _show(error_panel, error, title, cmap="turbo", vmin=0, vmax=LARGEST_ERROR)
    made.colorbar(shown, ax=[photo, error_panel], label="|d* - d| / d*", extend="max")
    colours = {"cmap": "turbo_r", "vmin": limits[0], "vmax": limits[1]}
    _show(depth_panels[0], truth, "ground truth d*", **colours)
    shown = _show(depth_panels[1], predicted, "prediction d", **colours)
    made.colorbar(shown, ax=depth_panels, label="depth [m]")
    return made


def _show(axes: Axes, pixels: npt.NDArray[np.generic], title: str, **colours: Any) -> AxesImage:
    """Show pixels [H, W] or [H, W, 3] under a title; what is masked is hatched."""
    axes.set_title(title, parse_math=False, fontsize="medium")
    axes.set(xticks=[], yticks=[])
    axes.patch.set(facecolor="#cccccc", hatch="////", edgecolor="#888888")
    return axes.imshow(pixels, interpolation="nearest", **colours)


def _fitted(name: str) -> str:
    """A name of one line and at most `TITLE_LENGTH` characters: of a long path the end is kept."""
    shown = "".join(character if character.isprintable() else "?" for character in name)
    return shown if len(shown) <= TITLE_LENGTH else f"...{shown[3 - TITLE_LENGTH :]}"


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
