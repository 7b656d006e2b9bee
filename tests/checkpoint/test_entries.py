"""Entries beside the weights: SPD's own are obeyed or refused, those of a training script are left alone."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_support import Little, little_weights, refusal

from spd.checkpoint import load_checkpoint, save_checkpoint, weights_sha256
from spd.config import PRESETS

pytestmark = pytest.mark.usefixtures("no_network", "little_network")

ATTO = PRESETS["atto"]


@pytest.fixture
def little_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd.checkpoint.fitting.NETWORKS", {"spd": Little})


FOREIGN: dict[str, Any] = {
    "config": [
        {"lr": 1e-4, "batch_size": 8},
        {"model": {"d": 96}, "data": {"image_size": 512}},
        {"backbone": "resnet18", "dropout": 0.5, "d": 96, "heads": 3},
        {"d": "a word"},
        {1: 2},
        {},
        [1, 2],
        "lr: 1",
        '{"lr": 1}',
        3,
        Namespace(lr=1, d_model=2),
    ],
    "image_size": ["large", 512, [128.0, 160], [100, 160], [3, 480, 640], {"height": 480}, [0, 0], [True, True]],
    "network": ["spd2", "resnet18", 3, ["spd"], {"layers": 3}, "\x1b[31m", ""],
}
CASES = [(key, value) for key, values in FOREIGN.items() for value in values]


@pytest.mark.parametrize("preset", [None, "atto", "tiny"])
@pytest.mark.parametrize(("key", "value"), CASES, ids=[f"{key}-{value!r}"[:30] for key, value in CASES])
def test_things_of_a_training_script(tmp_path: Path, key: str, value: Any, preset: str | None) -> None:
    weights = little_weights(0)
    torch.save({"model": weights, key: value}, tmp_path / "a.pt")
    checkpoint = load_checkpoint(tmp_path / "a.pt", preset)
    assert checkpoint.weights_sha256 == weights_sha256(weights)
    assert checkpoint.size is None
    assert checkpoint.config == PRESETS[preset or "atto"]  # all fit this network, and atto is the first
    if not isinstance(value, Namespace):
        safetensors.torch.save_file(weights, tmp_path / "a.safetensors", {key: json.dumps(value)})
        assert load_checkpoint(tmp_path / "a.safetensors", preset).size is None


@pytest.mark.parametrize("text", ["{", "[" * 200_000, "lr: 1", ""])
@pytest.mark.parametrize("key", FOREIGN)
def test_metadata_that_is_not_json(tmp_path: Path, key: str, text: str) -> None:
    weights = little_weights(0)
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors", {key: text})
    assert load_checkpoint(tmp_path / "a.safetensors").weights_sha256 == weights_sha256(weights)


def test_a_size_that_makes_sense_counts_without_a_config(tmp_path: Path) -> None:
    torch.save({"model": little_weights(0), "image_size": (160, 192)}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").size == (160, 192)


@pytest.mark.parametrize("field", ["routed_tokens", "r_max", "l3_heads", "b5_layers", "neck_channels"])
def test_one_field_of_ours_makes_it_ours(tmp_path: Path, field: str) -> None:
    """Some of them cannot be seen in the shapes of the weights: passed over, they would give wrong depths."""
    path = tmp_path / "a.pt"
    torch.save({"model": little_weights(0), "config": {field: ATTO.as_dict()[field], "lr": 1}}, path)
    assert "config cannot be used: unknown model settings lr" in refusal(path)
    torch.save({"model": little_weights(0), "config": {field: 0}}, path)
    assert f"config cannot be used: {field} is 0" in refusal(path)


def test_ours_must_agree_with_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, Little(ATTO), ATTO)
    assert load_checkpoint(path, "atto").config == ATTO
    assert "says in its config that it is atto, not tiny; leave out --preset" in refusal(path, "tiny")
