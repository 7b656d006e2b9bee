"""The metrics of depth at K points (paper 8), in numpy and float64.

    AbsRel  = mean |d* - d| / d*
    RMSE    = sqrt(mean (d* - d)^2)                              metres
    delta_n = share of points with max(d / d*, d* / d) < 1.25^n,  n = 1, 2, 3

d* is the true depth and d the predicted one. A ratio of exactly 1.25^n does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import numpy.typing as npt

MIN_DEPTH, MAX_DEPTH = 1e-3, 10.0
"""Metres: truth counts strictly between them, predictions are clamped to them."""


@dataclass(frozen=True)
class Metrics:
    """The five numbers of one set of points, or their mean over images."""

    abs_rel: float
    rmse: float
    """Metres."""
    delta1: float
    """Share of points, 0..1, as delta2 and delta3."""
    delta2: float
    delta3: float


NAMES = tuple(field.name for field in fields(Metrics))
"""The metrics in the order of tables and files."""


def depth_metrics(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Metrics:
    """Compare depths point by point.

    Args:
        predicted: [K] metres, finite and above 0, see `bounded`.
        truth: [K] metres, finite and above 0; K is at least 1.

    Raises:
        ValueError: the two differ in shape, there are no points, or a depth is not finite and above 0.
    """
    d, d_true = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if d.shape != d_true.shape or d.ndim != 1 or d.size == 0:
        raise ValueError(f"depths {list(d.shape)} and {list(d_true.shape)}: expected two [K] with K of at least 1")
    for name, depth in (("predicted", d), ("true", d_true)):
        if not (np.isfinite(depth) & (depth > 0)).all():
            raise ValueError(f"a {name} depth is not finite and above 0; leave out invalid truth, bound predictions")
    error = d_true - d
    ratio = np.maximum(d / d_true, d_true / d)
    deltas = (float((ratio < 1.25**n).mean()) for n in (1, 2, 3))
    return Metrics(float((np.abs(error) / d_true).mean()), float(np.sqrt((error**2).mean())), *deltas)


def mean_metrics(metrics: Sequence[Metrics]) -> Metrics:
    """The mean of each metric over images, every image counting the same; RMSE too is a mean of the images' RMSE.

    Raises:
        ValueError: there are no images.
    """
    if not metrics:
        raise ValueError("no metrics to take the mean of")
    return Metrics(*np.mean([astuple(one) for one in metrics], axis=0).tolist())


def bounded(predicted: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Predictions [...] clamped to `MIN_DEPTH`..`MAX_DEPTH` metres, NaN to the lowest."""
    depth = np.asarray(predicted, dtype=np.float64)
    return np.clip(np.where(np.isnan(depth), MIN_DEPTH, depth), MIN_DEPTH, MAX_DEPTH)


def median_ratio(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """What to multiply predictions [K] by, so that their median is that of the truth [K].

    NaN and depths below 0 count as 0. It is 1 where there is no such number, as the median of the predictions is 0 or
    infinite.
    """
    depth = np.asarray(predicted, dtype=np.float64)
    median = float(np.median(np.where(depth > 0, depth, 0.0)))
    ratio = float(np.median(np.asarray(truth, dtype=np.float64))) / median if 0 < median < np.inf else 1.0
    return ratio if ratio < np.inf else 1.0
