"""What a run carries from step to step, and its files: `last.pt` to resume from, `model.pt` with the best weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from spd.checkpoint import save_checkpoint
from spd.errors import CheckpointError, one_line
from spd.training.optimizers import new_optimizers
from spd.training.settings import Settings

LAST = "last.pt"
"""Everything that --resume needs."""
BEST = "model.pt"
"""The weights with the lowest AbsRel on the validation images: for `spd-export` and `spd-eval`."""


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    """Steps done."""
    best_abs_rel: float = math.inf
    """Lowest AbsRel on the validation images so far."""
    best_step: int = 0
    """Steps done when it was reached; 0 if it never was."""
    seconds: float = 0.0
    """Time spent on steps, in all sittings."""
    skipped: int = 0
    """How often a training pair could not be used, over all processes."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last row of metrics.csv, means over all processes."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """Read back `vars` of one; fields that a later version dropped or an earlier one lacked are defaults."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass
class State:
    """Network, optimisers and average of a run."""

    settings: Settings
    network: nn.Module
    optimizers: tuple[Optimizer, ...]
    average: AveragedModel | None
    progress: Progress = field(default_factory=Progress)
    begun: dict[str, Any] = field(default_factory=dict)
    """What the numbers depend on besides the settings: `processes`, `pairs` of the data set, `precision`."""
    stopped: bool = False
    """Whether somebody asked to stop before the last step."""

    @property
    def evaluated(self) -> nn.Module:
        """The network to validate and to deploy: the average, if one is kept."""
        return self.network if self.average is None else self.average

    def update_average(self) -> None:
        """Average in the weights after a step, before the step is counted.

        AveragedModel.update_parameters does the same and waits for the GPU to read its counter.
        """
        if self.average is None:
            return
        averaged, current = (list(network.parameters()) for network in (self.average.module, self.network))
        with torch.no_grad():
            get_ema_multi_avg_fn(self.settings.ema if self.progress.step else 0.0)(averaged, current, 0)
            self.average.n_averaged += 1

    def set_learning_rate(self, steps: int) -> float:
        """Set the learning rate of the next of `steps` steps (paper 7.3). Returns the decoder's."""
        factor = learning_rate_factor(self.progress.step, steps, self.settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
        return self.settings.lr * factor

    def save_last(self, folder: Path) -> None:
        """Write `LAST` atomically."""
        average = {} if self.average is None else {"ema": self.average.state_dict()}
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        self._write(folder / LAST, self.network, optimizers=optimizers, begun=self.begun, **average)

    def save_best(self, folder: Path) -> None:
        """Write `BEST` atomically."""
        self._write(folder / BEST, self.evaluated)

    def _write(self, path: Path, network: nn.Module, **extra: Any) -> None:
        settings = self.settings
        extra |= {"settings": settings.as_dict(), "progress": vars(self.progress)}
        size = settings.height, settings.width
        save_checkpoint(path, network, settings.config, network=settings.network, size=size, **extra)

    def restore(self, content: dict[str, Any]) -> None:
        """Load what `read_last` read.

        Raises:
            CheckpointError: it does not fit the network.
        """
        try:
            self.network.load_state_dict(content["model"])
            for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            if self.average is not None:
                self.average.load_state_dict(content["ema"])
            self.progress = Progress.from_dict(content["progress"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{LAST} does not fit its own settings: {one_line(error)}; start a new run"
            ) from error


def new_state(settings: Settings, network: nn.Module) -> State:
    """The state before the first step; the optimisers and the average are made for `network`."""
    assert not any(True for _ in network.buffers())  # update_average leaves buffers out
    average = AveragedModel(network) if settings.ema else None
    return State(settings, network, new_optimizers(settings, network), average)


def learning_rate_factor(step: int, steps: int, settings: Settings) -> float:
    """Learning rate of step `step` (from 0) of `steps` over its peak: linear warm-up, then half a cosine."""
    if step < settings.warmup:
        return (step + 1) / (settings.warmup + 1)
    share = (step - settings.warmup) / max(1, steps - 1 - settings.warmup)
    return settings.final_lr_scale + (1 - settings.final_lr_scale) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def read_last(folder: Path) -> dict[str, Any]:
    """The content of `LAST`: `model`, `optimizers`, `progress`, `settings`; `begun` and `ema` if the run had them.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = folder / LAST
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, so there is nothing to resume; give the folder of a run")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"model", "optimizers", "progress", "settings"} - set(content)
    except Exception as error:  # a broken pickle can raise anything
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from error
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}; it is not the last checkpoint of a run")
    return content
