"""Kinds of files: older and newer pickles, shards with an index, and folders."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_support import Little, little_weights, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spd.checkpoint import load_checkpoint, weights_sha256
from spd.checkpoint.files import unpickled
from spd.files import CHECKPOINT_SUFFIXES

pytestmark = pytest.mark.usefixtures("no_network", "little_network")

Weights = dict[str, Tensor]


@pytest.fixture
def little_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd.checkpoint.fitting.NETWORKS", {"spd": Little})


@pytest.fixture(scope="module")
def weights() -> Weights:
    return little_weights(0)


# Pickles.


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("zipped", [True, False])
def test_protocols(tmp_path: Path, weights: Weights, protocol: int, zipped: bool) -> None:
    path = tmp_path / "a.pth.tar"
    half = {name: torch.nn.Parameter(tensor.half()) for name, tensor in weights.items()}
    content = {"state_dict": half, "epoch": 3, "torch": "storage", "list": [1, 2.5, None, True, (1, 2, 3, 4), 1 << 70]}
    content |= {"again": content["list"], "long text": "äöü" * 1000}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    expected = {name: tensor.detach().float() for name, tensor in half.items()}
    assert load_checkpoint(path).weights_sha256 == weights_sha256(expected)
    read = unpickled(path, path)
    assert {key: read[key] for key in content if key != "state_dict"} == {
        key: content[key] for key in content if key != "state_dict"
    }
    assert all(torch.equal(read["state_dict"][name], tensor) for name, tensor in half.items())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(values, st.sampled_from([4, 5]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_value_in_a_newer_protocol(
    tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int, zipped: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pt"
    torch.save([value, value, "x"], path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert unpickled(path, path) == [value, value, "x"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_newer_pickle_that_ends_early(tmp_path: Path, weights: Weights, protocol: int) -> None:
    torch.save(weights, tmp_path / "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    os.truncate(tmp_path / "a.pt", 700)
    assert "damaged or not a PyTorch checkpoint" in refusal(tmp_path / "a.pt")


def test_a_text_that_is_asked_for_endlessly(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(["x" * 10_000] * 20_000, path, pickle_protocol=4)
    assert path.stat().st_size < 200_000, "it would be 200 MB"
    assert "damaged or not a PyTorch checkpoint" in refusal(path)


# Shards.


def shards(folder: Path, weights: Weights, suffix: str = ".safetensors", **changed: str) -> Path:
    """Write weights as two files and their index."""
    names = list(weights)
    weight_map = {}
    for number, part in enumerate((names[:3], names[3:]), 1):
        file = folder / f"model-{number:05d}-of-00002{suffix}"
        tensors = {name: weights[name].clone() for name in part}
        if suffix == ".bin":
            torch.save(tensors, file)
        else:
            safetensors.torch.save_file(tensors, file)
        weight_map |= dict.fromkeys(part, file.name)
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map | changed}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards(tmp_path: Path, weights: Weights, suffix: str) -> None:
    index = shards(tmp_path, weights, suffix)
    checkpoint = load_checkpoint(index)
    assert checkpoint.weights_sha256 == weights_sha256(weights)
    assert checkpoint.name == index.name
    shard = tmp_path / f"model-00001-of-00002{suffix}"
    assert f"{shard} is one shard of several; give the .index.json file" in refusal(shard)
    assert f"is a folder, expected a checkpoint ({', '.join(CHECKPOINT_SUFFIXES)}); give the file in it: {index}" in (
        refusal(tmp_path)
    )


def test_one_shard_of_one_is_whole(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "model-00001-of-00001.safetensors"
    safetensors.torch.save_file(weights, path)
    assert load_checkpoint(path).weights_sha256 == weights_sha256(weights)


@pytest.mark.parametrize(
    "name", ["../model-00001-of-00002.safetensors", "none.safetensors", "model.safetensors.index.json", "notes.txt", ""]
)
def test_an_index_leads_to_shards_only(tmp_path: Path, weights: Weights, name: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    shards(tmp_path, weights)
    (folder / "notes.txt").touch()
    index = shards(folder, weights, b1=name)
    assert f"names files that are not shards in its folder ({name})" in refusal(index)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": []}}']
)
def test_no_index(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.bin.index.json"
    path.write_text(text)
    assert "is no index of shards: it has no weight_map of file names" in refusal(path)


def test_a_shard_of_something_else(tmp_path: Path, weights: Weights) -> None:
    index = shards(tmp_path, weights, ".bin")
    torch.save([1, 2], tmp_path / "model-00002-of-00002.bin")
    assert "model-00002-of-00002.bin holds no tensors by name, expected a shard of model.bin.index.json" in (
        refusal(index)
    )
    torch.save({}, tmp_path / "model-00002-of-00002.bin")
    assert "missing" in refusal(index)


def test_a_folder(tmp_path: Path, weights: Weights) -> None:
    assert refusal(tmp_path).endswith(".index.json)")
    (tmp_path / "config.json").touch()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert refusal(tmp_path).endswith(f"; give the file in it: {tmp_path / 'pytorch_model.bin'}")
    (tmp_path / "other.pt").touch()
    assert refusal(tmp_path).endswith(".index.json)")
