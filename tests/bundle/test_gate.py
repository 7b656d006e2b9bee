"""What the parity gate compares, and what it leaves out."""

from __future__ import annotations

import numpy as np
import torch

from export.reference import make_reference
from spd.bundle.gate import UNDECIDED, check_images, check_points, relative_error
from spd.config import PRESETS
from spd.models import seeded

HEIGHT, WIDTH = 160, 192


def test_errors_count_where_the_route_is_decided() -> None:
    expected = np.array([[2.0, 4.0, 5.0, 1.0]], dtype=np.float32)
    depth = np.array([[2.2, 4.0, 7.5, np.nan]], dtype=np.float32)
    error = relative_error(depth, expected, np.array([[False, False, True, True]]))
    np.testing.assert_allclose(error[0, :3], [0.1, 0.0, 0.0], rtol=1e-6)
    assert np.isnan(error[0, 3]), "a depth that is not a number always counts"


def test_undecided_routes_are_those_whose_last_place_float64_decides_by_a_hair() -> None:
    """The margin is computed again in float64, by sorting all weights."""
    model = seeded(PRESETS["atto"])
    reference = make_reference(model, HEIGHT, WIDTH, 512, lambda share: None)
    kept: list[torch.Tensor] = []
    exact = seeded(PRESETS["atto"]).double()
    exact.b3b.register_forward_hook(lambda _module, _inputs, outputs: kept.append(outputs[1]))
    with torch.inference_mode():
        images = torch.from_numpy(check_images(HEIGHT, WIDTH)).permute(0, 3, 1, 2).double() / 255
        exact.decode(exact.encode(images), torch.from_numpy(reference.points).double())
    weights = np.sort(kept[0].numpy(), axis=-1)[..., ::-1]
    margin = 1 - weights[..., 20] / weights[..., 19]
    clear = (margin < 0.5 * UNDECIDED) | (margin > 2 * UNDECIDED)
    np.testing.assert_array_equal(reference.undecided[clear], margin[clear] < UNDECIDED)
    assert reference.undecided.mean() < 0.02, "nearly all points are compared"


def test_points_hold_what_can_go_wrong_and_short_lists_begin_long_ones() -> None:
    points = check_points(480, 640, 4096, 0)
    found = {tuple(point) for point in points.tolist()}
    assert {(0, 0), (640, 480), (640, 0), (0, 480), (320, 240), (-24, -24), (664, 504), (0.5, 0.5)} <= found
    assert len(found) < 4096
    assert ((points < 0) | (points > (640, 480))).any(axis=1).sum() > 100
    np.testing.assert_array_equal(check_points(480, 640, 37, 0), points[:37])
