"""What the tests of calib/ share: a planted overflow, photos, and graphs small enough for one thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from calib.samples import Sample, photo_samples
from export.calibration import calibration_set
from export.graphs import GraphOptions
from spd.config import PRESETS
from spd.data.rooms import render_room
from spd.models import SPD, seeded

SIZE = (160, 192)  # 30 L4 cells, as the `exported` bundle
OPTIONS = GraphOptions(*SIZE)
ATTO = PRESETS["atto"]
SCALE = 1.2e5

BLOCK, FFN = "encoder.stages.1.blocks.0", "decoder.b2.layers.0.ffn"

# The ONNX initialisers of both modules and what the scaling does to each.
SCALED: dict[str, dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "encoder": {
        "stages.1.blocks.0.fc1.weight": lambda w: w * SCALE,
        "stages.1.blocks.0.fc1.bias": lambda w: w * SCALE,
        "stages.1.blocks.0.fc2.weight": lambda w: w / SCALE,
    },
    "decoder": {
        "b2.layers.0.ffn.fc1.weight": lambda w: w * SCALE,
        "b2.layers.0.ffn.fc1.bias": lambda w: w * SCALE,
        "b2.layers.0.ffn.fc2.weight": lambda w: w / SCALE,
    },
}


def silent(share: float) -> None:
    assert 0 <= share <= 1


def planted() -> SPD:
    """Untrained atto with hidden activations of a block and of an FFN scaled up by 1.2e5 and down again behind.

    GELU is all but homogeneous for numbers that large and GRN is exactly so: the depths stay sensible in float32.
    """
    model = seeded(ATTO)
    with torch.no_grad():
        network: Any = model
        mlp, ffn = network.encoder.backbone["stages_1"].blocks[0].mlp, network.b2.layers[0].ffn
        for parameter in (mlp.fc1.weight, mlp.fc1.bias, mlp.grn.bias, ffn[0].weight, ffn[0].bias):
            parameter.mul_(SCALE)
        for parameter in (mlp.fc2.weight, ffn[-1].weight):
            parameter.div_(SCALE)
    return model


def photos_of(folder: Path, points: int, most: int = 9, seed: int = 0) -> list[Sample]:
    """The photos of a folder as samples."""
    return photo_samples(calibration_set(folder, *SIZE, points, silent, most=most, points=points, seed=seed))


def write_photos(folder: Path, count: int) -> Path:
    """Rendered rooms that are no letterbox's own size."""
    folder.mkdir()
    for seed in range(count):
        Image.fromarray(render_room(seed + 5, 96, 160).image).save(folder / f"room{seed}.png")
    rng = np.random.default_rng(0)
    (folder / "notes.txt").write_bytes(rng.bytes(8))  # no image, not looked at
    return folder
