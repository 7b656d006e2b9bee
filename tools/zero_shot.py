"""How a model that has only seen rooms does on real RGB-D pairs: `python -m tools.zero_shot MODEL FOLDER`.

Prints a Markdown table, a line per data set: mean AbsRel over the images, at valid pixels, raw and after scaling each
image's prediction to the true median, beside three predictors that look at nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

import spd
from spd.bundle.contract import BACKENDS, RUN_PRECISIONS
from spd.commands.cli import Command, Size, write_stdout
from spd.data.rooms import RoomPairs
from spd.errors import DataError
from spd.evaluation.protocol import DENSE, Predictor, Settings, evaluate
from tools.rgbd_samples import RgbdSamples

CONSTANT = 2.5
"""Metres: what the depth head starts from (paper 6.5)."""

FITTED_ROOMS = 500
"""Rooms that the vertical gradient is fitted on."""

POINTS = 20_000
"""Pixels asked per image, drawn from the valid ones."""


@dataclass(frozen=True)
class VerticalGradient:
    """Depth that depends on nothing but the height in the image: log d = a + b v / H. Constant if b is 0."""

    a: float
    b: float = 0.0
    rows: int = 1
    """H of the image that was encoded last."""

    def encode(self, image: npt.NDArray[np.uint8], /) -> VerticalGradient:
        """Take note of the height of an image, uint8 [H, W, 3]."""
        return VerticalGradient(self.a, self.b, image.shape[0])

    def depth(self, points: npt.NDArray[np.float64], /) -> npt.NDArray[np.float64]:
        """Depth [K] in metres at points (u, v) [K, 2] in pixels."""
        depth: npt.NDArray[np.float64] = np.exp(self.a + self.b * points[:, 1] / self.rows)
        return depth

    @classmethod
    def fitted(cls, count: int = FITTED_ROOMS) -> VerticalGradient:
        """The least squares fit of log depth over training rooms."""
        rooms = RoomPairs(64, 80)
        log_depth = np.mean([np.log(rooms[index].depth).mean(axis=1) for index in range(count)], axis=0)
        rows = len(log_depth)
        b, a = np.polyfit((np.arange(rows) + 0.5) / rows, log_depth, 1)
        return cls(float(a), float(b))


def abs_rel(predictor: Predictor, pairs: RgbdSamples, *, median_scale: bool, points: int = POINTS) -> float:
    """Mean AbsRel over the images of `pairs`, at up to `points` pixels of each."""
    settings = Settings(ks=(), dense_points=points, median_scale=median_scale)
    found = evaluate(predictor, pairs, settings)
    if found.skipped:  # the table says how many images it is over
        raise DataError(found.skipped[0])
    return found.by_k[DENSE].abs_rel


def table(model: Predictor, name: str, samples: RgbdSamples) -> str:
    """The Markdown table of all data sets of `samples`, and their mean over images."""
    gradient = VerticalGradient.fitted()
    constant = VerticalGradient(float(np.log(CONSTANT)))
    # A constant scaled to the image's median is that median.
    columns = [
        (f"{name}", model, False),
        (f"{CONSTANT} m", constant, False),
        ("gradient", gradient, False),
        (f"{name}, scaled", model, True),
        ("image median", constant, True),
        ("gradient, scaled", gradient, True),
    ]
    lines = [
        "| data set | images | " + " | ".join(title for title, _, _ in columns) + " |",
        "|---|---" + "|---" * len(columns) + "|",
    ]
    for part in [*(RgbdSamples(samples.folder, dataset) for dataset in samples.datasets), samples]:
        values = [abs_rel(predictor, part, median_scale=scaled) for _, predictor, scaled in columns]
        lines.append(f"| {part.title} | {len(part)} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    return "\n".join(lines) + "\n"


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--size", type=Size(), help="Size of a checkpoint's image.  [default: its own]")
@click.option("--backend", type=click.Choice(("auto", *BACKENDS)), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(RUN_PRECISIONS), help="Precision of a bundle.  [default: the backend's]")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads.  [default: all cores]")
def main(
    model: Path, folder: Path, size: tuple[int, int] | None, backend: str, precision: str | None, threads: int | None
) -> None:
    """Judge MODEL, a checkpoint or a bundle, on the RGB-D pairs of FOLDER, which has a manifest.csv."""
    samples = RgbdSamples(folder)
    with spd.load(model, backend, precision=precision, size=size, threads=threads) as loaded:
        name = f"{model.stem} {loaded.precision} on {loaded.backend}"
        write_stdout(table(loaded, name, samples).encode())


if __name__ == "__main__":
    main()
