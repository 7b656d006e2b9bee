"""`evaluate`, with predictors whose error is known."""

from dataclasses import astuple

import numpy as np
import pytest
from evaluation_support import F64, Lookup, SomePairs, constant, pair

from spd.errors import DataError
from spd.evaluation import Settings, evaluate
from spd.evaluation.protocol import CHUNK, Judged
from spd.utils.metrics import Metrics, bounded, depth_metrics

PERFECT = (0, 0, 1, 1, 1)


def different(height: int = 40, width: int = 50, count: int = 3) -> SomePairs:
    """Every pixel has another depth, a quarter none."""
    rng = np.random.default_rng(7)
    depths = np.where(rng.random((count, height, width)) < 0.25, 0, 0.5 + 9 * rng.random((count, height, width)))
    return SomePairs([pair(depth.astype(np.float32), f"{i}.png", mark=i) for i, depth in enumerate(depths)])


def near(metrics: Metrics, expected: tuple[float, ...]) -> bool:
    return bool(astuple(metrics) == pytest.approx(expected, abs=1e-6))


def test_perfect() -> None:
    data = different()
    found = evaluate(Lookup(data), data)
    assert list(found.by_k) == ["1", "64", "256", "1024", "dense"]
    assert all(near(metrics, PERFECT) for metrics in found.by_k.values())
    assert (found.images, found.skipped, found.cropped, found.not_finite) == (3, (), 0, 0)


def test_ten_percent_too_far() -> None:
    data = different()
    found = evaluate(Lookup(data, lambda depth: depth * 1.1), data, Settings(ks=(5, 50), dense=False))
    assert list(found.by_k) == ["5", "50"]
    for metrics in found.by_k.values():
        # The bound of 10 m makes errors at depths beyond 9.09 m smaller.
        assert 0.095 < metrics.abs_rel <= 0.1 + 1e-6
        assert metrics.delta1 == 1


def test_known_depths() -> None:
    # 3 m predicted where it is 2 and 4 m: relative errors 1/2 and 1/4, ratios 1.5 and 1.33.
    data = constant(2, 4)
    found = evaluate(Lookup(data, lambda depth: np.full_like(depth, 3)), data)
    for metrics in found.by_k.values():
        assert near(metrics, (0.375, 1, 0, 1, 1))


def test_every_image_counts_the_same() -> None:
    # One valid pixel that is wrong by a factor 2, and an image of 1,200 that are right.
    data = constant(2, 2)
    lone = np.zeros((30, 40), np.float32)
    lone[5, 6] = 1
    data.items = [pair(lone, mark=0), data.items[1]]
    found = evaluate(Lookup(data, lambda depth: np.full_like(depth, 2)), data, Settings(ks=(64,)))
    for metrics in found.by_k.values():
        assert near(metrics, (0.5, 0.5, 0.5, 0.5, 0.5))


def test_metrics_are_those_of_the_points_asked() -> None:
    data, ks = different(), (1, 64, 1024)
    lookup = Lookup(data, lambda depth: depth + np.sin(7 * depth))
    found = evaluate(lookup, data, Settings(ks=ks, seed=3))
    rows: dict[str, list[tuple[float, ...]]] = {label: [] for label in ("1", "64", "1024", "dense")}
    for label, (number, points) in zip([*rows] * 3, lookup.asked, strict=True):
        item = data[number]
        truth = np.array([item.depth[int(v), int(u)] for u, v in points.tolist()], np.float64)
        assert (truth > 0).all()
        assert (points % 1 == 0.5).all()
        assert len(points) == ((item.depth > 0).sum() if label == "dense" else int(label))
        predicted = np.clip((truth + np.sin(7 * truth)).astype(np.float32), 1e-3, 10)
        rows[label].append(astuple(depth_metrics(predicted, truth)))
    for label, values in rows.items():
        assert astuple(found.by_k[label]) == pytest.approx(np.mean(values, axis=0), rel=1e-6)
    assert lookup.encoded == [0, 1, 2]  # each once


def test_points_are_the_same_for_every_predictor_and_choice_of_rows() -> None:
    data = different()
    first, other = Lookup(data), Lookup(data, lambda depth: depth / 2)
    evaluate(first, data, Settings(ks=(64, 256)))
    evaluate(other, data, Settings(ks=(256,), dense=False))
    wanted = [points.tolist() for _, points in first.asked if len(points) == 256]
    assert [points.tolist() for _, points in other.asked] == wanted


def test_bad_predictions_are_bounded_and_counted() -> None:
    data = constant(2.0)

    def change(depth: F64) -> F64:
        return np.resize([np.nan, np.inf, -np.inf, -3, 2], depth.shape)

    found = evaluate(Lookup(data, change), data, Settings(ks=(5,), dense=False))
    assert found.not_finite == 3
    low = (2 - 1e-3) / 2
    expected = ((low + 4 + low + low + 0) / 5, np.sqrt((3 * (2 - 1e-3) ** 2 + 64) / 5), 0.2, 0.2, 0.2)
    assert astuple(found.by_k["5"]) == pytest.approx(expected)


def test_dense_asks_each_valid_pixel_once_in_chunks() -> None:
    data = different(200, 190, count=1)
    lookup = Lookup(data)
    found = evaluate(lookup, data, Settings(ks=()))
    assert near(found.by_k["dense"], PERFECT)  # depths came back in order
    sizes = [len(points) for _, points in lookup.asked]
    assert len(sizes) == 2
    assert sizes[0] == CHUNK
    points = np.concatenate([points for _, points in lookup.asked])
    assert len(np.unique(points, axis=0)) == len(points) == (data[0].depth > 0).sum()


def test_at_most_so_many_dense_points() -> None:
    data = different()
    lookup = Lookup(data)
    evaluate(lookup, data, Settings(ks=(), dense_points=100))
    assert [len(points) for _, points in lookup.asked] == [100] * 3


def test_the_crop() -> None:
    depth = np.full((480, 640), 4, np.float32)
    depth[45:471, 41:601] = 2
    data = SomePairs([pair(depth), pair(np.full((20, 20), 2, np.float32))])
    data.items[1].image[0, 0] = 1  # type: ignore[union-attr]
    lookup = Lookup(data, lambda depth: np.full_like(depth, 2))
    cropped = evaluate(lookup, data, Settings(eigen_crop=True))
    assert all(near(metrics, PERFECT) for metrics in cropped.by_k.values())
    assert cropped.cropped == 1
    whole = evaluate(lookup, data, Settings())
    assert whole.cropped == 0
    share = 1 - 426 * 560 / (480 * 640)  # of the first image is 4 m away
    assert whole.by_k["dense"].abs_rel == pytest.approx(0.5 * share / 2)


@pytest.mark.parametrize("factor", [0.01, 3, 1000])
def test_median_scale_undoes_a_factor(factor: float) -> None:
    data = different()
    found = evaluate(Lookup(data, lambda depth: depth * factor), data, Settings(median_scale=True))
    assert all(near(metrics, PERFECT) for metrics in found.by_k.values())


def test_median_scale_is_one_number_per_image() -> None:
    data, scales = different(), []
    lookup = Lookup(data, lambda depth: 5 * depth**2)

    def watch(judged: Judged | None) -> None:
        assert judged is not None
        scales.append(judged.scale)

    settings = Settings(ks=(1, 64, 1024), median_scale=True)
    found = evaluate(lookup, data, settings, watch=watch)
    assert found.by_k["1"].abs_rel > 0.05  # a scale from the one point itself would make it 0
    by_size = {size: [points for _, points in lookup.asked if len(points) == size] for size in (1, 64, 1024)}
    values = []
    for number in range(3):
        depth = data[number].depth.astype(np.float64)
        known = by_size[1024][2 * number]  # asked for the scale, then for the row
        assert known.tolist() == by_size[1024][2 * number + 1].tolist()
        truth = np.array([depth[int(v), int(u)] for u, v in known.tolist()])
        scale = np.median(truth) / np.median(5 * truth**2)
        assert scales[number] == pytest.approx(scale)
        truth = np.array([depth[int(v), int(u)] for u, v in by_size[64][number].tolist()])
        values.append(astuple(depth_metrics(bounded(5 * truth**2 * scale), truth)))
    assert astuple(found.by_k["64"]) == pytest.approx(np.mean(values, axis=0), rel=1e-5)


def test_pairs_that_cannot_be_used_are_left_out() -> None:
    data = constant(2, 4, 8, 8)
    data.items = [
        data.items[0],
        DataError("b.png is damaged"),
        pair(np.zeros((3, 3), np.float32), "c.png"),
        *data.items,
    ]
    seen = []
    found = evaluate(
        Lookup(data, lambda depth: np.full_like(depth, 2)), data, Settings(ks=(1,)), limit=4, watch=seen.append
    )
    assert (found.images, len(found.skipped)) == (2, 2)
    assert found.skipped[0] == "b.png is damaged"
    assert "c.png has no depth" in found.skipped[1]
    assert [judged and judged.index for judged in seen] == [0, None, None, 3]
    assert data.read == [0, 1, 2, 3]


def test_skipping_does_not_move_the_points_of_others() -> None:
    data = different()
    whole, rest = Lookup(data), Lookup(data)
    evaluate(whole, data, Settings(ks=(64,), dense=False))
    data.items = [DataError("gone"), *data.items[1:]]
    evaluate(rest, data, Settings(ks=(64,), dense=False))
    assert [points.tolist() for _, points in rest.asked] == [points.tolist() for _, points in whole.asked[1:]]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_nothing_left(count: int) -> None:
    data = SomePairs([DataError(f"{i}.png is damaged") for i in range(count)])
    with pytest.raises(DataError, match=f"none of the {count} pairs of some data, test can be used") as caught:
        evaluate(Lookup(data), data)
    assert ("0.png is damaged" in str(caught.value)) == (count > 0)


def test_a_predictor_that_loses_points() -> None:
    data = constant(2)
    with pytest.raises(ValueError, match=r"returned depths \[63\], expected \[64\]"):
        evaluate(Lookup(data, lambda depth: depth[1:]), data, Settings(ks=(64,)))


@pytest.mark.parametrize(
    "wrong",
    [{"ks": (), "dense": False}, {"ks": (0,)}, {"ks": (4, 4)}, {"seed": -1}, {"dense_points": 0}],
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Settings(**wrong)  # type: ignore[arg-type]
