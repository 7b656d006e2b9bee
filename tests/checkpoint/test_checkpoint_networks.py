"""Checkpoints of networks other than SPD: what they say they are, and who takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoint_support import refusal

import spd
from spd.baselines.bilinear_mlp import BilinearMLP
from spd.checkpoint import NETWORKS, load_checkpoint, save_checkpoint, weights_sha256
from spd.config import PRESETS
from spd.data.rooms import render_room
from spd.errors import CheckpointError
from spd.models import SPD, seeded

ATTO = PRESETS["atto"]
BASELINE = "bilinear-mlp"
ALL = tuple(NETWORKS)


@pytest.fixture(scope="module")
def baseline() -> BilinearMLP:
    torch.manual_seed(0)
    return BilinearMLP(ATTO).eval()


def saved(path: Path, baseline: BilinearMLP, **extra: Any) -> Path:
    save_checkpoint(path, baseline, ATTO, network=BASELINE, **extra)
    return path


@pytest.mark.parametrize("name", ["a.pt", "b.pth", "c.safetensors"])
@pytest.mark.parametrize("networks", [(BASELINE,), ALL])
def test_round_trip(tmp_path: Path, baseline: BilinearMLP, name: str, networks: tuple[str, ...]) -> None:
    wrapped = torch.nn.ModuleDict({"module": baseline})
    save_checkpoint(tmp_path / name, wrapped, ATTO, network=BASELINE, epoch=3)
    checkpoint = load_checkpoint(tmp_path / name, networks=networks)
    assert isinstance(checkpoint.model, BilinearMLP)
    assert checkpoint.network == BASELINE
    assert checkpoint.config == checkpoint.model.config == ATTO
    assert checkpoint.weights_sha256 == weights_sha256(baseline.state_dict())
    assert not checkpoint.model.training
    image, points = torch.rand(1, 3, 128, 160), torch.rand(1, 5, 2) * 128
    with torch.inference_mode():
        assert torch.equal(checkpoint.model(image, points), baseline(image, points))


def test_ema_and_half_precision(tmp_path: Path, baseline: BilinearMLP) -> None:
    average = {name: tensor + 1 for name, tensor in baseline.state_dict().items()}
    path = saved(tmp_path / "a.pt", baseline, ema=average, dtype=torch.float16)
    assert load_checkpoint(path, networks=ALL).weights_sha256 == weights_sha256(average)


def test_spd_says_nothing_new(tmp_path: Path) -> None:
    """Files of SPD stay as they were, so that earlier versions read them."""
    save_checkpoint(tmp_path / "a.pt", seeded(ATTO), ATTO)
    assert set(torch.load(tmp_path / "a.pt", weights_only=True)) == {"model", "config"}
    checkpoint = load_checkpoint(tmp_path / "a.pt", networks=ALL)
    assert checkpoint.network == "spd"
    assert isinstance(checkpoint.model, SPD)


def test_what_a_file_says(tmp_path: Path, baseline: BilinearMLP) -> None:
    assert torch.load(saved(tmp_path / "a.pt", baseline), weights_only=True)["network"] == BASELINE
    with safetensors.safe_open(saved(tmp_path / "a.safetensors", baseline), framework="pt") as file:
        assert json.loads(file.metadata()["network"]) == BASELINE


@pytest.mark.parametrize("container", ["bare", "model"])
def test_without_a_config_the_preset_is_inferred(tmp_path: Path, baseline: BilinearMLP, container: str) -> None:
    weights = baseline.state_dict()
    content = {"network": BASELINE, **(weights if container == "bare" else {"model": weights})}
    torch.save(content, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt", networks=ALL).config == ATTO


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_baseline_is_not_taken_for_spd(tmp_path: Path, baseline: BilinearMLP, suffix: str) -> None:
    path = saved(tmp_path / f"model{suffix}", baseline)
    message = f"{path} holds bilinear-mlp, a baseline, which cannot be exported; evaluate it with spd-eval"
    assert refusal(path) == message
    assert refusal(path, preset="tiny") == message


def test_spd_is_not_taken_for_a_baseline(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, seeded(ATTO), ATTO)
    assert refusal(path, networks=(BASELINE,)) == f"{path} holds spd, expected bilinear-mlp; take another checkpoint"


@pytest.mark.parametrize("said", ["spd2", 3, ["spd"], "\x1b[31m"])
def test_unknown_network(tmp_path: Path, baseline: BilinearMLP, said: object) -> None:
    config = ATTO.as_dict()
    torch.save({"model": baseline.state_dict(), "network": said, "config": config}, tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt", networks=ALL)
    assert "expected spd or bilinear-mlp" in message
    metadata = {"network": json.dumps(said), "config": json.dumps(config)}
    safetensors.torch.save_file(baseline.state_dict(), tmp_path / "a.safetensors", metadata)
    assert "expected spd or bilinear-mlp" in refusal(tmp_path / "a.safetensors", networks=ALL)


def test_network_that_is_not_json(tmp_path: Path, baseline: BilinearMLP) -> None:
    safetensors.torch.save_file(baseline.state_dict(), tmp_path / "a.safetensors", {"network": BASELINE})
    assert load_checkpoint(tmp_path / "a.safetensors", networks=ALL).network == BASELINE


def test_weights_of_another_network(tmp_path: Path, baseline: BilinearMLP) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(CheckpointError, match=r"does not fit atto: encoder: \d+ missing .*; other: 4 unexpected \(w_1"):
        save_checkpoint(path, baseline, ATTO)
    with pytest.raises(CheckpointError, match=r"does not fit atto: .*; other: \d+ unexpected"):
        save_checkpoint(path, seeded(ATTO), ATTO, network=BASELINE)
    assert not path.exists()


def test_the_torch_backend_runs_a_baseline(tmp_path: Path, baseline: BilinearMLP) -> None:
    image = render_room(3, 160, 192).image
    points = np.random.default_rng(0).random((1030, 2)) * (192, 160)  # more than fit into one call
    with spd.load(saved(tmp_path / "a.pt", baseline), backend="torch", size=(160, 192)) as model:
        depth = model.encode(image).depth(points)
    with torch.inference_mode():
        pixels = torch.tensor(image.transpose(2, 0, 1)[None], dtype=torch.float32) / 255
        expected = baseline(pixels, torch.tensor(points[None], dtype=torch.float32))[0]
    np.testing.assert_allclose(depth, expected, rtol=1e-3)  # a GPU computes convolutions with 10 bits
    assert np.ptp(depth) > 0.01
