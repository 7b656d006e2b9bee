"""What the tests of checkpoints share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spd.checkpoint import load_checkpoint
from spd.config import SPDConfig
from spd.errors import CheckpointError


def refusal(path: Path, *preset: str, **settings: Any) -> str:
    """The message with which `load_checkpoint` refuses a file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, *preset, **settings)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) > 20
    return message


class Little(nn.Module):
    """A network in the place of SPD's, for tests about names: made in no time."""

    def __init__(self, config: SPDConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.ModuleDict({"stem_0": nn.Linear(3, 3), "stages_0": nn.Linear(3, 3)})
        self.b1 = nn.Linear(3, 2)
        self.b1.rpe = nn.Parameter(torch.zeros(5, 2))


def little_weights(seed: int) -> dict[str, Tensor]:
    """Random weights of it."""
    generator = torch.Generator().manual_seed(seed)
    blank = Little(SPDConfig()).state_dict()
    return {name: torch.rand(tensor.shape, generator=generator) for name, tensor in blank.items()}
