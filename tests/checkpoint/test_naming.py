"""Names of a network's weights under prefixes, in containers and with wrappers' parts in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_support import Little, little_weights, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import spd.checkpoint.fitting
from spd.checkpoint import load_checkpoint, save_checkpoint, weights_sha256
from spd.checkpoint.fitting import fit
from spd.checkpoint.naming import WRAPPERS, places, tensors
from spd.config import PRESETS

pytestmark = pytest.mark.usefixtures("no_network")

ATTO = PRESETS["atto"]
Weights = dict[str, Tensor]
LOSS = {"loss.weight": torch.zeros(4), "metric.total": torch.tensor(3)}


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> Weights:
    monkeypatch.setattr("spd.checkpoint.fitting.NETWORKS", {"spd": Little})
    return little_weights(0)


def renamed(weights: Weights, old: str, new: str) -> Weights:
    return {name.replace(old, new): tensor for name, tensor in weights.items()}


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def nested(weights: Weights) -> dict[str, Any]:
    """A container for each block."""
    found: dict[str, Any] = {}
    for name, tensor in weights.items():
        block, rest = name.split(".", 1)
        found.setdefault(block, {})[rest] = tensor
    return found


LAYOUTS: dict[str, Callable[[Weights], dict[str, Any]]] = {
    "lightning": lambda w: {"state_dict": under("model.", w), "epoch": 3, "hyper_parameters": {"lr": 1}},
    "lightning with a loss": lambda w: {"state_dict": {**under("model.", w), **LOSS}},
    "another prefix": lambda w: {"state_dict": under("net.depth.", w)},
    "a compiled part": lambda w: renamed(w, "encoder.", "encoder._orig_mod."),
    "a part with DDP": lambda w: {"model": renamed(w, "b1.", "b1.module.")},
    "DDP of lightning": lambda w: {"state_dict": under("module.model.module.", w)},
    "FSDP": lambda w: renamed(w, "encoder.", "_fsdp_wrapped_module.encoder._fsdp_wrapped_module."),
    "checkpointed": lambda w: renamed(w, ".stem_0.", "._checkpoint_wrapped_module.stem_0._checkpoint_wrapped_module."),
    "deepspeed": lambda w: {"module": w, "global_steps": 3, "optimizer": None},
    "any container": lambda w: {"weights": w, "epoch": 3},
    "container called network": lambda w: {"network": w, "config": {"lr": 1}},
    "container called config": lambda w: {"config": w},
    "blocks": nested,
    "beside settings": lambda w: {**w, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    "beside the optimizer": lambda w: {
        "model": w,
        "optimizer": {"state": {name: {"exp_avg": tensor} for name, tensor in w.items()}},
    },
    "under one name in two": lambda w: {"model": w, "state_dict": w},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(tmp_path: Path, weights: Weights, layout: str) -> None:
    torch.save(LAYOUTS[layout](weights), tmp_path / "a.ckpt")
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.weights_sha256 == weights_sha256(weights)
    assert checkpoint.note is None


def test_safetensors_of_a_lightning_module(tmp_path: Path, weights: Weights) -> None:
    content = {**under("model.module.", weights), **LOSS}
    safetensors.torch.save_file(content, tmp_path / "a.safetensors", {"config": "lr: 1", "network": "depth"})
    assert load_checkpoint(tmp_path / "a.safetensors").weights_sha256 == weights_sha256(weights)


REFUSED: dict[str, tuple[Callable[[Weights], dict[str, Any]], str]] = {
    "a head under the same prefix": (
        lambda w: {"state_dict": {**under("model.", w), "model.head.weight": torch.zeros(2)}},
        "other: 1 unexpected (head.weight)",
    ),
    "a head beside bare weights": (lambda w: {**w, "head.weight": torch.zeros(2)}, "1 unexpected (head.weight)"),
    "two spellings": (lambda w: {**w, "b1.module.rpe": w["b1.rpe"]}, "b1: 1 under two names (b1.rpe)"),
    "half under a prefix": (
        lambda w: {("a." if i % 2 else "b.") + name: tensor for i, (name, tensor) in enumerate(w.items())},
        "missing",
    ),
    "two that differ": (
        lambda w: {**under("model.", w), **under("old.", little_weights(1))},
        "several networks that fit (model, old)",
    ),
    "two, one without a prefix": (
        lambda w: {**w, **under("old.", little_weights(1))},
        "several networks that fit (names without a prefix, old)",
    ),
    "two, one with a head": (
        lambda w: {**w, "head.weight": torch.zeros(2), **under("old.", little_weights(1))},
        "several networks that fit (old, names without a prefix)",
    ),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_refused(tmp_path: Path, weights: Weights, layout: str) -> None:
    make, expected = REFUSED[layout]
    torch.save(make(weights), tmp_path / "a.pt")
    assert expected in refusal(tmp_path / "a.pt")


parts = st.lists(st.sampled_from(["model", "net", "student", "a", "x_1", *sorted(WRAPPERS)]), max_size=4)
containers = st.lists(st.sampled_from(["model", "state_dict", "b", "module", "weird.key"]), max_size=3)
beside = st.dictionaries(st.sampled_from(["epoch", "args", "config", "image_size", "network"]), st.text(max_size=3))


@given(parts, containers, beside, st.dictionaries(st.sampled_from(["encoder", "stem_0", "b1"]), parts), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_decoration(
    prefix: list[str], boxes: list[str], extra: dict[str, str], inner: dict[str, list[str]], listed: bool
) -> None:
    """Prefixes, containers, wrappers of any part and things beside the weights change nothing."""
    weights = little_weights(0)
    content: Any = {}
    for name, tensor in weights.items():
        decorated: list[str] = [*prefix]
        for part in name.split("."):
            decorated += [word for word in inner.get(part, []) if word in WRAPPERS]
            decorated.append(part)
        content[".".join(decorated)] = tensor
    for box in boxes:
        content = {box: content, **extra}
    content = {"list": [content, 3], **extra} if listed else content
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spd.checkpoint.fitting, "NETWORKS", {"spd": Little})
        found = fit(content, "spd", None, "auto", Path("a.pt")).weights
    assert weights_sha256(found) == weights_sha256(weights)


def test_places() -> None:
    found = places(tensors({"a": {"x.w": torch.zeros(2), "x.b": torch.zeros(1)}, "x.w": torch.ones(3)}), ["x.w", "x.b"])
    assert [(place.name, sorted(place.weights), place.others) for place in found] == [
        ("a", ["x.b", "x.w"], []),
        ("", ["x.w"], []),
    ]


def test_things_inside_themselves_end() -> None:
    content: dict[str, Any] = {"w": torch.zeros(2)}
    for width in range(20):
        content |= {f"self{width}": content, "list": [content]}
    deep: Any = content
    for _ in range(2000):
        deep = {"deeper": deep}
    tree = tensors({"wide": content, "deep": deep})
    assert 1 <= len(tree.leaves) < 50
    assert {leaf.parts[-1] for leaf in tree.leaves} == {"w"}


def test_saving_takes_any_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd.checkpoint.fitting.NETWORKS", {"spd": Little})
    model = Little(ATTO)
    wrapped = copy.deepcopy(model)
    wrapped.encoder = torch.nn.ModuleDict({"_orig_mod": wrapped.encoder})
    save_checkpoint(tmp_path / "a.pt", torch.nn.ModuleDict({"model": wrapped}), ATTO)
    assert set(torch.load(tmp_path / "a.pt", weights_only=True)["model"]) == set(model.state_dict())
