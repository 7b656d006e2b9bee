"""The network that a run begins with."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor

from spd.checkpoint import NETWORKS, Network, load_checkpoint
from spd.checkpoint.files import read, some_names
from spd.checkpoint.naming import places, tensors
from spd.checkpoint.weights import choose
from spd.config import preset_name
from spd.errors import CheckpointError, one_line
from spd.training.settings import Settings


@dataclass(frozen=True)
class Start:
    """Where the first weights come from; what is not named is random, by the seed."""

    pretrained: bool = True
    """Take the backbone's from ImageNet; timm downloads them unless `backbone` is given."""
    backbone: Path | None = None
    """File with timm's ImageNet weights."""
    init: Path | None = None
    """Checkpoint to take all weights from, instead of the above."""


def new_network(settings: Settings, start: Start) -> Network:
    """The network before the first step, on the CPU, in training mode.

    Raises:
        CheckpointError: weights cannot be read, do not fit, or cannot be downloaded.
    """
    torch.manual_seed(settings.seed)
    network = NETWORKS[settings.network](settings.config)
    if start.init is not None:
        network.load_state_dict(_initial(settings, start.init))
    elif start.pretrained:
        name = settings.config.backbone
        if start.backbone is None:
            _load(network, _downloaded(name), f"timm's {name}")
        else:
            names = network.encoder.backbone.state_dict().keys()
            _load(network, _from_file(start.backbone, names), str(start.backbone))
    return network.train()


def _initial(settings: Settings, path: Path) -> Mapping[str, Tensor]:
    checkpoint = load_checkpoint(path, networks=(settings.network,))
    if checkpoint.config != settings.config:
        name = preset_name(checkpoint.config) or "a network of other widths"
        raise CheckpointError(f"{path} holds {name}, expected the run's preset, {settings.preset}; see --preset")
    return checkpoint.model.state_dict()


def _downloaded(name: str) -> Mapping[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True, features_only=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the ImageNet weights of {name} are not available ({one_line(error, whole=True)}); go online once, give "
            "their file with --backbone-weights, or train from scratch with --no-pretrained"
        ) from error


def _from_file(path: Path, names: Collection[str]) -> Mapping[str, Tensor]:
    """What a file has of the backbone's weights: all, if it was published by timm or made with it."""
    content = read(path).values
    tree = tensors(content)
    # A feature extractor of timm has stages_0 where its classifier has stages.0.
    leaves = [leaf._replace(parts=_as_extractor(leaf.parts)) for leaf in tree.leaves]
    found = places(tree._replace(leaves=leaves), names)
    whole = [place for place in found if len(place.weights) == len(names)]
    if not whole:
        return found[0].weights if found else {}
    return choose(whole, [place for place in found if place not in whole], tree, content, "auto", path)[0].weights


def _as_extractor(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(re.sub(r"\b(stem|stages)\.(\d+)\.", r"\1_\2.", ".".join(parts)).split("."))


def _load(network: Network, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy into the backbone, whose dense layers timm keeps as 1x1 convolutions in some variants."""
    expected = network.encoder.backbone.state_dict()
    found = {name: weight.flatten(1) if weight.shape[2:] == (1, 1) else weight for name, weight in weights.items()}
    if wrong := [name for name in expected if name not in found or found[name].shape != expected[name].shape]:
        raise CheckpointError(
            f"{source} does not fit the backbone {network.config.backbone}: {len(wrong)} of {len(expected)} weights "
            f"are missing or of another shape ({some_names(wrong)}); take timm's weights of that name"
        )
    network.encoder.backbone.load_state_dict({name: found[name] for name in expected})
