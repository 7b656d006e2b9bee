"""`spd-train`, then `spd-eval`, on a folder in each layout of NYU Depth V2: of real pairs where there are some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner, Result
from nyu_support import U8, bts_line, h5_pair, labelled, millimetres, picture, real_pairs, save
from PIL import Image

import spd
import spd.commands.evaluate
import spd.commands.train

Frame = tuple[U8, npt.NDArray[np.uint16]]
"""An image of 640 x 480 pixels and its depth in millimetres."""


@pytest.fixture(scope="module")
def frames(samples_if_any: Path | None) -> list[Frame]:
    """Four: two to train on, two to test."""
    real = real_pairs(samples_if_any).values() if samples_if_any else ()
    found = [(image, np.rint(1000 * deep).astype(np.uint16)) for image, deep in real if deep.shape == (480, 640)]
    made = [(picture(seed, 640, 480), millimetres(seed, 640, 480)) for seed in range(4)]
    return [*found, *made][:4]


def metres(frame: Frame) -> npt.NDArray[np.float32]:
    return (frame[1] / 1000).astype(np.float32)


def bts(folder: Path, frames: list[Frame]) -> None:
    for root, numbers in (("sync/a", (0, 1)), ("official_splits/test/b", (2, 3))):
        for number in numbers:
            save(folder / root / f"rgb_{number:05d}.jpg", frames[number][0])
            save(folder / root / f"sync_depth_{number:05d}.png", frames[number][1])
    lines = "\n".join(bts_line("b", number) for number in (2, 3))
    (folder / "nyudepthv2_test_files_with_gt.txt").write_text(lines)


def densedepth(folder: Path, frames: list[Frame]) -> None:
    for split, numbers in (("train", (0, 1)), ("test", (2, 3))):
        lines = []
        for number in numbers:
            image, depth = (f"data/nyu2_{split}/{number}_{kind}.png" for kind in ("colors", "depth"))
            save(folder / image, frames[number][0])
            eighth = np.rint(frames[number][1] / 10_000 * 255).astype(np.uint8)
            save(folder / depth, eighth if split == "train" else frames[number][1])
            lines.append(f"{image},{depth}")
        (folder / f"data/nyu2_{split}.csv").write_text("\n".join(lines))


def hdf5(folder: Path, frames: list[Frame]) -> None:
    for number, frame in enumerate(frames):
        where = "train/a" if number < 2 else "val/official"
        h5_pair(folder / where / f"{number:05d}.h5", frame[0], metres(frame))


def mat(folder: Path, frames: list[Frame]) -> None:
    labelled(folder, [image for image, _ in frames], [metres(frame) for frame in frames], train=[1, 2], test=[3, 4])


def mmseg(folder: Path, frames: list[Frame]) -> None:
    for number, (image, depth) in enumerate(frames):
        split = "train" if number < 2 else "test"
        save(folder / f"images/{split}/a_{number}.jpg", image)
        save(folder / f"annotations/{split}/a_{number}.png", depth)


LAYOUTS = {
    "BTS layout": (bts, "official_splits/test/b/rgb_0000{}.jpg"),
    "DenseDepth layout": (densedepth, "data/nyu2_test/{}_colors.png"),
    "HDF5 layout": (hdf5, None),
    "labelled .mat": (mat, None),
    "mmsegmentation layout": (mmseg, "images/test/a_{}.jpg"),
}


def invoke(command: object, *arguments: object) -> Result:
    with torch.random.fork_rng(devices=[]):
        done = CliRunner().invoke(command, [*map(str, arguments)])  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_in_each_layout(layout: str, frames: list[Frame], tmp_path: Path) -> None:
    """What spd-eval says of what spd-train made, against AbsRel and RMSE worked out from the frames themselves."""
    write: Callable[[Path, list[Frame]], None]
    write, stored = LAYOUTS[layout]
    data, out = tmp_path / "nyu", tmp_path / "run"
    data.mkdir()
    write(data, frames)
    options = ("--network", "bilinear-mlp", "--preset", "atto", "--size", "128x160", "--no-pretrained", "--batch", 2)
    options += ("--points", 16, "--max-steps", 2, "--workers", 0, "--accelerator", "cpu", "--precision", "fp32")
    said = invoke(spd.commands.train.main, "--data", data, *options, "--out", out).stderr
    for split in ("train", "test"):
        assert f"NYU Depth V2, {layout}, {split}: 2 pairs in {data}" in said

    result = tmp_path / "result.json"
    options = ("--k", "16", "--dense-points", "all", "--out", result)
    invoke(spd.commands.evaluate.main, out / "model.pt", "--data", data, *options)
    found = json.loads(result.read_text())
    assert (found["images"], found["cropped"], found["skipped"], found["size"]) == (2, 2, 0, "128x160")
    assert found["data"] == f"NYU Depth V2, {layout}, test"

    errors = []
    with spd.load(out / "model.pt") as model:
        for number in (2, 3):
            truth = metres(frames[number]).astype(np.float64)
            counts = np.zeros(truth.shape, bool)
            counts[45:471, 41:601] = True  # the Eigen crop
            counts &= (truth > 1e-3) & (truth < 10)
            image = frames[number][0] if stored is None else np.asarray(Image.open(data / stored.format(number)))
            rows, columns = np.nonzero(counts)
            predicted = model.encode(image).depth(np.stack([columns + 0.5, rows + 0.5], axis=1))
            error = np.clip(predicted, 1e-3, 10) - truth[counts]
            errors.append((np.mean(abs(error) / truth[counts]), np.sqrt(np.mean(error**2))))
    abs_rel, rmse = np.mean(errors, axis=0)
    dense = found["by_k"]["dense"]
    assert (dense["abs_rel"], dense["rmse"]) == pytest.approx((abs_rel, rmse), rel=1e-6)
