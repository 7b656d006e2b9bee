"""Metrics of a network in training at the queries of the validation images (paper 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spd.training.samples import Batch
from spd.utils.metrics import bounded, depth_metrics

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MEASURED = ("abs_rel", "rmse", "delta1")
"""The fields of `spd.utils.metrics.Metrics` that are measured."""


def validate(
    network: nn.Module, batches: Iterable[Batch], fabric: Fabric, skipped: Callable[[list[str]], None]
) -> dict[str, float]:
    """Means of the `MEASURED` metrics over all images of all processes.

    Args:
        network: SPD or a baseline, on the device of `fabric`; left in training mode.
        batches: of this process.
        fabric: device, precision and processes.
        skipped: called with the reasons why pairs are broken.
    """
    totals = torch.zeros(len(MEASURED) + 1)
    network.eval()
    with torch.inference_mode(), fabric.autocast():
        for batch in batches:
            skipped(batch["skipped"])
            depth_BK = network(unit(batch["image"].to(fabric.device)), batch["points"].to(fabric.device))
            for depth_K, target_K in zip(depth_BK.float().cpu().numpy(), batch["depth"].numpy(), strict=True):
                metrics = depth_metrics(bounded(depth_K), target_K)
                totals += torch.tensor([*(getattr(metrics, name) for name in MEASURED), 1.0])
    network.train()
    *sums, images = total(totals, fabric).tolist()
    return {name: value / images for name, value in zip(MEASURED, sums, strict=True)}


def unit(image: Tensor) -> Tensor:
    """Images uint8 [B, 3, H, W], 0..255, to float32, 0..1."""
    return image.float() / 255


def total(values: Tensor, fabric: Fabric) -> Tensor:
    """The sum over all processes."""
    summed = fabric.all_reduce(values.to(fabric.device), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return summed
