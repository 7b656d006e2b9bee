"""Where to ask for depth while training and evaluating (paper 7.3, 8)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EDGE_SHARE = 0.3
"""Share of the queries that lie on depth edges, if edges are sampled at all (paper 7.3)."""

EDGE_STEP = 0.05
"""A pixel is on a depth edge if the depth of its right or lower neighbour differs from it by more than this share.

A floor seen from 1.5 m height at 5 m distance falls off by 0.013 a pixel in an image of 320 columns.
"""


def sample_queries(
    depth: npt.NDArray[np.float32], count: int, rng: np.random.Generator, *, edge_share: float = 0.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Draw queries among the pixels whose depth is known.

    Args:
        depth: float32 [H, W], metres; 0 where nothing was measured.
        count: K, at least 1. Each pixel is drawn at most once, unless there are fewer than K.
        rng: source of randomness.
        edge_share: share of the queries drawn among the pixels on depth edges, 0..1, or as many as there are; the rest
            is drawn among all pixels that are left, edges or not.

    Returns:
        Points (u, v), float32 [K, 2], pixels, at the centres of the pixels drawn, and their depth, float32 [K] metres.

    Raises:
        ValueError: no pixel has a depth.
    """
    known = np.flatnonzero(depth > 0)
    if not len(known):
        raise ValueError("no pixel has a depth")
    edges = np.flatnonzero(depth_edges(depth)) if edge_share > 0 else known[:0]
    on_edges = rng.choice(edges, min(round(count * edge_share), len(edges)), replace=False)
    enough = count <= len(known)
    left = np.delete(known, np.searchsorted(known, on_edges)) if enough else known
    drawn = np.concatenate([on_edges, rng.choice(left, count - len(on_edges), replace=not enough)])
    rows, columns = np.divmod(drawn, depth.shape[1])
    points = np.stack([columns, rows], axis=1).astype(np.float32) + np.float32(0.5)
    return points, depth.ravel()[drawn].astype(np.float32)


def depth_edges(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Pixels on either side of a step in depth of more than `EDGE_STEP`: bool [H, W]; unknown pixels are not."""
    edges = np.zeros(depth.shape, np.bool_)
    for near, far in (((slice(None), slice(-1)), (slice(None), slice(1, None))), ((slice(-1),), (slice(1, None),))):
        first, second = depth[near], depth[far]
        lower = np.minimum(first, second)
        step = (np.abs(first - second) > EDGE_STEP * lower) & (lower > 0)
        edges[near] |= step
        edges[far] |= step
    return edges
