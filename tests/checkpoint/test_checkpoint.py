"""Checkpoints: what is read and written, weights that do not fit, and that nothing is fetched."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_support import refusal
from torch import Tensor

from spd.checkpoint import load_checkpoint, save_checkpoint, weights_sha256
from spd.config import PRESETS, SPDConfig
from spd.errors import CheckpointError
from spd.models import SPD, seeded

pytestmark = pytest.mark.usefixtures("no_network")

ATTO = PRESETS["atto"]
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> SPD:
    return seeded(ATTO)


@pytest.fixture
def weights(model: SPD) -> Weights:
    return dict(model.state_dict())


def assert_same(got: Weights, expected: Weights, tolerance: float = 0.0) -> None:
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        assert got[name].dtype == torch.float32
        assert (got[name] - tensor).abs().max() <= tolerance * tensor.abs().max(), name


# What is read.


@pytest.mark.parametrize(
    "name", ["a.pt", "b.pth", "c.safetensors", "D.PT", "e.ckpt", "F.Bin", "g.pth.tar", "h.pt.tar", "I.SAFETENSORS"]
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_round_trip(tmp_path: Path, model: SPD, name: str, wrapped: bool) -> None:
    path = tmp_path / name
    network = torch.nn.ModuleDict({"module": model}) if wrapped else model
    save_checkpoint(path, network, ATTO, epoch=3)
    assert os.listdir(tmp_path) == [name], "a temporary file was left behind"
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.model.state_dict(), model.state_dict())
    assert checkpoint.config == checkpoint.model.config == ATTO
    assert checkpoint.name == name
    assert checkpoint.weights_sha256 == weights_sha256(model.state_dict())
    assert not any(module.training for module in checkpoint.model.modules())
    assert all(parameter.requires_grad for parameter in checkpoint.model.parameters())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_size_of_its_images(tmp_path: Path, model: SPD, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, model, ATTO, size=(160, 192))
    assert load_checkpoint(path).size == (160, 192)
    save_checkpoint(path, model, ATTO)
    assert load_checkpoint(path).size is None


def test_loaded_network_computes_the_same(tmp_path: Path, model: SPD) -> None:
    save_checkpoint(tmp_path / "a.safetensors", model, ATTO)
    before = torch.get_rng_state()
    loaded = load_checkpoint(tmp_path / "a.safetensors").model
    assert torch.equal(torch.get_rng_state(), before), "loading used up random numbers"
    image, points = torch.rand(1, 3, 128, 160), torch.rand(1, 5, 2) * 128
    with torch.inference_mode():
        assert torch.equal(loaded(image, points), model(image, points))


def test_weights_are_independent_of_the_file(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, weights, ATTO)
    loaded = load_checkpoint(path).model
    path.write_bytes(bytes(path.stat().st_size))
    assert_same(loaded.state_dict(), weights)


CONTAINERS = {
    "bare": lambda w: w,
    "ordered": OrderedDict,
    "parameters": lambda w: {name: torch.nn.Parameter(tensor) for name, tensor in w.items()},
    "model": lambda w: {"model": w, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "state_dict": lambda w: {"epoch": 3, "state_dict": w},
    "model_state_dict": lambda w: {"model_state_dict": w},
    "nested": lambda w: {"model": {"state_dict": w, "step": 1}},
    "ema before model": lambda w: {"model": {name: tensor + 1 for name, tensor in w.items()}, "ema": w},
    "ema is a number": lambda w: {"model": w, "ema": 0.999},
    "ddp": lambda w: {"module." + name: tensor for name, tensor in w.items()},
    "compiled": lambda w: {"_orig_mod." + name: tensor for name, tensor in w.items()},
    "compiled ddp": lambda w: {"state_dict": {"_orig_mod.module." + name: tensor for name, tensor in w.items()}},
    "ddp of compiled": lambda w: {"module._orig_mod." + name: tensor for name, tensor in w.items()},
    "averaged": lambda w: {
        "ema": {"n_averaged": torch.tensor(7), **{"module." + name: tensor for name, tensor in w.items()}}
    },
    "float64": lambda w: {name: tensor.double() for name, tensor in w.items()},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_and_prefixes(tmp_path: Path, weights: Weights, container: str) -> None:
    torch.save(CONTAINERS[container](weights), tmp_path / "a.pt")
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert_same(checkpoint.model.state_dict(), weights)
    assert checkpoint.config == ATTO


def test_legacy_file(tmp_path: Path, weights: Weights) -> None:
    torch.save(weights, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert_same(load_checkpoint(tmp_path / "a.pt").model.state_dict(), weights)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_half_precision(tmp_path: Path, weights: Weights, dtype: torch.dtype, tolerance: float, suffix: str) -> None:
    path = tmp_path / f"half{suffix}"
    save_checkpoint(path, weights, ATTO, dtype=dtype)
    count = sum(tensor.numel() for tensor in weights.values())
    assert path.stat().st_size < 2.1 * count
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.model.state_dict(), weights, tolerance)
    rounded = {name: tensor.to(dtype).float() for name, tensor in weights.items()}
    assert checkpoint.weights_sha256 == weights_sha256(rounded)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("given", [False, True])
def test_preset_is_inferred(tmp_path: Path, preset: str, given: bool) -> None:
    with torch.device("meta"):
        blank = SPD(PRESETS[preset]).state_dict()
    bare = {name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in blank.items()}
    safetensors.torch.save_file(bare, tmp_path / "a.safetensors")
    assert load_checkpoint(tmp_path / "a.safetensors", preset if given else None).config == PRESETS[preset]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_config_of_no_preset(tmp_path: Path, suffix: str) -> None:
    config = replace(ATTO, b5_layers=1, routed_tokens=8)
    model = SPD(config)
    save_checkpoint(tmp_path / f"a{suffix}", model, config)
    checkpoint = load_checkpoint(tmp_path / f"a{suffix}")
    assert checkpoint.config == config
    assert_same(checkpoint.model.state_dict(), dict(model.state_dict()))


def test_hash(weights: Weights) -> None:
    reference = weights_sha256(weights)
    assert weights_sha256(dict(reversed(weights.items()))) == reference
    assert weights_sha256({name: tensor.clone().requires_grad_() for name, tensor in weights.items()}) == reference
    name = "b1.w_q.weight"
    changed = weights[name].clone()
    changed[0, 0] += 1e-6
    variants = [changed, weights[name].t().reshape(weights[name].shape), weights[name].t(), weights[name].half()]
    hashes = {weights_sha256({**weights, name: tensor}) for tensor in variants}
    hashes.add(weights_sha256({("x" if key == name else key): tensor for key, tensor in weights.items()}))
    assert len({reference, *hashes}) == len(variants) + 2
    # The definition, spelled out once for readers in other languages.
    small = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.bfloat16)}
    text = b"a bfloat16 []\n" + b"\x40\x40" + b"b float32 [2]\n" + b"\0\0\x80\x3f\0\0\0\x40"
    assert weights_sha256(small) == hashlib.sha256(text).hexdigest()


# What is refused: weights that do not fit.


def test_differences_are_grouped_by_block(tmp_path: Path, weights: Weights) -> None:
    for name in [name for name in weights if name.startswith("b5.layers.0.")]:
        del weights[name]
    weights["b1.rpe"] = weights["b1.rpe"][:9]
    weights["b3a.layers.0.w_k.weight"] = torch.zeros(96, 96)
    weights["head.weight"] = torch.zeros(2)
    torch.save({"model": weights, "config": ATTO.as_dict()}, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt") == (
        f"{tmp_path / 'a.pt'} does not fit atto: "
        "b1: 1 of another shape (b1.rpe expected [25, 96] got [9, 96]); "
        "b3a: 1 unexpected (b3a.layers.0.w_k.weight); "
        "b5: 16 missing (b5.layers.0.ln_q.weight, b5.layers.0.ln_q.bias, b5.layers.0.w_q.weight, ...); "
        "other: 1 unexpected (head.weight)"
    )
    torch.save(weights, tmp_path / "b.pt")
    message = refusal(tmp_path / "b.pt")
    assert f"fits none of the presets {', '.join(PRESETS)}, " in message
    assert "the nearest is atto: b1: 1 of another shape" in message
    assert message.endswith("with --preset")
    assert "does not fit tiny: encoder: " in refusal(tmp_path / "b.pt", "tiny")


def test_every_block_is_named(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt", "atto")
    blocks = ("encoder", "neck", "precompute", "b1", "b2", "b3a", "b3b", "b5", "other")
    positions = [message.index(f"{block}: ") for block in blocks]
    assert positions == sorted(positions)


def test_preset_and_config_must_agree(tmp_path: Path, model: SPD) -> None:
    save_checkpoint(tmp_path / "a.pt", model, ATTO)
    assert load_checkpoint(tmp_path / "a.pt", "atto").config == ATTO
    assert "says in its config that it is atto, not tiny" in refusal(tmp_path / "a.pt", "tiny")
    assert f"no preset 'huge', only {', '.join(PRESETS)}" in refusal(tmp_path / "a.pt", "huge")


# Writing.


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_save_refuses_and_keeps_the_old_file(tmp_path: Path, weights: Weights, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, weights, ATTO)
    before = path.read_bytes()

    def refused(state: Weights, config: SPDConfig = ATTO, **settings: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            save_checkpoint(path, state, config, **settings)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [path.name]
        return str(caught.value)

    assert "does not fit tiny" in refused(weights, PRESETS["tiny"])
    assert "in float16" in refused({**weights, "b5.e_g": torch.full((96,), 70000.0)}, dtype=torch.float16)
    assert "NaN" in refused({**weights, "b5.e_g": torch.full((96,), torch.nan)})
    assert refused(weights, args=Path("x"))
    assert refused(weights, function=lambda: None)


def test_save_in_a_missing_folder(tmp_path: Path, weights: Weights) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "none" / "a.pt", weights, ATTO)
    for name in ("a.onnx", "a", "a.safetensors.index.json"):
        with pytest.raises(CheckpointError, match=r"has the suffix '.*', expected one of \.pt, .*\.safetensors$"):
            save_checkpoint(tmp_path / name, weights, ATTO)


def test_extras(tmp_path: Path, model: SPD, weights: Weights) -> None:
    average = {name: tensor + 1 for name, tensor in weights.items()}
    save_checkpoint(tmp_path / "a.pt", model, ATTO, ema=average, epoch=3)
    assert_same(load_checkpoint(tmp_path / "a.pt").model.state_dict(), average)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["epoch"] == 3
    save_checkpoint(tmp_path / "a.safetensors", model, ATTO, epoch=3)
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["epoch"]) == 3
