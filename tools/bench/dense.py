"""Depth Anything V2 Small as one ONNX graph."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from export.graphs import DEFAULT_OPSET
from spd.baselines.depth_anything import load_depth_anything
from tools.bench.subjects import dense_size


class Dense(nn.Module):
    """The network alone: without resizing before it or reading at points after it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = load_depth_anything(None).model.cpu()

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """A normalised image [B, 3, h, w], sides multiples of 14, to depth [B, h, w]."""
        depth_BHW: Tensor = self.model(image_B3HW).predicted_depth
        return depth_BHW


def export_dense(height: int, width: int, path: Path) -> None:
    """Write the network with random weights, for one image of `dense_size(height, width)`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecations
        program = torch.onnx.export(
            Dense().eval(),
            (torch.zeros(1, 3, *dense_size(height, width)),),
            dynamo=True,
            opset_version=DEFAULT_OPSET,
            input_names=["image"],
            output_names=["depth"],
            verbose=False,
        )
    assert program is not None
    program.save(path)
