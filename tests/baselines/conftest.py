"""A Depth Anything small enough for tests, with weights that make its depth vary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config


def save_small(folder: Path, kind: str) -> Path:
    """Save 4 layers of width 32 with random weights; `kind` is metric (0..20 m) or relative."""
    backbone = Dinov2Config(
        image_size=70,
        patch_size=14,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DepthAnythingForDepthEstimation(config)
        with torch.no_grad():
            for parameter in model.parameters():
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
                parameter.copy_(torch.randn(parameter.shape) * (2 / max(fan_in, 1)) ** 0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def metric(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of weights that predict metres; do not write to it."""
    return save_small(tmp_path_factory.mktemp("metric"), "metric")


@pytest.fixture(scope="session")
def relative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of weights that predict inverse depth; do not write to it."""
    return save_small(tmp_path_factory.mktemp("relative"), "relative")
