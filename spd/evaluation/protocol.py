"""How a depth predictor is judged (paper 8), whatever it is: torch, ONNX Runtime, TensorRT, a baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spd.data.pairs import Pair, Pairs
from spd.errors import DataError
from spd.evaluation.points import Candidates, Pixels
from spd.utils.metrics import Metrics, bounded, depth_metrics, mean_metrics, median_ratio

CHUNK = 16_384
"""Most points of one call of `depth`: a whole number of the decoder's own calls (1,024 or 4,096 points)."""

DENSE = "dense"
"""The row of the whole image's valid pixels, or of a sample of them, beside those of K points."""

SCALE_POINTS = 1024
"""Points per image that the scale of `Settings.median_scale` is taken from."""


class EncodedImage(Protocol):
    """An image that can be asked for depths; `spd.Scene` is one."""

    def depth(self, points: npt.NDArray[np.float64], /) -> npt.NDArray[np.floating]:
        """Depth [K] in metres at points (u, v) [K, 2] in pixels of the image; pixel centres are at .5."""


class Predictor(Protocol):
    """What is evaluated; `spd.Model` is one."""

    def encode(self, image: npt.NDArray[np.uint8], /) -> EncodedImage:
        """Take an image, uint8 [H, W, 3], RGB, of any size."""


@dataclass(frozen=True)
class Settings:
    """What is asked of every image.

    Raises:
        ValueError: a number is below its least, a K stands there twice, or no row is asked for.
    """

    ks: tuple[int, ...] = (1, 64, 256, 1024)
    """Numbers of points, each sampled uniformly from the valid pixels."""
    dense: bool = True
    """Also ask valid pixels of the whole image."""
    dense_points: int | None = None
    """So many of them per image, sampled as K points are; all where there are fewer. None is all, as in the paper."""
    seed: int = 0
    """Chooses the points, together with the index of the pair and K."""
    eigen_crop: bool = False
    """Only pixels inside the Eigen crop count, in images of 480 x 640 pixels; others have no crop."""
    median_scale: bool = False
    """Multiply the predictions of each image by one number that gives them the median of the truth: for models whose
    scale is unknown, and to compare across data sets. The number comes from the same 1,024 points whatever K is, those
    of K = 1024: taken from the K points themselves, the single point of K = 1 would always be right."""

    def __post_init__(self) -> None:
        if not self.ks and not self.dense:
            raise ValueError("nothing to evaluate: expected a K, or dense")
        if any(k < 1 for k in self.ks) or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks is {self.ks}: expected different numbers of points from 1 on")
        if self.seed < 0 or (self.dense_points is not None and self.dense_points < 1):
            raise ValueError(f"seed {self.seed}, dense_points {self.dense_points}: expected 0 or more, 1 or more")


@dataclass(frozen=True, eq=False)
class Judged:
    """One image with its metrics, while the predictor still has it."""

    index: int
    pair: Pair
    scene: EncodedImage
    scale: float
    """What predictions were multiplied by: 1 without `median_scale`."""
    candidates: Candidates
    by_k: dict[str, Metrics]
    """Keys are "1", "64", ..., "dense"."""
    not_finite: int
    """Predictions, over all rows, that were NaN or infinite."""


@dataclass(frozen=True)
class Evaluation:
    """What came of it."""

    by_k: dict[str, Metrics]
    """Mean over images; keys are "1", "64", ..., "dense"."""
    images: int
    """Images that the means are over."""
    skipped: tuple[str, ...]
    """Why pairs were left out, one message each."""
    cropped: int
    """Images that the Eigen crop was applied to."""
    not_finite: int
    """Predictions that were NaN or infinite, and counted as the least or largest depth."""


def evaluate(
    predictor: Predictor,
    pairs: Pairs,
    settings: Settings | None = None,
    *,
    limit: int | None = None,
    watch: Callable[[Judged | None], None] | None = None,
) -> Evaluation:
    """Judge a predictor on a data set: metrics per image, then their mean over images.

    Truth counts between 1e-3 and 10 m. Predictions are clamped to that, after the median scale, and NaN is the lowest.

    Args:
        predictor: encodes an image, then answers points.
        pairs: the data. A pair that raises DataError, or has no valid depth, is left out and counted.
        settings: what to ask; the paper's protocol without a crop by default.
        limit: only the first so many pairs, those left out included; None is all.
        watch: called after every pair, with None for one that was left out.

    Raises:
        DataError: no pair is left.
        ValueError: the predictor returns another number of depths than it was asked.
        SPDError: whatever the predictor raises.
    """
    settings = settings or Settings()
    count = len(pairs) if limit is None else min(limit, len(pairs))
    rows: dict[str, list[Metrics]] = {label: [] for label in _labels(settings)}
    skipped: list[str] = []
    cropped = not_finite = 0
    for index in range(count):
        judged = None
        try:
            pair = pairs[index]
            candidates = Candidates(pair, index, settings.seed, settings.eigen_crop)
        except DataError as error:
            skipped.append(str(error))
        else:
            judged = _judge(predictor, pair, index, candidates, settings)
            for label, metrics in judged.by_k.items():
                rows[label].append(metrics)
            cropped += candidates.cropped
            not_finite += judged.not_finite
        if watch is not None:
            watch(judged)
    if len(skipped) == count:
        why = f"; the first: {skipped[0]}" if skipped else ""
        raise DataError(f"none of the {count} pairs of {pairs.title} can be used{why}")
    by_k = {label: mean_metrics(metrics) for label, metrics in rows.items()}
    return Evaluation(by_k, count - len(skipped), tuple(skipped), cropped, not_finite)


def ask(scene: EncodedImage, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Depth [K] in metres as predicted at points [K, 2], asked in chunks.

    Raises:
        ValueError: the predictor returns another number of depths.
    """
    parts = [scene.depth(points[start : start + CHUNK]) for start in range(0, len(points), CHUNK)]
    depth = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    if depth.shape != (len(points),):
        raise ValueError(f"the predictor returned depths {list(depth.shape)}, expected [{len(points)}]: one per point")
    return depth


def _labels(settings: Settings) -> list[str]:
    return [str(k) for k in settings.ks] + [DENSE] * settings.dense


def _judge(predictor: Predictor, pair: Pair, index: int, candidates: Candidates, settings: Settings) -> Judged:
    samples: list[Pixels] = [candidates.sample(k) for k in settings.ks]
    if settings.dense:
        samples.append(candidates.all(settings.dense_points))
    scene = predictor.encode(pair.image)
    scale = 1.0
    if settings.median_scale:
        known = candidates.sample(SCALE_POINTS)
        scale = median_ratio(ask(scene, known.points), known.truth)
    by_k, not_finite = {}, 0
    for label, pixels in zip(_labels(settings), samples, strict=True):
        predicted = ask(scene, pixels.points)
        not_finite += int((~np.isfinite(predicted)).sum())
        by_k[label] = depth_metrics(bounded(predicted * scale), pixels.truth)
    return Judged(index, pair, scene, scale, candidates, by_k, not_finite)
