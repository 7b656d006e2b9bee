"""Dense networks as ONNX files of one graph each: `dense.onnx` and `dense.int8.onnx`."""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.bench.subjects import dense_size
from tools.bench.tracing import write_onnx


class DepthAnything(nn.Module):
    """Depth Anything V2 Small alone: without resizing before it or reading at points after it."""

    def __init__(self) -> None:
        super().__init__()
        from spd.baselines.depth_anything import load_depth_anything

        self.model = load_depth_anything(None).model.cpu()

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """A normalised image [B, 3, h, w], sides multiples of 14, to depth [B, h, w]."""
        depth_BHW: Tensor = self.model(image_B3HW).predicted_depth
        return depth_BHW


def make_yolo(name: str) -> nn.Module:
    """A depth network of the ultralytics that the user installed, from its configuration, as its own export has it.

    An image [B, 3, h, w] in 0..1, sides multiples of 32, becomes depth [B, 1, h, w]. Convolutions have their
    normalisation in their weights.
    """
    # It asks the network whether it is the newest, installs what it misses, and writes settings into the home folder.
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    with tempfile.TemporaryDirectory(prefix="spd-bench.") as settings:
        os.environ["YOLO_CONFIG_DIR"] = settings
        model: nn.Module = import_module("ultralytics.nn.tasks").DepthModel(f"{name}-depth.yaml", verbose=False)
        model = model.eval().fuse(verbose=False)  # type: ignore[operator] # a method of its own
    for module in model.modules():
        if hasattr(module, "export"):
            module.export = True  # type: ignore[assignment] # depth in the size of the image
    return model


def export_dense(network: str, height: int, width: int, folder: Path, int8: bool) -> None:
    """Write a network with random weights, for one image of `dense_size(network, height, width)`.

    Args:
        network: dav2s, or yolo26 with its scale.
        height: of the image that the others get, pixels.
        width: likewise.
        folder: where to.
        int8: also write it with products by weights in 8 bits, by the recipe of `spd-export`. Accuracy is not judged.
    """
    torch.manual_seed(0)
    model = DepthAnything() if network == "dav2s" else make_yolo(network)
    shape, path = (1, 3, *dense_size(network, height, width)), folder / "dense.onnx"
    write_onnx(model, (torch.zeros(shape),), path, ["image"], ["depth"])
    if int8:
        import onnx_ir

        from export.quantise import Reader, quantised_graph

        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        quantised = quantised_graph(path, "encoder", "int8", Reader(iter([{"image": image}]), 1, lambda _: None), ())
        onnx_ir.save(quantised, folder / "dense.int8.onnx")
