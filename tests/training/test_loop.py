"""The loop, on the baseline and on rooms: what is logged, kept and said, and what ends a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from training_support import BASELINE, metrics, run

from spd.data.rooms import RoomPairs
from spd.errors import TrainingError
from spd.training import loop
from spd.training.loop import train
from spd.training.machine import Exact
from spd.training.settings import EPOCH_OF_ROOMS, Settings
from spd.training.state import BEST, LAST, read_last
from spd.utils.losses import silog


def interrupt(loss: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGINT)
    return loss


def losses(folder: Path) -> dict[int, float]:
    return {int(row["step"]): float(row["loss"]) for row in metrics(folder) if "loss" in row}


@pytest.fixture(scope="module")
def every_step(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The loss of each of eight steps."""
    folder = tmp_path_factory.mktemp("every_step")
    run(folder, replace(BASELINE, max_steps=8))
    return losses(folder)


def mean(values: dict[int, float], *steps: int) -> Any:
    return pytest.approx(sum(values[step] for step in steps) / len(steps), rel=1e-6)


def test_a_row_is_the_mean_since_the_row_before(tmp_path: Path, every_step: dict[int, float]) -> None:
    """Also across a validation in between, and with a last row that is shorter."""
    run(tmp_path, replace(BASELINE, max_steps=8, log_every=3, val_every=2))
    assert losses(tmp_path) == {
        3: mean(every_step, 1, 2, 3),
        6: mean(every_step, 4, 5, 6),
        8: mean(every_step, 7, 8),
    }
    assert [row["step"] for row in metrics(tmp_path) if "abs_rel" in row] == ["2", "4", "6", "8"]


def test_lambda_var_is_how_much_of_the_scale_the_loss_forgives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all three lambdas, the loss of the first step is that of the same predictions, worked out in numpy."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(depth: Tensor, target: Tensor, lambda_var: float) -> Tensor:
        seen.append((depth, target))
        return silog(depth, target, lambda_var)

    monkeypatch.setattr(loop, "silog", watched)
    for number, lambda_var in enumerate((0.0, 0.5, 1.0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run(folder, replace(BASELINE, max_steps=1, lambda_var=lambda_var))
        log_depth, log_target = np.log([part.detach().double().numpy() for part in seen[number]])
        delta = log_depth - log_target
        expected = np.sqrt((delta**2).mean(axis=1) - lambda_var * delta.mean(axis=1) ** 2).mean()
        assert losses(folder)[1] == pytest.approx(expected, rel=1e-4)
    for depth, target in seen[1:]:
        assert torch.equal(depth, seen[0][0])
        assert torch.equal(target, seen[0][1])


@pytest.mark.parametrize(
    ("optimizer", "has_bf16", "said"), [("muon", 0, True), ("muon", 1, False), ("adamw", 0, False)]
)
def test_muon_on_a_processor_that_emulates_bf16(
    optimizer: str,
    has_bf16: int,
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bool(has_bf16)})
    run(tmp_path, replace(BASELINE, max_steps=1, optimizer=optimizer))
    assert ("--optimizer adamw" in capsys.readouterr().err) == said


def test_a_row_is_that_mean_also_across_a_stop(
    tmp_path: Path, every_step: dict[int, float], at_step: Callable[..., None]
) -> None:
    given = replace(BASELINE, max_steps=8, log_every=4)
    at_step(3, interrupt)
    state = run(tmp_path, given)
    assert (state.stopped, state.progress.step) == (True, 3)
    assert losses(tmp_path) == {}
    at_step(0, interrupt)
    state = run(tmp_path, given, resume=True)
    assert (state.stopped, state.progress.step) == (False, 8)
    assert losses(tmp_path) == {4: mean(every_step, 1, 2, 3, 4), 8: mean(every_step, 5, 6, 7, 8)}


def test_a_request_in_the_last_step_changes_nothing(tmp_path: Path, at_step: Callable[..., None]) -> None:
    at_step(4, interrupt)
    assert not run(tmp_path).stopped


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / LAST).read_bytes()
    state = run(tmp_path, resume=True)
    assert (state.stopped, state.progress.step, state.progress.best_step) == (False, 4, 4)
    assert (tmp_path / LAST).read_bytes() == before


def test_only_the_best_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights at the second validation, which is the best; NaN is never."""
    abs_rel = iter([0.5, 0.3, 0.4, float("nan")])
    kept: list[dict[str, Tensor]] = []

    def measured(network: nn.Module, *_: Any) -> dict[str, float]:
        kept.append({name: weight.clone() for name, weight in network.state_dict().items()})
        return {"abs_rel": next(abs_rel), "rmse": 1.0, "delta1": 0.0}

    monkeypatch.setattr(loop, "validate", measured)
    state = run(tmp_path, replace(BASELINE, val_every=1))
    assert (state.progress.best_abs_rel, state.progress.best_step) == (0.3, 2)
    content = torch.load(tmp_path / BEST, weights_only=True)
    assert content["progress"]["best_step"] == 2
    assert all(torch.equal(content["model"][name], weight) for name, weight in kept[1].items())
    assert not all(torch.equal(content["model"][name], weight) for name, weight in kept[2].items())


def test_the_data_and_the_processes_are_those_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    content = read_last(tmp_path)
    assert content["begun"] == {"processes": 1, "pairs": 1_000_000_000, "precision": "fp32"}
    given = replace(BASELINE, max_steps=6)
    with pytest.raises(TrainingError, match=r"^the number of processes was 1 .* and is 2 now: .*--devices"):
        train(given, tmp_path, Fabric(accelerator="cpu", devices=2), 0, content)
    monkeypatch.setattr(RoomPairs, "__len__", lambda self: 795)
    with pytest.raises(TrainingError, match=r"of pairs was 1,000,000,000 .* is 795 now: .* give the same --data"):
        train(given, tmp_path, Fabric(accelerator="cpu", devices=1), 0, content)
    del content["begun"]  # as the first version wrote it
    assert train(given, tmp_path, Fabric(accelerator="cpu", devices=1), 0, content).progress.step == 6


def test_steps_of_epochs() -> None:
    rooms = RoomPairs(64, 96)
    assert loop._total_steps(Settings(), rooms, 1) == 30 * (EPOCH_OF_ROOMS // 8)
    assert loop._total_steps(Settings(), rooms, 4) == 30 * (EPOCH_OF_ROOMS // 32)
    assert loop._total_steps(Settings(max_steps=5), rooms, 1) == 5
    assert loop._total_steps(Settings(overfit=2), rooms, 1) == 30


class Remembers(nn.Module):
    """A network that keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: tuple[Tensor, Tensor]

    def forward(self, image: Tensor, points: Tensor) -> Tensor:
        self.seen = image, points
        return points[..., 0] * self.weight


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_points_reach_the_network_as_they_are(precision: Any) -> None:
    """Centres of pixels beyond 256 are no bfloat16, which has steps of 2 there."""
    network = Remembers()
    fabric = Fabric(accelerator="cpu", precision=precision)
    image = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    points = torch.rand(1, 50, 2) * 640
    fabric.setup(Exact(network))(image, points.view(torch.int32))
    assert torch.equal(network.seen[1], points)
    assert torch.equal(network.seen[0], image.float() / 255)
    fabric.setup(network)(image.float(), points)
    assert torch.equal(network.seen[1], points) == (precision == "32-true")


@pytest.mark.parametrize("network", ["bilinear-mlp", "spd"])
def test_a_step_waits_for_no_device(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever brings a number back from a GPU is for rows, validations and checkpoints, none of which a step is.

    Nor does it bring one there: new_tensor copies from memory that a GPU cannot read by itself.
    """
    waits: list[str] = []
    within = False

    def counted(name: str) -> None:
        own = getattr(Tensor, name)

        def wrapper(self: Tensor, *arguments: Any, **options: Any) -> Any:
            if within:
                waits.append(name)
            return own(self, *arguments, **options)

        monkeypatch.setattr(Tensor, name, wrapper)

    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "new_tensor"):
        counted(name)
    own_step = loop._Run._step

    def step(self: Any, batch: Any) -> None:
        nonlocal within
        within = True
        own_step(self, batch)
        within = False

    monkeypatch.setattr(loop._Run, "_step", step)
    run(tmp_path, replace(BASELINE, ema=0.9, network=network, max_steps=2))
    assert waits == []


@pytest.fixture(autouse=True)
def _own_seed() -> Iterator[None]:
    """Training seeds torch; other tests shall not depend on it."""
    with torch.random.fork_rng(devices=[]):
        yield
