"""`--weights` of the commands and `weights` of `spd.load`: which weights of a checkpoint are used, and what is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import calib.cli
import export.cli
import spd
import spd.commands.evaluate
from export.pipeline import load_source
from spd.checkpoint import weights_sha256
from spd.config import PRESETS
from spd.data.rooms import render_room
from spd.models import seeded

NOTE = "Note: m.ckpt has averaged and raw weights; the averaged ones are taken (ema), --weights raw takes the others"


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, torch.Tensor]]:
    return {name: seeded(PRESETS["atto"], seed=seed).state_dict() for seed, name in enumerate(("raw", "averaged"))}


@pytest.fixture(scope="module")
def checkpoint(states: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "m.ckpt"
    content = {"state_dict": states["raw"], "ema": states["averaged"], "config": PRESETS["atto"].as_dict()}
    torch.save({**content, "image_size": [128, 160]}, path)
    return path


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def exporting(checkpoint: Path, tmp_path: Path, *arguments: str) -> Result:
    """As far as the bundle's folder, which is not to be replaced."""
    (tmp_path / "atto-128x160").mkdir()
    return run(export.cli.main, "--ckpt", checkpoint, "--out", tmp_path, "--build", "no", *arguments)


def calibrating(checkpoint: Path, tmp_path: Path, *arguments: str) -> Result:
    """As far as the photos, of which there are none."""
    (tmp_path / "photos").mkdir()
    options = ("--images", tmp_path / "photos", "--out", tmp_path / "policy.json")
    return run(calib.cli.main, "--ckpt", checkpoint, *options, *arguments)


@pytest.mark.parametrize("start", [exporting, calibrating])
def test_export_and_calibrate(checkpoint: Path, tmp_path: Path, start: Callable[..., Result]) -> None:
    result = start(checkpoint, tmp_path)
    assert result.exit_code == 1
    assert NOTE in result.stderr
    for weights in ("raw", "averaged"):
        (tmp_path / weights).mkdir()
        assert "Note: " not in start(checkpoint, tmp_path / weights, "--weights", weights).stderr


@pytest.mark.parametrize(("weights", "expected"), [("auto", "averaged"), ("averaged", "averaged"), ("raw", "raw")])
def test_what_is_exported(checkpoint: Path, states: dict[str, Any], weights: str, expected: str) -> None:
    source = load_source(checkpoint, None, None, weights)
    assert source.weights_sha256 == weights_sha256(states[expected])
    assert (source.note is not None) == (weights == "auto")


def test_evaluate(checkpoint: Path, tmp_path: Path) -> None:
    found = {}
    for weights in ("auto", "averaged", "raw"):
        out = tmp_path / f"{weights}.json"
        arguments = ("--data", "rooms", "--images", 1, "--k", 16, "--no-dense", "--weights", weights, "--out", out)
        result = run(spd.commands.evaluate.main, checkpoint, *arguments)
        assert result.exit_code == 0, result.output
        assert (NOTE in result.stderr) == (weights == "auto")
        found[weights] = out.read_text()
    assert found["auto"] == found["averaged"] != found["raw"]


def test_load(checkpoint: Path, states: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    image = render_room(3, 128, 160).image
    point = np.array([[80.0, 64.0]])
    depths = {}
    with caplog.at_level(logging.INFO, "spd"):
        for weights in ("auto", "averaged", "raw"):
            with spd.load(checkpoint, weights=weights) as model:
                depths[weights] = model.encode(image).depth(point)[0]
                assert len(model.notes) == (weights == "auto")
    assert len(caplog.messages) == 1
    assert depths["auto"] == depths["averaged"] != depths["raw"]
    network = seeded(PRESETS["atto"])
    network.load_state_dict(states["raw"])
    pixels = torch.tensor(image.transpose(2, 0, 1)[None], dtype=torch.float32) / 255
    with torch.inference_mode():
        expected = network(pixels, torch.tensor(point[None], dtype=torch.float32))[0].item()
    assert depths["raw"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("command", [export.cli.main, calib.cli.main])
def test_options_that_contradict(command: click.Command, tmp_path: Path) -> None:
    images = ("--images", tmp_path) if command is calib.cli.main else ()
    result = run(command, "--seed-checkpoint", "atto", "--weights", "raw", "--out", tmp_path / "out", *images)
    assert result.exit_code == 2
    assert "--weights goes with --ckpt" in result.stderr


def test_evaluate_refuses_it_for_others(tmp_path: Path) -> None:
    arguments = ("--data", "rooms", "--weights", "raw")
    result = run(spd.commands.evaluate.main, tmp_path, *arguments)
    assert result.exit_code == 2
    assert "--weights is for checkpoints (.pt, " in result.stderr
    result = run(spd.commands.evaluate.main, "some/model", *arguments, "--baseline", "depth-anything")
    assert result.exit_code == 2
    assert "--weights is for models of SPD" in result.stderr
