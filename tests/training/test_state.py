"""The schedule, what the optimiser is told, the average, and what is kept in files."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training_support import SMALL

from spd.baselines.bilinear_mlp import BilinearMLP
from spd.checkpoint import load_checkpoint
from spd.errors import CheckpointError
from spd.training.settings import OPTIMIZERS, Settings
from spd.training.state import BEST, LAST, Progress, State, learning_rate_factor, new_state, read_last

BASELINE = replace(SMALL, network="bilinear-mlp", ema=0.9)


def state_of(given: Settings = BASELINE) -> State:
    torch.manual_seed(0)
    return new_state(given, BilinearMLP(given.config))


def step(state: State) -> None:
    """A step on made-up gradients, which depend on the step alone."""
    generator = torch.Generator().manual_seed(state.progress.step)
    state.set_learning_rate(10)
    for parameter in state.network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for optimizer in state.optimizers:
        optimizer.step()
    state.update_average()
    state.progress.step += 1


def test_the_cosine_falls_from_its_highest_to_its_end() -> None:
    """Paper 7.3: 1e-4 to 1e-6; half of it in the middle."""
    rates = [Settings().lr * learning_rate_factor(step, 101, Settings()) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[50] == pytest.approx((1e-4 + 1e-6) / 2)
    assert rates[100] == pytest.approx(1e-6)
    assert rates[25] == pytest.approx(1e-6 + (1e-4 - 1e-6) * (1 + math.sqrt(0.5)) / 2)
    assert rates == sorted(rates, reverse=True)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 60), st.floats(0, 2))
def test_the_schedule_stays_between_its_ends(steps: int, warmup: int, final: float) -> None:
    given_ = replace(SMALL, warmup=warmup, final_lr_scale=final)
    factors = [learning_rate_factor(step, steps, given_) for step in range(steps)]
    for number, factor in enumerate(factors[:warmup]):
        assert factor == pytest.approx((number + 1) / (warmup + 1))
    assert all(min(1, final) - 1e-9 <= factor <= max(1, final) + 1e-9 for factor in factors[warmup:])
    if steps > warmup + 1:
        assert [factors[warmup], factors[-1]] == pytest.approx([1, final])


def test_the_backbone_learns_at_a_tenth() -> None:
    state = state_of(replace(BASELINE, lr=1e-3, weight_decay=0.02))
    assert state.set_learning_rate(4) == 1e-3
    (optimizer,) = state.optimizers
    backbone, rest = optimizer.param_groups
    assert (backbone["lr"], rest["lr"]) == (1e-4, 1e-3)
    assert backbone["weight_decay"] == rest["weight_decay"] == 0.02
    assert {id(p) for p in backbone["params"]} == {id(p) for p in state.network.encoder.backbone.parameters()}  # type: ignore[union-attr]
    assert len(backbone["params"]) + len(rest["params"]) == len(list(state.network.parameters()))
    state.progress.step = 3
    state.set_learning_rate(4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-6, 1e-5])


def test_the_average_is_torch_s() -> None:
    """Of the same weights, AveragedModel.update_parameters makes bit for bit the same."""
    state = state_of()
    reference = AveragedModel(state.network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        step(state)
        reference.update_parameters(state.network)
    assert state.average is not None
    expected = reference.state_dict()
    found = state.average.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(not torch.equal(found[f"module.{name}"], own) for name, own in state.network.state_dict().items())
    assert state.evaluated is state.average


def moments_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """AdamW's first moments, or Muon's momentum."""
    return [entry.get("exp_avg", entry.get("momentum_buffer")) for entry in optimizer.state.values()]


def same(one: State, other: State) -> bool:
    """Whether the next steps will be the same."""
    own, theirs = (
        [*state.network.state_dict().values(), *(state.average.state_dict().values() if state.average else ())]
        for state in (one, other)
    )
    moments = ([moment for own in state.optimizers for moment in moments_of(own)] for state in (one, other))
    return one.progress == other.progress and all(
        torch.equal(a, b) for a, b in [*zip(own, theirs, strict=True), *zip(*moments, strict=True)]
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_restored_as_it_was(tmp_path: Path, optimizer: str) -> None:
    given_ = replace(BASELINE, optimizer=optimizer)
    state = state_of(given_)
    for _ in range(2):
        step(state)
    state.progress.losses, state.progress.best_abs_rel, state.begun = [0.1], 0.3, {"processes": 2}
    state.save_last(tmp_path)
    content = read_last(tmp_path)
    assert Settings.from_dict(content["settings"]) == given_
    assert content["begun"] == {"processes": 2}
    other = new_state(given_, BilinearMLP(given_.config))
    other.restore(content)
    assert same(state, other)
    for one in (state, other):
        step(one)
    assert same(state, other)


def test_of_another_version(tmp_path: Path) -> None:
    """The first version kept neither `begun` nor the losses since the last row."""
    state = state_of()
    step(state)
    state.save_last(tmp_path)
    content = read_last(tmp_path)
    del content["begun"], content["progress"]["losses"]
    content["progress"]["dropped"] = 1
    other = state_of()
    other.restore(content)
    assert same(state, other)
    assert other.progress == Progress(step=1)


def test_the_best_are_the_averaged_weights(tmp_path: Path) -> None:
    state = state_of()
    for _ in range(2):
        step(state)
    state.save_best(tmp_path)
    state.save_last(tmp_path)
    assert state.average is not None
    for name in (BEST, LAST):
        found = load_checkpoint(tmp_path / name, networks=("bilinear-mlp",)).model.state_dict()
        assert all(torch.equal(found[key], own) for key, own in state.average.module.state_dict().items())


def test_a_file_is_replaced_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of()
    state.save_last(tmp_path)
    before = (tmp_path / LAST).read_bytes()
    step(state)

    def half(content: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(CheckpointError, match="cannot be written"):
        state.save_last(tmp_path)
    assert (tmp_path / LAST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is nothing to resume"):
        read_last(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 300_000])
def test_cut_off(tmp_path: Path, length: int) -> None:
    state_of().save_last(tmp_path)
    whole = (tmp_path / LAST).read_bytes()
    assert len(whole) > 300_000
    (tmp_path / LAST).write_bytes(whole[:length])
    with pytest.raises(CheckpointError, match=r"^.*last.pt is damaged: .*$"):
        read_last(tmp_path)


def test_another_file_of_that_name(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match="lacks optimizers, progress, settings"):
        read_last(tmp_path)


@pytest.mark.parametrize("part", ["model", "optimizers", "ema"])
def test_of_another_network(tmp_path: Path, part: str) -> None:
    state = state_of()
    step(state)
    state.save_last(tmp_path)
    content: dict[str, Any] = copy.deepcopy(read_last(tmp_path))
    if part == "optimizers":
        content[part][0]["param_groups"] = content[part][0]["param_groups"][:1]
    else:
        content[part].popitem()
    with pytest.raises(CheckpointError, match=r"^last.pt does not fit its own settings: .*start a new run$"):
        state_of().restore(content)
