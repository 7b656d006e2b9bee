"""Real pairs, laid out in every layout, against their depth as the samples' manifest says to decode it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nyu_support import Real, h5_pair, labelled, one_line, real_pairs, save
from PIL import Image

from spd.data.nyu import open_nyu
from spd.data.pairs import Pair
from spd.errors import DataError


@pytest.fixture(scope="module")
def real(samples: Path) -> dict[str, Real]:
    """Image and metres of the seven registered pairs of this data set."""
    found = real_pairs(samples)
    assert len(found) == 7
    return found


def agree(pair: Pair, real: Real, split: str, step: float) -> None:
    """Depth within `step`, clipped depth and holes 0, and the crop of training where the image is 640 x 480."""
    image, metres = real[0], np.where(real[1] > 10 - step, 0, real[1])
    if split == "train" and metres.shape == (480, 640):
        image, metres = image[45:472, 43:608], metres[45:472, 43:608]
    np.testing.assert_array_equal(pair.depth == 0, metres < step)
    np.testing.assert_allclose(pair.depth, metres, atol=step + 1e-5, rtol=0)
    np.testing.assert_array_equal(pair.image, image)


def test_bts(samples: Path, tmp_path: Path) -> None:
    lines = []
    for number in ("00000", "00050", "00100"):
        for name, old in [(f"rgb_{number}.jpg", "rgb.jpg"), (f"sync_depth_{number}.png", "depth.png")]:
            path = tmp_path / "sync/basement_0001a" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(samples / "pairs" / f"nyu_basement_{number}" / old)
        lines.append(f"/basement_0001a/rgb_{number}.jpg /basement_0001a/sync_depth_{number}.png 518.8579\n")
    (tmp_path / "nyudepthv2_train_files_with_gt.txt").write_text("".join(lines))
    pairs = open_nyu(tmp_path, "train")
    assert len(pairs) == 3
    for pair, number in zip(pairs, ("00000", "00050", "00100"), strict=True):
        folder = samples / "pairs" / f"nyu_basement_{number}"
        depth = np.asarray(Image.open(folder / "depth.png"))[45:472, 43:608]
        np.testing.assert_array_equal(np.rint(pair.depth * 1000).astype(int), depth)
        np.testing.assert_array_equal(pair.image, np.asarray(Image.open(folder / "rgb.jpg"))[45:472, 43:608])
        for side in (pair.image[0], pair.image[-1], pair.image[:, 0], pair.image[:, -1]):
            assert side.mean() < 230  # the white border is gone
        assert (pair.depth > 0).mean() > 0.7


def test_bts_test_split(real: dict[str, Real], tmp_path: Path) -> None:
    image, metres = real["nyu_reception_room_00464"]
    folder = tmp_path / "official_splits/test/reception_room"
    save(folder / "rgb_00464.jpg", image)
    save(folder / "sync_depth_00464.png", np.rint(metres * 1000).astype(np.uint16))
    pair = open_nyu(tmp_path, "test")[0]
    stored = np.asarray(Image.open(folder / "rgb_00464.jpg"))
    assert pair.image.shape == (480, 640, 3)
    agree(Pair(pair.image, pair.depth, pair.name), (stored, metres), "test", 5e-4)


@pytest.mark.parametrize("split", ["train", "test"])
def test_densedepth(real: dict[str, Real], tmp_path: Path, split: str) -> None:
    step, lines = 10 / 255 / 2 if split == "train" else 5e-4, []
    for name, (image, metres) in real.items():
        eighth = np.rint(metres / 10 * 255).astype(np.uint8)
        depth = eighth if split == "train" else np.rint(metres * 1000).astype(np.uint16)
        save(tmp_path / f"data/nyu2_{split}/{name}/1.png", image)
        save(tmp_path / f"data/nyu2_{split}/{name}/2.png", depth)
        lines.append(f"data/nyu2_{split}/{name}/1.png,data/nyu2_{split}/{name}/2.png")
    (tmp_path / f"data/nyu2_{split}.csv").write_text("\n".join(lines))
    pairs = open_nyu(tmp_path, split)  # type: ignore[arg-type]
    assert len(pairs) == len(real)
    for pair, expected in zip(pairs, real.values(), strict=True):
        agree(pair, expected, split, step)


@pytest.mark.parametrize("split", ["train", "test"])
def test_hdf5(real: dict[str, Real], tmp_path: Path, split: str) -> None:
    folder = tmp_path / ("train/a" if split == "train" else "val/official")
    for number, (image, metres) in enumerate(real.values()):
        h5_pair(folder / f"{number:05d}.h5", image, metres.astype(np.float32))
    pairs = open_nyu(tmp_path, split)  # type: ignore[arg-type]
    assert len(pairs) == len(real)
    for pair, expected in zip(pairs, real.values(), strict=True):
        agree(pair, expected, split, 1e-6)


def test_labelled(real: dict[str, Real], tmp_path: Path) -> None:
    native = [pair for pair in real.values() if pair[1].shape == (480, 640)]
    assert len(native) == 4
    depths = [metres.astype(np.float32) for _, metres in native]
    labelled(tmp_path, [image for image, _ in native], depths, train=[4, 1], test=[2, 3])
    for split, numbers in (("train", [4, 1]), ("test", [2, 3])):
        pairs = open_nyu(tmp_path, split)  # type: ignore[arg-type]
        for pair, number in zip(pairs, numbers, strict=True):
            agree(pair, native[number - 1], split, 1e-6)


def test_raw_frame_is_refused(samples: Path, tmp_path: Path) -> None:
    scene = tmp_path / "basement_0001a"
    scene.mkdir()
    (scene / "r-1.ppm").symlink_to(samples / "pairs/nyu_basement_raw/rgb.ppm")
    (scene / "d-1.pgm").symlink_to(samples / "pairs/nyu_basement_raw/depth.pgm")
    with pytest.raises(DataError) as caught:
        open_nyu(tmp_path, "train")
    one_line(caught.value, scene, "raw recordings")
