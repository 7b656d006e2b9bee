"""Which optimiser moves which weights, and how far."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.optim import AdamW, Muon
from training_support import SMALL

from spd.baselines.bilinear_mlp import BilinearMLP
from spd.models import SPD
from spd.training.optimizers import new_optimizers
from spd.training.state import new_state

MUON = replace(SMALL, optimizer="muon", lr=1e-2, encoder_lr_scale=0.5, weight_decay=0.0, warmup=0)


def test_adamw_takes_everything_unless_told_otherwise() -> None:
    network = BilinearMLP(SMALL.config)
    (adamw,) = new_optimizers(SMALL, network)
    assert isinstance(adamw, AdamW)
    assert sum(len(group["params"]) for group in adamw.param_groups) == len(list(network.parameters()))


def test_each_weight_has_one_optimiser() -> None:
    network = SPD(MUON.config)
    muon, adamw = new_optimizers(MUON, network)
    assert isinstance(muon, Muon)
    assert isinstance(adamw, AdamW)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    taken, left = (
        [names[id(own)] for group in optimizer.param_groups for own in group["params"]] for optimizer in (muon, adamw)
    )
    assert sorted(taken + left) == sorted(names.values())
    # Read-outs, embeddings and convolutions are no matrices between layers.
    for name in ("b1.w_off.weight", "b5.w_r2.weight", "b1.rpe", "b5.e_central", "encoder.backbone.stem_0.weight"):
        assert name in left
    for name in ("b1.w_q.weight", "b2.layers.0.w_k.weight", "encoder.backbone.stages_0.blocks.0.mlp.fc1.weight"):
        assert name in taken


@pytest.mark.parametrize(("name", "scale"), [("w_1", 1.0), ("encoder.backbone.", 0.5)])
def test_a_step_of_muon_turns_each_matrix_by_as_much_in_every_direction(name: str, scale: float) -> None:
    """Its update has singular values of 0.2 sqrt(max(rows, columns)) lr, 0.65 to 1.25 times, as of its iteration."""
    torch.manual_seed(0)
    state = new_state(MUON, BilinearMLP(MUON.config))
    muon = state.optimizers[0]
    taken = {id(own) for group in muon.param_groups for own in group["params"]}
    matrices = {
        own_name: own
        for own_name, own in state.network.named_parameters()
        if id(own) in taken and own_name.startswith(name)
    }
    assert matrices
    before = {own_name: own.detach().clone() for own_name, own in matrices.items()}
    state.set_learning_rate(10)
    for own in matrices.values():
        own.grad = torch.randn_like(own)
    muon.step()
    for own_name, own in matrices.items():
        singular = torch.linalg.svdvals((before[own_name] - own.detach()).double())
        unit = 0.2 * math.sqrt(max(own.shape)) * MUON.lr * scale
        assert 0.65 < float(singular.min()) / unit <= float(singular.max()) / unit < 1.25, own_name
