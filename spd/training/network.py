"""The network at the start of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor

from spd.checkpoint import NETWORKS, Network, load_checkpoint
from spd.checkpoint.files import read, some_names, state_dict
from spd.config import preset_name
from spd.errors import CheckpointError, one_line
from spd.training.settings import Settings


@dataclass(frozen=True)
class Start:
    """Where the first weights come from; the rest is random and depends on the seed."""

    pretrained: bool = True
    """ImageNet weights for the backbone; timm downloads them unless `backbone` is given."""
    backbone: Path | None = None
    """File with timm's ImageNet weights."""
    init: Path | None = None
    """Checkpoint with all weights, used instead of the above."""


def new_network(settings: Settings, start: Start) -> Network:
    """The network before the first step, on the CPU, in training mode.

    Raises:
        CheckpointError: weights are unreadable, of another network, or not available for download.
    """
    torch.manual_seed(settings.seed)
    network = NETWORKS[settings.network](settings.config)
    if start.init is not None:
        network.load_state_dict(_weights_from_checkpoint(settings, start.init))
    elif start.pretrained:
        name = settings.config.backbone
        if start.backbone is None:
            _load_backbone(network, _imagenet_weights(name), f"timm's {name}")
        else:
            _load_backbone(network, _imagenet_weights_in(start.backbone), str(start.backbone))
    return network.train()


def _weights_from_checkpoint(settings: Settings, path: Path) -> Mapping[str, Tensor]:
    checkpoint = load_checkpoint(path, networks=(settings.network,))
    if checkpoint.config != settings.config:
        name = preset_name(checkpoint.config) or "a network of other widths"
        raise CheckpointError(f"{path} holds {name}, expected the run's preset, {settings.preset}; see --preset")
    return checkpoint.model.state_dict()


def _imagenet_weights(name: str) -> Mapping[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True, features_only=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the ImageNet weights of {name} are not available ({one_line(error, whole=True)}); go online once, "
            "give their file with --backbone-weights, or train from scratch with --no-pretrained"
        ) from error


def _imagenet_weights_in(path: Path) -> Mapping[str, Tensor]:
    """The weights in a file that timm published, under the names that timm gives them in a feature extractor."""
    weights = state_dict(read(path).weights, path)
    return {re.sub(r"^(stem|stages)\.(\d+)\.", r"\1_\2.", name): tensor for name, tensor in weights.items()}


def _load_backbone(network: Network, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy into the backbone, whose dense layers timm keeps as 1x1 convolutions in some variants."""
    expected = network.encoder.backbone.state_dict()
    found = {name: weight.flatten(1) if weight.shape[2:] == (1, 1) else weight for name, weight in weights.items()}
    if wrong := [name for name in expected if name not in found or found[name].shape != expected[name].shape]:
        raise CheckpointError(
            f"{source} does not fit the backbone {network.config.backbone}: {len(wrong)} of {len(expected)} weights "
            f"are missing or of another shape ({some_names(wrong)}); take timm's weights of that name"
        )
    network.encoder.backbone.load_state_dict({name: found[name] for name in expected})
