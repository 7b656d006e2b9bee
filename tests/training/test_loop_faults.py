"""What goes wrong in a run: losses and gradients that are no numbers, memory, other processes, workers."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from training_support import BASELINE, run

from spd.errors import TrainingError
from spd.training import samples
from spd.training.settings import OPTIMIZERS, Settings
from spd.training.state import BEST, LAST, read_last


@pytest.mark.parametrize("given", [BASELINE, replace(BASELINE, log_every=100)])
def test_a_loss_that_is_no_number_is_never_saved(tmp_path: Path, given: Settings, at_step: Callable[..., None]) -> None:
    at_step(3, lambda loss: loss * torch.nan)
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, replace(given, save_every=1))
    assert str(caught.value) == (
        "the loss is nan in step 3; look at the data, or start a new run with a lower --lr, with --init "
        f"{tmp_path / LAST} from step 2"
    )
    assert read_last(tmp_path)["progress"]["step"] == 2


def test_nothing_is_kept_of_a_first_step_that_fails(tmp_path: Path, at_step: Callable[..., None]) -> None:
    at_step(1, lambda loss: loss * torch.inf)
    with pytest.raises(TrainingError, match=r"^the loss is inf in step 1; .* with a lower --lr$"):
        run(tmp_path)
    assert not (tmp_path / LAST).exists()


@pytest.mark.parametrize("scheduled", [{"log_every": 5}, {"log_every": 100, "val_every": 4}, {"save_every": 5}])
def test_the_step_is_named_in_which_it_began(
    tmp_path: Path, scheduled: dict[str, int], at_step: Callable[..., None]
) -> None:
    """Whatever is the first to look; nothing is kept of it, though the weights are NaN from there on."""
    at_step(2, lambda loss: loss * torch.nan)
    with pytest.raises(TrainingError, match=r"^the loss is nan in step 2; .* with a lower --lr$"):
        run(tmp_path, replace(BASELINE, max_steps=10, **{"log_every": 100, **scheduled}))
    assert not (tmp_path / LAST).exists()
    assert not (tmp_path / BEST).exists()


def test_a_gradient_that_overflows_is_named_and_not_saved(tmp_path: Path, at_step: Callable[..., None]) -> None:
    """The loss of its step is a number; only the weights are not any more."""
    at_step(2, lambda loss: loss + (loss - loss.detach()).sqrt())
    with pytest.raises(TrainingError, match=r"^the gradient is not finite in step 2; .* from step 1$"):
        run(tmp_path, replace(BASELINE, save_every=1))
    assert read_last(tmp_path)["progress"]["step"] == 1


MEMORY = r"^the memory of the device ran out with 1 images of 128x160 and 4 points each; .*--batch.*$"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"), MEMORY),
        (RuntimeError("[enforce fail at alloc.cpp:117] DefaultCPUAllocator: can't allocate memory"), MEMORY),
        (RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:2"), "^another process of the run ended"),
    ],
)
def test_errors_of_torch_in_a_line(
    tmp_path: Path, error: Exception, expected: str, at_step: Callable[..., None]
) -> None:
    def fail(_: Tensor) -> Tensor:
        raise error

    at_step(2, fail)
    with pytest.raises(TrainingError, match=expected) as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_hidden(tmp_path: Path, at_step: Callable[..., None]) -> None:
    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("a mistake in SPD")

    at_step(1, broken)
    with pytest.raises(RuntimeError, match="a mistake in SPD"):
        run(tmp_path)


def test_a_worker_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = os.getpid()

    def deadly(*arguments: Any, **options: Any) -> Any:
        assert os.getpid() != main
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(samples, "sample_queries", deadly)
    with pytest.raises(TrainingError, match=r"^a process that prepares batches died .* fewer --workers$"):
        run(tmp_path, workers=1)


def test_a_worker_that_is_asked_to_end_goes_on_for_the_step_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is stopped gets SIGTERM in all its processes; the main one then still has a step to end."""
    asked: list[int] = []
    drawn = samples.sample_queries

    def telling(*arguments: Any, **options: Any) -> Any:
        if not asked:
            asked.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return drawn(*arguments, **options)

    monkeypatch.setattr(samples, "sample_queries", telling)
    assert run(tmp_path, workers=1).progress.step == 4


def test_a_run_that_waits_for_a_batch_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has done is kept: the next step has not begun."""
    main, drawn = os.getpid(), samples.sample_queries
    calls = itertools.count()

    def stuck(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 2:  # of step 3; validation has one image
            time.sleep(3)  # two steps of a batch take less, and the loop waits for the third
            os.kill(main, signal.SIGTERM)
            time.sleep(1000)
        return drawn(*arguments, **options)

    monkeypatch.setattr(samples, "sample_queries", stuck)
    state = run(tmp_path, workers=1)
    assert (state.stopped, state.progress.step) == (True, 2)
    assert read_last(tmp_path)["progress"]["step"] == 2
    monkeypatch.undo()
    assert run(tmp_path, resume=True).progress.step == 4


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_gradient_is_clipped_over_all_parameters(
    tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of both optimisers, where there are two."""
    squares: list[float] = []

    def measure(used: Optimizer, *_: Any) -> None:
        gradients = [weight.grad for group in used.param_groups for weight in group["params"]]
        squares.append(sum(float(gradient.double().square().sum()) for gradient in gradients if gradient is not None))

    hook = register_optimizer_step_pre_hook(measure)
    try:
        run(tmp_path, replace(BASELINE, max_steps=1, optimizer=optimizer, clip=1e-3))
    finally:
        hook.remove()
    assert len(squares) == 1 + (optimizer == "muon")
    assert all(squares)
    assert sum(squares) ** 0.5 == pytest.approx(1e-3, rel=1e-3)
