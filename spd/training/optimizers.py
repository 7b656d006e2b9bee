"""The optimisers of a run: AdamW (paper 7.3), or Muon for the matrices of dense layers and AdamW for the rest."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from spd.training.settings import Settings

SMALLEST_MATRIX = 32
"""Smallest number of rows and of columns of a weight that Muon takes.

The layers that read out offsets or log depth have fewer: each of their rows has a meaning and a scale of its own.
"""


def new_optimizers(settings: Settings, network: nn.Module) -> tuple[Optimizer, ...]:
    """The optimisers for all parameters of a network; each group has its peak learning rate as `peak_lr`."""
    matrices = _matrix_names(network) if settings.optimizer == "muon" else set()
    adamw = AdamW(
        _parameter_groups(settings, network, matrices, inside=False), weight_decay=settings.weight_decay, fused=True
    )
    if not matrices:
        return (adamw,)
    # Updates as large as AdamW's: one learning rate suits both.
    muon = Muon(
        _parameter_groups(settings, network, matrices, inside=True),
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return muon, adamw


def _matrix_names(network: nn.Module) -> set[str]:
    """Names of the parameters that Muon takes."""
    return {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and min(module.weight.shape) >= SMALLEST_MATRIX
    }


def _parameter_groups(
    settings: Settings, network: nn.Module, matrices: set[str], *, inside: bool
) -> list[dict[str, object]]:
    """The parameters among the matrices, or those outside: first the backbone's, then the others."""
    named = [(name, own) for name, own in network.named_parameters() if (name in matrices) == inside]
    return [
        {
            "params": [own for name, own in named if name.startswith("encoder.backbone.") == backbone],
            "peak_lr": settings.lr * scale,
        }
        for backbone, scale in ((True, settings.encoder_lr_scale), (False, 1.0))
    ]
