"""The network that the weights of a file are, name by name and shape by shape, or how they differ from the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from spd.baselines.bilinear_mlp import BilinearMLP
from spd.checkpoint.files import RESAVE, shown, some_names
from spd.checkpoint.naming import Place, Tree, places, tensors
from spd.checkpoint.weights import choose
from spd.config import PRESETS, SPDConfig, preset_name
from spd.errors import CheckpointError, one_line
from spd.models import SPD

Network: TypeAlias = SPD | BilinearMLP

NETWORKS: dict[str, type[Network]] = {"spd": SPD, "bilinear-mlp": BilinearMLP}
"""What a checkpoint can hold, and what its entry `network` then says; all but SPD are baselines."""


class Fitting(NamedTuple):
    """A network, and the weights in a file that fit it exactly."""

    model: Network
    """Without memory for its weights."""
    weights: dict[str, Tensor]
    """As in the file."""
    note: str | None
    """Which of several weights were taken, if nobody asked for them by name."""


def fit(content: Any, network: str, config: SPDConfig | None, which: str, path: Path) -> Fitting:
    """Find the whole of one network among the tensors of a file.

    Args:
        content: of the file.
        network: which of `NETWORKS`.
        config: its config; by default any of the presets.
        which: one of `spd.files.CHECKPOINT_WEIGHTS`.
        path: of the file, for messages.

    Raises:
        CheckpointError: the file has no whole network of that kind under one prefix, or several that differ.
    """
    tree = tensors(content)
    if not tree.leaves:
        raise CheckpointError(f"{path} holds no tensors by name, expected a state dict; {RESAVE}")
    found = []
    for candidate in [config] if config else PRESETS.values():
        model = _blank(network, candidate, path)
        expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        near = places(tree, expected)
        fitting = [place for place in near if not any(_misfits(place, expected).values())]
        if fitting:
            others = [place for place in near if place not in fitting]
            place, note = choose(fitting, others, tree, content, which, path)
            return Fitting(model, place.weights, note)
        count, listed = _differences(near[0] if near else _everything(tree), model)
        found.append((count, preset_name(candidate) or "the network of its config", listed))
    _, name, listed = min(found)
    if config:
        raise CheckpointError(f"{path} does not fit {name}: {listed}")
    raise CheckpointError(
        f"{path} fits none of the presets {', '.join(PRESETS)}, and says no config; the nearest is {name}: {listed}; "
        "say which network it is with --preset"
    )


def _blank(network: str, config: SPDConfig, path: Path) -> Network:
    """A network without memory for its weights: made in 0.13 s instead of 0.7 s for `tiny`."""
    try:
        with torch.device("meta"):
            return NETWORKS[network](config)
    except (RuntimeError, ValueError, TypeError) as error:
        problem = shown(one_line(error))
        raise CheckpointError(f"{path}: its config describes no network: {problem}; save it again") from error


def _everything(tree: Tree) -> Place:
    """All tensors of a file that has no name of the network."""
    return Place("", others=[".".join(leaf.parts) for leaf in tree.leaves])


def _misfits(place: Place, expected: dict[str, list[int]]) -> dict[str, list[tuple[str, str]]]:
    """Per kind, names that do not fit and what to say of each."""
    got = {name: list(tensor.shape) for name, tensor in place.weights.items()}
    return {
        "missing": [(name, name) for name in expected if name not in got],
        "unexpected": [(name, name) for name in place.others],
        "under two names": [(name, name) for name in place.twice],
        "of another shape": [
            (name, f"{name} expected {expected[name]} got {shape}")
            for name, shape in got.items()
            if shape != expected[name]
        ],
    }


def _differences(place: Place, model: Network) -> tuple[int, str]:
    """How many tensors do not fit, and which: per block in the paper's order and per kind."""
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    blocks = [block for block, _ in model.named_children()]
    found: dict[str, dict[str, list[str]]] = {block: {} for block in [*blocks, "other"]}
    count = 0
    for kind, misfits in _misfits(place, expected).items():
        count += len(misfits)
        for name, text in misfits:
            block = name.split(".")[0]
            found[block if block in found else "other"].setdefault(kind, []).append(text)
    return count, "; ".join(
        f"{block}: " + ", ".join(f"{len(texts)} {kind} ({some_names(texts)})" for kind, texts in kinds.items())
        for block, kinds in found.items()
        if kinds
    )
