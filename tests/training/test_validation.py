"""The metrics of a run, against those of `spd.utils.metrics` image by image."""

from __future__ import annotations

from dataclasses import astuple

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from spd.training.samples import Batch
from spd.training.validation import validate
from spd.utils.metrics import depth_metrics, mean_metrics


class Answers(nn.Module):
    """A network whose depth is u, in metres, while it is evaluated."""

    def forward(self, image: Tensor, points: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        assert image.dtype == torch.float32
        assert float(image.max()) <= 1
        return points[..., 0]


def batch(predicted: list[list[float]], truth: list[list[float]], skipped: list[str]) -> Batch:
    return Batch(
        image=torch.full((len(truth), 3, 4, 4), 255, dtype=torch.uint8),
        points=torch.tensor(predicted)[..., None].expand(-1, -1, 2),
        depth=torch.tensor(truth),
        skipped=skipped,
    )


def test_the_mean_over_images() -> None:
    """Batches of different sizes: each image counts the same."""
    predicted = [[1.0, 2.0], [3.0, 4.0], [9.0, 0.5]]
    truth = [[1.5, 2.0], [2.0, 4.5], [3.0, 0.45]]
    batches = [batch(predicted[:2], truth[:2], []), batch(predicted[2:], truth[2:], ["a is broken"])]
    network, skipped = Answers().train(), list[str]()
    found = validate(network, batches, Fabric(accelerator="cpu"), skipped.extend)
    expected = mean_metrics([depth_metrics(p, t) for p, t in zip(predicted, truth, strict=True)])
    assert found == pytest.approx(
        dict(zip(("abs_rel", "rmse", "delta1"), astuple(expected)[:3], strict=True)), rel=1e-6
    )
    assert skipped == ["a is broken"]
    assert network.training


def test_predictions_are_bounded() -> None:
    """As everywhere: 1 mm to 10 m, and NaN is 1 mm."""
    one = batch([[float("inf"), float("nan")]], [[8.0, 2.0]], [])
    found = validate(Answers(), [one], Fabric(accelerator="cpu"), list[str]().extend)
    assert found["abs_rel"] == pytest.approx((2 / 8 + 1.999 / 2) / 2)
