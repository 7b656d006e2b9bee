"""What several tests of training share."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spd.data.pairs import Pair
from spd.errors import DataError
from spd.training.loop import train
from spd.training.network import Start
from spd.training.samples import Batch
from spd.training.settings import Settings
from spd.training.state import State, read_last

SMALL = Settings(preset="atto", height=128, width=160, batch=2, points=8, max_steps=4, val_images=2)
BASELINE = replace(SMALL, network="bilinear-mlp", batch=1, points=4, log_every=1, val_images=1)
"""The smallest run."""
PLAIN = replace(SMALL, augment=False, batch=4)
"""Batches of pictures as they are."""


class Pictures:
    """Pairs whose depth is 1 m and their number in millimetres; some are broken."""

    title = "pictures"
    rendered = False
    description = ""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        if index in self.broken:
            raise DataError(f"depth_{index}.png is cut off; copy it again")
        image = np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)
        return Pair(image, np.full((48, 64), 1 + index / 1000, np.float32), str(index))


def shown(batch: Batch) -> list[int]:
    """Numbers of the pairs in a batch, without augmentation."""
    return [round((float(depth_K[0]) - 1) * 1000) for depth_K in batch["depth"]]


def run(folder: Path, given: Settings = BASELINE, *, resume: bool = False, workers: int = 0) -> State:
    """Train in this process."""
    begin = read_last(folder) if resume else Start(pretrained=False)
    return train(given, folder, Fabric(accelerator="cpu", devices=1), workers, begin)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Value by step by name, as TensorBoard shows them; fails if a step is there twice."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        values = events.Scalars(name)
        found[name] = {value.step: value.value for value in values}
        assert len(found[name]) == len(values), f"{name} has a step twice"
    return found


def metrics(folder: Path, *without: str) -> list[dict[str, str]]:
    """The rows of metrics.csv without the empty values and some columns."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if value and name not in without} for row in rows]


def nyu_folder(folder: Path, train: int, test: int = 2) -> Path:
    """A copy of NYU Depth V2 in a layout without lists: small smooth pictures, 1 to 4 m."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize((64, 48))
            coarse.save(folder / f"images/{split}/room_{number:05d}.jpg")
            depth = rng.integers(1000, 4000, (48, 64)).astype(np.uint16)
            Image.fromarray(depth).save(folder / f"annotations/{split}/room_{number:05d}.png")
    return folder


def damage(folder: Path, number: int) -> Path:
    """Cut off the depth of a training pair in the middle."""
    path = folder / f"annotations/train/room_{number:05d}.png"
    path.write_bytes(path.read_bytes()[:200])
    return path
