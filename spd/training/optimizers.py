"""The optimisers of a run: AdamW (paper 7.3), or Muon for the matrices of dense layers and AdamW for the rest."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from spd.training.settings import Settings

SMALLEST_MATRIX = 32
"""Rows and columns that a dense layer's weights have at least to count as a matrix.

Fewer have the layers that read out offsets or log depth: there each row has a meaning, and its own scale.
"""


def new_optimizers(settings: Settings, network: nn.Module) -> tuple[Optimizer, ...]:
    """The optimisers for all parameters of a network; each group has its highest learning rate as `peak_lr`."""
    matrices = _matrices(network) if settings.optimizer == "muon" else set()
    adamw = AdamW(_groups(settings, network, matrices, inside=False), weight_decay=settings.weight_decay, fused=True)
    if not matrices:
        return (adamw,)
    # Updates as large as AdamW's, so that one learning rate suits both.
    muon = Muon(
        _groups(settings, network, matrices, inside=True),
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return muon, adamw


def _matrices(network: nn.Module) -> set[str]:
    """Names of the parameters that Muon takes."""
    return {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and min(module.weight.shape) >= SMALLEST_MATRIX
    }


def _groups(settings: Settings, network: nn.Module, matrices: set[str], *, inside: bool) -> list[dict[str, object]]:
    """The parameters among the matrices, or those outside: first the backbone's, then the others."""
    named = [(name, own) for name, own in network.named_parameters() if (name in matrices) == inside]
    return [
        {
            "params": [own for name, own in named if name.startswith("encoder.backbone.") == backbone],
            "peak_lr": settings.lr * scale,
        }
        for backbone, scale in ((True, settings.encoder_lr_scale), (False, 1.0))
    ]
