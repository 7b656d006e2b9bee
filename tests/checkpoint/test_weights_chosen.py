"""Averaged weights beside raw ones: where training libraries put them, and which are taken."""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm.utils
import torch
from checkpoint_support import Little, little_weights, refusal
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from spd.checkpoint import load_checkpoint, save_checkpoint, weights_sha256
from spd.config import PRESETS

pytestmark = pytest.mark.usefixtures("no_network")

with_little = pytest.mark.usefixtures("little_network")

ATTO = PRESETS["atto"]
Weights = dict[str, Tensor]


@pytest.fixture
def little_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd.checkpoint.fitting.NETWORKS", {"spd": Little})


@pytest.fixture(scope="module")
def raw() -> Weights:
    return little_weights(0)


@pytest.fixture(scope="module")
def averaged() -> Weights:
    return little_weights(1)


def little(seed: int) -> Little:
    model = Little(ATTO)
    model.load_state_dict(little_weights(seed))
    return model


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def squeezed(weights: Weights) -> Weights:
    """The names of latent-diffusion's LitEma."""
    return {name.replace(".", ""): tensor for name, tensor in weights.items()}


COUNTER = {"n_averaged": torch.tensor(7)}
DIFFUSERS = {"decay": 0.999, "optimization_step": 9, "inv_gamma": 1.0}

# Every layout has the raw weights `r` and the averaged ones `a`.
LAYOUTS: dict[str, Callable[[Weights, Weights], dict[str, Any]]] = {
    "spd": lambda r, a: {"model": r, "ema": {**under("module.", a), **COUNTER}},
    "timm": lambda r, a: {"epoch": 3, "arch": "spd", "state_dict": r, "state_dict_ema": a, "metric": 0.1},
    "torchvision": lambda r, a: {"model": r, "model_ema": {**under("module.", a), **COUNTER}, "epoch": 3},
    "torch": lambda r, a: {"model": r, "best": {**under("module.", a), **COUNTER}},
    "detrex": lambda r, a: {"model": r, "ema_state": a, "iteration": 3},
    "plain": lambda r, a: {"model_state_dict": r, "ema_state_dict": a},
    "rf-detr": lambda r, a: {"model": r, "ema_model": a, "args": {"lr": 1}},
    "ema-pytorch": lambda r, a: {
        **under("online_model.", r),
        **under("ema_model.", a),
        "initted": torch.tensor([True]),
        "step": torch.tensor([9]),
    },
    "ema-pytorch beside": lambda r, a: {"model": r, "ema": {**under("online_model.", r), **under("ema_model.", a)}},
    "shadow by name": lambda r, a: {"model": r, "ema": {"shadow": a, "backup": r, "decay": 0.999}},
    "dino": lambda r, a: {"student": under("module.", r), "teacher": a, "epoch": 3},
    "lightning averaging": lambda r, a: {
        "state_dict": under("model.", a),
        "current_model_state": under("model.", r),
        "averaging_state": COUNTER,
    },
    "lightning swa": lambda r, a: {
        "state_dict": under("model.", r),
        "callbacks": {"StochasticWeightAveraging": {"n_averaged": 3, "average_model_state": under("model.", a)}},
    },
    "lightning callback": lambda r, a: {
        "state_dict": under("net.", r),
        "callbacks": {"EMACallback{'decay': 0.99}": {"state": under("net.", a)}},
    },
    "lightning module": lambda r, a: {"state_dict": {**under("student.", r), **under("ema_student.module.", a)}},
    "latent-diffusion": lambda r, a: {
        "state_dict": {**under("model.", r), **under("model_ema.", squeezed(a)), "model_ema.decay": torch.tensor(0.9)}
    },
    "mmengine": lambda r, a: {
        "meta": {},
        "state_dict": a,
        "ema_state_dict": {"steps": torch.tensor(9), **under("module.", r)},
    },
    "diffusers": lambda r, a: {"model": r, "ema": {**DIFFUSERS, "shadow_params": list(a.values())}},
    "torch-ema": lambda r, a: {
        "state_dict": under("model.", r),
        "ema": {"decay": 0.9, "shadow_params": list(a.values()), "collected_params": list(r.values())},
    },
    "one mapping": lambda r, a: {**r, **under("ema.", a)},
    "nemo": lambda r, a: {
        "state_dict": under("model.", r),
        "optimizer_states": [{"opt": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "ema": tuple(a.values())}],
    },
}


@with_little
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_average_is_taken(
    tmp_path: Path, raw: Weights, averaged: Weights, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.pt"
    torch.save(LAYOUTS[layout](raw, averaged), path)
    with caplog.at_level(logging.INFO, "spd"):
        checkpoint = load_checkpoint(path)
    assert checkpoint.weights_sha256 == weights_sha256(averaged)
    assert checkpoint.note is not None
    assert "a.pt has averaged and raw weights" in checkpoint.note
    assert "--weights raw" in checkpoint.note
    assert caplog.messages == [checkpoint.note]
    asked = {which: load_checkpoint(path, weights=which) for which in ("averaged", "raw")}
    assert asked["averaged"].weights_sha256 == weights_sha256(averaged)
    assert asked["raw"].weights_sha256 == weights_sha256(raw)
    assert {checkpoint.note for checkpoint in asked.values()} == {None}, "who chose needs no note"


@with_little
def test_libraries_themselves(tmp_path: Path) -> None:
    """The layouts above, written by the libraries that are installed."""
    model = little(0)
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    ema = timm.utils.ModelEmaV3(model, decay=0.5)
    other = little(1)
    for copied in (average, ema):
        (copied.update_parameters if copied is average else copied.update)(other)
        (copied.update_parameters if copied is average else copied.update)(model)
    torch.save({"model": model.state_dict(), "swa_model": average.state_dict()}, tmp_path / "torch.pt")
    assert load_checkpoint(tmp_path / "torch.pt").weights_sha256 == weights_sha256(average.module.state_dict())
    saver = timm.utils.CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        args=argparse.Namespace(model="spd", lr=0.1, config="spd.yaml"),
        model_ema=ema,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
        max_history=1,
    )
    saver.save_checkpoint(3, 0.5)
    last = tmp_path / "last.pth.tar"
    assert load_checkpoint(last).weights_sha256 == weights_sha256(ema.module.state_dict())
    assert load_checkpoint(last, weights="raw").weights_sha256 == weights_sha256(model.state_dict())
    assert weights_sha256(ema.module.state_dict()) != weights_sha256(model.state_dict())


@with_little
@pytest.mark.parametrize("place", ["ema", "state_dict_ema", "teacher"])
def test_only_an_average(tmp_path: Path, averaged: Weights, place: str) -> None:
    torch.save({place: averaged, "epoch": 3}, tmp_path / "a.pt")
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert (checkpoint.weights_sha256, checkpoint.note) == (weights_sha256(averaged), None)
    assert f"has no raw weights, only averaged ones ({place}); leave out --weights" in refusal(
        tmp_path / "a.pt", weights="raw"
    )


@with_little
def test_only_raw(tmp_path: Path, raw: Weights) -> None:
    torch.save({"model": raw, "ema": None}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt", weights="raw").note is None
    message = refusal(tmp_path / "a.pt", weights="averaged")
    assert "has no averaged weights, only raw ones (model); leave out --weights" in message
    assert "no weights 'best'; choose one of: auto, averaged, raw" in refusal(tmp_path / "a.pt", weights="best")


UNUSABLE: dict[str, Callable[[Weights, Weights], dict[str, Any]]] = {
    "ema": lambda r, a: {"model": r, "ema": dict(list(a.items())[2:])},
    "ema.shadow": lambda r, a: {"model": r, "ema": {"shadow": {**a, "b1.rpe": a["b1.rpe"][:3]}}},
    "ema.shadow_params": lambda r, a: {"model": r, "ema": {"shadow_params": list(a.values())[:-1]}},
    "shadow_params": lambda r, a: {"model": r, "shadow_params": list(reversed(a.values()))},
}


@with_little
@pytest.mark.parametrize("place", UNUSABLE)
def test_an_average_that_cannot_be_used_is_not_passed_over(
    tmp_path: Path, raw: Weights, averaged: Weights, place: str
) -> None:
    path = tmp_path / "a.pt"
    torch.save(UNUSABLE[place](raw, averaged), path)
    for which in ("auto", "averaged"):
        message = refusal(path, weights=which)
        assert f"averaged weights that are not the whole of the network, or have no names ({place})" in message or (
            f"cannot be told apart ({place})" in message
        )
        assert "--weights raw" in message
    assert load_checkpoint(path, weights="raw").weights_sha256 == weights_sha256(raw)


@with_little
def test_a_list_is_not_matched_with_one_of_several(tmp_path: Path, raw: Weights, averaged: Weights) -> None:
    other = {name: tensor - 1 for name, tensor in raw.items()}
    torch.save({"a": raw, "b": other, "shadow_params": list(averaged.values())}, tmp_path / "a.pt")
    assert "cannot be told apart (shadow_params)" in refusal(tmp_path / "a.pt")


@with_little
def test_several_that_differ(tmp_path: Path, raw: Weights, averaged: Weights) -> None:
    torch.save({"model": raw, "best": averaged}, tmp_path / "a.pt")
    assert "has several networks that fit (model, best); keep one of them" in refusal(tmp_path / "a.pt")
    torch.save({"model": raw, "ema_1": averaged, "ema_2": raw}, tmp_path / "a.pt")
    assert "has several networks that fit (ema_1, ema_2)" in refusal(tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt", weights="raw").weights_sha256 == weights_sha256(raw)
    torch.save({"model": raw, "best": copy.deepcopy(raw)}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").weights_sha256 == weights_sha256(raw)


@with_little
def test_our_own_files(tmp_path: Path) -> None:
    model = little(0)
    average = AveragedModel(model)
    average.update_parameters(model)
    average.update_parameters(little(1))
    save_checkpoint(tmp_path / "last.pt", model, ATTO, ema=average.state_dict(), optimizers=[{"state": {}}])
    save_checkpoint(tmp_path / "model.pt", average, ATTO)
    expected = weights_sha256(average.module.state_dict())
    assert {load_checkpoint(tmp_path / name).weights_sha256 for name in ("last.pt", "model.pt")} == {expected}
    raw = load_checkpoint(tmp_path / "last.pt", weights="raw")
    assert raw.weights_sha256 == weights_sha256(model.state_dict())
