"""Where Depth Anything's weights come from: what is refused, and that nothing is printed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from transformers.utils import logging

from spd.baselines import depth_anything
from spd.baselines.depth_anything import load_depth_anything
from spd.errors import BackendError, CheckpointError

HUB_NAME = "nobody/nothing-of-that-name"


def refusal(source: str | Path | None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_depth_anything(source, size=70)
    message = str(caught.value)
    assert message.isprintable()
    assert str(source) in message
    return message


def config_with(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def weights_with(**values: torch.Tensor | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        changed = {**weights, **values}
        kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
        safetensors.torch.save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return change


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "half a config": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "holds None"),
    "another model": (config_with(model_type="dpt"), "holds 'dpt' by its config.json, expected 'depth_anything'"),
    "no such kind": (config_with(depth_estimation_type="other"), "must be one of ['relative', 'metric']"),
    "no depth": (config_with(max_depth=None), "has no max_depth"),
    "impossible": (config_with(fusion_hidden_size=-1), "cannot be loaded: RuntimeError"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "broken": (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "SafetensorError"),
    "missing": (weights_with(**{"head.conv1.weight": None}), "1 missing (head.conv1.weight)"),
    "unexpected": (weights_with(**{"head.more": torch.zeros(3)}), "1 unexpected (head.more)"),
    "of another shape": (weights_with(**{"head.conv1.bias": torch.zeros(3)}), "1 mismatched (head.conv1.bias)"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_folder(metric: Path, tmp_path: Path, case: str) -> None:
    damage, expected = FOLDERS[case]
    folder = tmp_path / "weights"
    shutil.copytree(metric, folder)
    damage(folder)
    assert expected in refusal(folder)


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    assert "is a file, expected a folder with config.json and model.safetensors" in refusal(tmp_path / "weights.pth")
    assert "does not exist" in refusal(tmp_path / "none")
    assert "does not exist" in refusal("none")
    assert "does not exist" in refusal("./a/b")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(HUB_NAME)
    assert "is no folder here and cannot be downloaded from the Hugging Face hub (OfflineModeIsEnabled)" in message
    assert message.endswith("download it elsewhere and give its folder")


def test_not_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert "is neither here nor on the Hugging Face hub" in refusal(HUB_NAME)


def test_from_the_hub(metric: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(metric)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    predictor = load_depth_anything(HUB_NAME, size=70)
    assert asked == [(HUB_NAME, ["config.json", "model*.safetensors*"])]
    assert predictor.name == HUB_NAME
    assert not predictor.relative


@pytest.mark.parametrize("absent", [("transformers",), ("torch", "transformers")])
def test_packages_are_missing(metric: Path, monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...]) -> None:
    monkeypatch.setattr(depth_anything, "find_spec", lambda name: None if name in absent else object())
    with pytest.raises(BackendError) as caught:
        load_depth_anything(metric)
    assert str(caught.value) == f"Depth Anything needs {' and '.join(absent)}: pip install 'spd-depth[train]'"


def test_nothing_is_printed(metric: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_depth_anything(metric, size=70)
    load_depth_anything(None)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
