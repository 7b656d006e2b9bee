"""Everything that decides what a training run computes. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from spd.config import PRESETS, SPDConfig, check_size
from spd.data.sources import ROOMS
from spd.errors import InputError

NETWORKS = ("spd", "bilinear-mlp")
"""What can be trained: the network, and the paper's baseline (its section 8)."""

OPTIMIZERS = ("adamw", "muon")
"""What moves the weights; see `spd.training.optimizers`."""

EPOCH_OF_ROOMS = 24_231
"""Rooms that count as an epoch: as many as the Eigen split has training pairs."""

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Settings:
    """A training run; the defaults are the paper's (its table 7.3). Kept in its checkpoints.

    Raises:
        InputError: a value is out of its range.
    """

    data: str = ROOMS
    """"rooms", or the path of NYU Depth V2."""
    network: str = "spd"
    """One of `NETWORKS`."""
    preset: str = "tiny"
    """One of `spd.config.PRESETS`."""
    height: int = 480
    """Height of the training image, pixels; a multiple of 32."""
    width: int = 640
    """Width of the training image, pixels; a multiple of 32."""
    batch: int = 8
    """Images per process and step."""
    points: int = 256
    """K_train, queries per image."""
    edge_share: float = 0.0
    """Share of the queries drawn on depth edges, 0..1; the paper's option is 0.3."""
    epochs: int = 30
    """Passes through the data, unless `max_steps` says when to stop."""
    max_steps: int | None = None
    """Steps of the whole run, over which the learning rate falls."""
    lambda_var: float = 0.5
    """Share of the mean log error that the loss forgives, 0..1 (paper 7.2): 1 ignores an image's scale, 0 forgives
    nothing."""
    optimizer: str = "adamw"
    """One of `OPTIMIZERS`."""
    lr: float = 1e-4
    """Peak learning rate of everything but the backbone."""
    encoder_lr_scale: float = 0.1
    """Learning rate of the backbone over `lr`. 1 suits a backbone trained from scratch."""
    final_lr_scale: float = 0.01
    """Learning rate at the end of the cosine over that at its start."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = 0.01
    """Weight decay of the optimiser."""
    dropout: float = 0.1
    """Dropout in self- and cross-attention. 0 suits unlimited data such as rooms."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Decay of the moving average of the weights per step, such as 0.999; 0 keeps none."""
    seed: int = 0
    """Seed of the initial weights, the order of the data, augmentation, queries and dropout."""
    augment: bool = True
    """Flip, resize, crop and jitter colours. Rooms are rendered in the shapes of photos instead."""
    holes: bool = False
    """Train on rooms as a structured-light sensor measures them: with holes and noise. Validation is exact."""
    overfit: int | None = None
    """Train and validate on this many first training pairs without augmentation, to check that the loss can fall."""
    val_images: int = 64
    """Validation images, spread evenly over the test split."""
    val_every: int = 1000
    """Steps between two validations."""
    log_every: int = 20
    """Steps per row of metrics.csv."""
    save_every: int = 200
    """Steps between two checkpoints to resume from."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"there is no preset {self.preset!r}; choose one of {', '.join(PRESETS)}")
        if self.network not in NETWORKS:
            raise InputError(f"there is no network {self.network!r} to train; choose one of {', '.join(NETWORKS)}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"there is no optimizer {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
        try:
            check_size(self.height, self.width, self.config)
        except ValueError as error:
            raise InputError(str(error)) from error
        for name in ("batch", "points", "epochs", "val_images", "val_every", "log_every", "save_every"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_steps", "overfit"):
            self._check(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        self._check("dropout", 0 <= self.dropout < 1, "0 or more and below 1")
        for name in ("lr", "clip"):
            self._check(name, 0 < getattr(self, name) < math.inf, "a positive number")
        for name in ("encoder_lr_scale", "final_lr_scale", "warmup", "weight_decay"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        self._check("seed", 0 <= self.seed <= MAX_SEED, f"0..{MAX_SEED}")
        for name in ("edge_share", "lambda_var"):
            self._check(name, 0 <= getattr(self, name) <= 1, "0..1")
        self._check("ema", 0 <= self.ema < 1, "0 or more and below 1")

    def _check(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise InputError(f"{name} is {getattr(self, name)}, expected {expected}")

    @property
    def config(self) -> SPDConfig:
        """Widths of the network, and its dropout."""
        return replace(PRESETS[self.preset], dropout=self.dropout)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Read back what `as_dict` wrote; fields that a later version dropped or an earlier one lacked are defaults."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
