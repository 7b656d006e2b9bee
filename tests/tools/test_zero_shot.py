"""RGB-D pairs of many sources, and the predictors that look at nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from spd.checkpoint import save_checkpoint
from spd.config import PRESETS
from spd.data.rooms import RoomPairs
from spd.errors import DataError
from spd.models import seeded
from tools.rgbd_samples import RgbdSamples
from tools.zero_shot import VerticalGradient, abs_rel, main, table

COLUMNS = ("id", "kind", "dataset", "rgb_file", "depth_file", "depth_decode", "aligned")
METRES = np.array([[1.0, 2.0, 0.0], [4.0, 0.5, 8.0]], np.float32)


def rotated(millimetres: np.ndarray) -> np.ndarray:
    """SUN RGB-D's encoding, bit by bit: the lowest 13 bits move up by three, the highest three to the bottom."""
    return np.array([[((int(v) << 3) & 0xFFFF) | (int(v) >> 13) for v in row] for row in millimetres], np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(image).save(tmp_path / "rgb.png")
    np.save(tmp_path / "rgb.npy", image / 255)
    Image.fromarray((METRES * 1000).astype(np.uint16)).save(tmp_path / "mm.png")
    Image.fromarray((METRES * 5000).astype(np.uint16)).save(tmp_path / "tum.png")
    Image.fromarray(rotated((METRES * 1000).astype(np.uint16))).save(tmp_path / "sun.png")
    np.save(tmp_path / "metres.npy", METRES)
    rows = [
        ("a", "pair", "one", "rgb.png", "mm.png", "u16/1000", "yes"),
        ("b", "pair", "two", "rgb.png", "tum.png", "u16/5000", "approx"),
        ("c", "pair", "two", "rgb.npy", "metres.npy", "npy_m", "yes"),
        ("d", "pair", "one", "rgb.png", "sun.png", "sunrgbd", "yes"),
        ("e", "pair", "one", "rgb.png", "mm.png", "u16/1000", "no"),
        ("f", "rgb_only", "three", "rgb.png", "", "", ""),
    ]
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, *rows])
    return tmp_path


def test_every_encoding_gives_the_same_metres(folder: Path) -> None:
    samples = RgbdSamples(folder)
    assert len(samples) == 4
    assert samples.datasets == ["one", "two"]
    for index in range(4):
        assert samples[index].depth.dtype == np.float32
        np.testing.assert_allclose(samples[index].depth, METRES, atol=1e-6)
        np.testing.assert_array_equal(samples[index].image, np.arange(18).reshape(2, 3, 3))


def test_refusals(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match="no registered pairs of 'four'"):
        RgbdSamples(folder, "four")
    with pytest.raises(DataError, match=r"manifest\.csv does not exist"):
        RgbdSamples(tmp_path_factory.mktemp("empty"))
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("sunrgbd", "inches"))
    with pytest.raises(DataError, match="d cannot be read: its depth encoding 'inches' is not known"):
        RgbdSamples(folder)[3]


def test_a_pair_that_cannot_be_read_is_not_left_out_of_a_mean(folder: Path) -> None:
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("sunrgbd", "inches"))
    with pytest.raises(DataError, match="its depth encoding 'inches' is not known"):
        abs_rel(VerticalGradient(0.0), RgbdSamples(folder), median_scale=False)


def test_gradient_by_hand() -> None:
    points = np.array([[3.0, 0.0], [7.0, 5.0], [0.0, 10.0]])
    scene = VerticalGradient(np.log(4.0), np.log(0.25)).encode(np.zeros((10, 20, 3), np.uint8))
    np.testing.assert_allclose(scene.depth(points), [4.0, 2.0, 1.0])


def test_fit_is_the_least_squares_line_over_all_pixels() -> None:
    rooms = RoomPairs(64, 80)
    v = np.repeat((np.arange(64) + 0.5) / 64, 80)
    design = np.stack([np.ones_like(v), v], axis=1)
    log_depth = np.concatenate([np.log(rooms[i].depth.ravel()) for i in range(3)])
    (a, b), *_ = np.linalg.lstsq(np.tile(design, (3, 1)), log_depth, rcond=None)
    fitted = VerticalGradient.fitted(3)
    assert (fitted.a, fitted.b) == pytest.approx((a, b), rel=1e-5)


def test_numbers_of_the_constants_by_hand(folder: Path) -> None:
    two = VerticalGradient(np.log(2.0))
    valid = METRES[METRES > 0]
    assert abs_rel(two, RgbdSamples(folder, "one"), median_scale=False) == pytest.approx(
        np.mean(abs(2 - valid) / valid)
    )
    # Five pixels are fewer than the 1,024 that the scale is drawn from, with replacement: so only nearly their median.
    three = VerticalGradient(np.log(3.0))
    scaled = abs_rel(three, RgbdSamples(folder, "one"), median_scale=True)
    assert scaled == pytest.approx(np.mean(abs(2 - valid) / valid))


def test_table_of_a_model(folder: Path, tmp_path: Path) -> None:
    import spd

    save_checkpoint(tmp_path / "m.pt", seeded(PRESETS["atto"]), PRESETS["atto"])
    lines = table(spd.load(tmp_path / "m.pt", size=(128, 160)), "m", RgbdSamples(folder)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["one", "two", f"all pairs of {folder.name}"]
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["2", "2", "4"]
    numbers = np.array([[float(cell) for cell in line.split("|")[3:-1]] for line in lines[2:]])
    np.testing.assert_allclose(numbers[:2].mean(axis=0), numbers[2], atol=1e-3)


def command(*arguments: str | Path) -> list[list[str]]:
    """The cells of what the command prints."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.stderr
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime-cpu", "fp16"), ("openvino", "fp32")])
def test_the_backend_and_the_precision_of_a_bundle(
    folder: Path, exported: Path, backend: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spd

    monkeypatch.setattr(VerticalGradient, "fitted", lambda: VerticalGradient(0.0))
    rows = command(exported, folder, "--backend", backend, "--precision", precision, "--threads", "1")
    assert rows[0][2] == f"{exported.stem} {precision} on {backend}"
    with spd.load(exported, backend, precision=precision, threads=1) as model:
        expected = abs_rel(model, RgbdSamples(folder), median_scale=False)
    assert float(rows[-1][2]) == pytest.approx(expected, abs=6e-4)


def test_a_precision_that_the_bundle_does_not_have(folder: Path, exported: Path) -> None:
    done = CliRunner().invoke(main, [str(exported), str(folder), "--precision", "int8"])
    assert done.exit_code == 1
    assert "has no int8 graphs" in done.stderr
