"""Where queries are drawn: at centres of pixels whose depth is known, without repetition, with their share of edges."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spd.data.query_sampler import EDGE_STEP, depth_edges, sample_queries

F32 = npt.NDArray[np.float32]

depth_maps = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([0.0, 1.0, 1.04, 2.0, 7.5]),
)


def looped_edges(depth: F32) -> npt.NDArray[np.bool_]:
    """Every pixel against its four neighbours."""
    rows, columns = depth.shape
    edges = np.zeros(depth.shape, np.bool_)
    for v in range(rows):
        for u in range(columns):
            for dv, du in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= v + dv < rows and 0 <= u + du < columns:
                    low, high = sorted((float(depth[v, u]), float(depth[v + dv, u + du])))
                    edges[v, u] |= low > 0 and high - low > EDGE_STEP * low
    return edges


@settings(deadline=None)
@given(depth_maps)
def test_edges_as_looped(depth: F32) -> None:
    assert (depth_edges(depth) == looped_edges(depth)).all()


@settings(deadline=None)
@given(depth_maps, st.integers(1, 60), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 2**32))
def test_what_is_drawn(depth: F32, count: int, edge_share: float, seed: int) -> None:
    known, edges = (depth > 0).sum(), looped_edges(depth)
    if not known:
        with pytest.raises(ValueError, match="no pixel has a depth"):
            sample_queries(depth, count, np.random.default_rng(seed), edge_share=edge_share)
        return
    points, metres = sample_queries(depth, count, np.random.default_rng(seed), edge_share=edge_share)
    assert points.dtype == metres.dtype == np.float32
    assert points.shape == (count, 2)
    columns, rows = (points - 0.5).astype(int).T
    assert (points == np.stack([columns, rows], axis=1) + 0.5).all()  # centres of pixels, u first
    assert (metres == depth[rows, columns]).all()
    assert (metres > 0).all()
    if count <= known:
        assert len({*zip(columns, rows, strict=True)}) == count
    assert edges[rows, columns].sum() >= min(round(count * edge_share), edges.sum())


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.01), (0.3, 0.3 + 0.7 * 340 / 39_940), (1.0, 1.0)])
def test_the_share_of_edges_is_that_and_not_more(share: float, expected: float) -> None:
    """Among the queries beyond the share, edges come as often as other pixels."""
    depth = np.ones((200, 200), np.float32)
    depth[:, 100:] = 2  # 400 of 40,000 pixels are edges
    drawn = [sample_queries(depth, 200, np.random.default_rng(seed), edge_share=share)[0] for seed in range(50)]
    assert np.isin(np.concatenate(drawn)[:, 0], (99.5, 100.5)).mean() == pytest.approx(expected, abs=0.004)


def test_uniform_over_the_known_pixels() -> None:
    """Chi-square of 64 cells stays below its 99.99% quantile, 114; only the left half is known."""
    depth = np.zeros((8, 16), np.float32)
    depth[:, :8] = 3
    counts = np.zeros((8, 16))
    for seed in range(400):
        points, _ = sample_queries(depth, 16, np.random.default_rng(seed))
        columns, rows = (points - 0.5).astype(int).T
        np.add.at(counts, (rows, columns), 1)
    assert counts[:, 8:].sum() == 0
    assert ((counts[:, :8] - 100) ** 2 / 100).sum() < 114


def test_the_seed_decides() -> None:
    depth = np.random.default_rng(0).random((20, 30), np.float32) + 1
    one, same, other = (sample_queries(depth, 50, np.random.default_rng(seed), edge_share=0.5)[0] for seed in (3, 3, 4))
    assert (one == same).all()
    assert (one != other).any()
