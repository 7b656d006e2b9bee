"""Files that hold no checkpoint, or one of something else: each is refused in a line, and nothing in it is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_support import refusal
from torch import Tensor

from spd.checkpoint import save_checkpoint
from spd.config import PRESETS
from spd.models import seeded

pytestmark = pytest.mark.usefixtures("no_network")

ATTO = PRESETS["atto"]
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return dict(seeded(ATTO).state_dict())


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.marker), "w"))


def _truncated(path: Path, weights: Weights) -> None:
    save_checkpoint(path, weights, ATTO)
    os.truncate(path, path.stat().st_size * 2 // 3)


def _zip(path: Path, _: Weights) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme/notes.txt", "no weights here")


def _text(path: Path, _: Weights) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def _random(path: Path, _: Weights) -> None:
    path.write_bytes(bytes(range(255, 0, -1)) * 40)


def _bad_header(path: Path, _: Weights) -> None:
    path.write_bytes((4).to_bytes(8, "little") + b"{{{{")


FILES = {
    "missing.pt": (None, "does not exist"),
    "folder.pt": (lambda path, _: path.mkdir(), "is a folder"),
    "pipe.pt": (lambda path, _: os.mkfifo(path), "not a regular file"),
    "empty.pt": (lambda path, _: path.touch(), "is empty"),
    "empty.safetensors": (lambda path, _: path.touch(), "is empty"),
    "weights.onnx": (_text, "suffix '.onnx', expected one of .pt, .pth, .ckpt, .bin, .pt.tar, .pth.tar, .safetensors"),
    "weights.tar": (_text, "suffix '.tar'"),
    "weights": (_text, "suffix ''"),
    "text.pt": (_text, "not a PyTorch checkpoint"),
    "random.pt": (_random, "not a PyTorch checkpoint"),
    "zip.pth": (_zip, "not a PyTorch checkpoint"),
    "truncated.pt": (_truncated, "damaged"),
    "text.safetensors": (_text, "not a whole .safetensors file"),
    "random.safetensors": (_random, "not a whole .safetensors file"),
    "header.safetensors": (_bad_header, "not a whole .safetensors file"),
    "truncated.safetensors": (_truncated, "not a whole .safetensors file"),
    "nothing.safetensors": (lambda path, _: safetensors.torch.save_file({}, path), "holds no tensors by name"),
    "config.safetensors": (
        lambda path, w: safetensors.torch.save_file(w, path, {"config": '{"routed_tokens": 0}'}),
        "config cannot be used: routed_tokens is 0",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_file(tmp_path: Path, weights: Weights, name: str) -> None:
    make, expected = FILES[name]
    if make:
        make(tmp_path / name, weights)
    message = refusal(tmp_path / name)
    assert expected in message
    assert name in message


def _inside_itself(_: Weights) -> dict[str, Any]:
    content: dict[str, Any] = {"epoch": 3}
    content["model"] = content
    return content


def _own(weights: Weights, **entries: Any) -> dict[str, Any]:
    """A checkpoint as `save_checkpoint` writes it."""
    return {"model": weights, "config": ATTO.as_dict(), **entries}


CONTENTS = {
    "a tensor": (lambda _: torch.zeros(3), "no tensors by name"),
    "a list": (lambda w: list(w.values()), "no tensors by name"),
    "nothing": (lambda _: {}, "no tensors by name"),
    "sizes": (lambda _: {"model": {}, "epoch": 3}, "no tensors by name"),
    "itself": (_inside_itself, "no tensors by name"),
    "numbers as names": (lambda w: dict(enumerate(w.values())), "no tensors by name"),
    "unprintable": (lambda w: {**w, "b1.\x1b[31m\n": w["b1.rpe"]}, r"b1.\x1b[31m\n"),
    "a long name": (lambda w: {**w, "b1." + "x" * 10_000: w["b1.rpe"]}, "b1." + "x" * 117 + "...)"),
    "config of more": (lambda w: {"model": w, "config": {**ATTO.as_dict(), "b4": 1}}, "unknown model settings b4"),
    "config in colour": (
        lambda w: {"model": w, "config": {**ATTO.as_dict(), "\x1b[31m": 1}},
        r"unknown model settings \x1b[31m",
    ),
    "long config": (
        lambda w: {"model": w, "config": {**ATTO.as_dict(), "neck_channels": "x" * 10_000}},
        "neck_channels is 'xxx",
    ),
    "some of a config": (lambda w: {"model": w, "config": {"routed_tokens": 8, "lr": 1}}, "unknown model settings lr"),
    "heads": (lambda w: {"model": w, "config": {**ATTO.as_dict(), "heads": 7}}, "cannot be split into 7 heads"),
    "backbone": (lambda w: {"model": w, "config": {**ATTO.as_dict(), "backbone": "resnet18"}}, "convnextv2_"),
    "hub": (lambda w: {"model": w, "config": {**ATTO.as_dict(), "backbone": "hf-hub:x/convnextv2_y"}}, "convnextv2_"),
    "no such": (lambda w: {"model": w, "config": {**ATTO.as_dict(), "backbone": "convnextv2_no"}}, "convnextv2_no"),
    "tiny's config": (lambda w: {"model": w, "config": PRESETS["tiny"].as_dict()}, "does not fit tiny: encoder: "),
    "size in words": (lambda w: _own(w, image_size="large"), "image_size is large, expected [height, width]"),
    "half pixels": (lambda w: _own(w, image_size=[128.0, 160]), "image_size is [128.0, 160], expected"),
    "no such size": (lambda w: _own(w, image_size=[100, 160]), "image_size cannot be used: size 100x160"),
    "integers": (lambda w: {**w, "b1.rpe": torch.zeros(25, 96).long()}, "b1.rpe torch.int64"),
    "complex": (lambda w: {**w, "b1.rpe": torch.zeros(25, 96) + 0j}, "b1.rpe torch.complex64"),
    "float8": (lambda w: {**w, "b1.rpe": torch.zeros(25, 96).to(torch.float8_e5m2)}, "b1.rpe torch.float8"),
    "sparse": (lambda w: {**w, "b1.rpe": torch.zeros(25, 96).to_sparse()}, "without dense values (b1.rpe)"),
    "meta": (lambda w: {**w, "b1.rpe": torch.zeros(25, 96, device="meta")}, "without dense values (b1.rpe)"),
    "nan": (lambda w: {**w, "b1.rpe": torch.full((25, 96), torch.nan)}, "in float32 in 1 of 363 tensors (b1.rpe)"),
    "infinite": (lambda w: {**w, "b5.e_g": torch.full((96,), -torch.inf)}, "1 of 363 tensors (b5.e_g)"),
    "too large": (lambda w: {**w, "b5.e_g": torch.full((96,), 1e300, dtype=torch.float64)}, "infinite"),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_bad_content(tmp_path: Path, weights: Weights, content: str) -> None:
    make, expected = CONTENTS[content]
    torch.save(make(weights), tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert expected in message
    assert len(message) < 3000


@pytest.mark.parametrize("how", ["zip", "zip 4", "legacy", "legacy 4", "protocol 2", "module", "script"])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_code_is_not_run(tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    # The switch of PyTorch that turns safe loading off does not reach an explicit weights_only=True.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    content = {"model": weights, "config": ATTO.as_dict(), "args": Bomb(marker)}
    if how.startswith("protocol"):
        path.write_bytes(pickle.dumps({"model": {}, "args": Bomb(marker)}, protocol=int(how[-1])))
    elif how == "module":
        torch.save(torch.nn.Linear(2, 2), path)
    elif how == "script":
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    else:
        protocol = 4 if how.endswith("4") else 2
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=how.startswith("zip"))
    message = refusal(path)
    assert "torch.save(model.state_dict(), 'weights.pt')" in message
    assert "code or objects other than tensors" in message
    assert not marker.exists()
