"""Which weights of a checkpoint are taken, where it has averaged ones beside raw ones.

Training keeps a moving average of the weights (EMA or SWA), because it is better than the weights themselves. Every
library puts it in another place; what those places have in common is a word in their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from spd.checkpoint.files import RESAVE, shown, some_names
from spd.checkpoint.naming import Place, Tree
from spd.errors import CheckpointError
from spd.files import CHECKPOINT_WEIGHTS

AVERAGED = frozenset({"ema", "swa", "avg", "average", "averaged", "polyak", "shadow", "teacher"})
"""Words for averages: `state_dict_ema` and `model_ema` (timm, torchvision), `ema_state` (detrex), `ema_model`
(ema-pytorch), `average_model_state` (Lightning's SWA), `shadow_params` (diffusers, torch-ema), `teacher` (DINO)."""

RAW = frozenset({"online", "student", "raw", "current", "training", "collected", "backup"})
"""Words for weights that are not averaged: `online_model` (ema-pytorch), `current_model_state` (Lightning)."""


def check_which(which: str) -> None:
    """Raise CheckpointError unless it is one of `CHECKPOINT_WEIGHTS`."""
    if which not in CHECKPOINT_WEIGHTS:
        raise CheckpointError(f"there are no weights {which!r}; choose one of: {', '.join(CHECKPOINT_WEIGHTS)}")


def choose(
    fitting: Sequence[Place], others: Sequence[Place], tree: Tree, content: Any, which: str, path: Path
) -> tuple[Place, str | None]:
    """The place whose weights are asked for, and a note if the file has others that could have been meant.

    Args:
        fitting: the places that have the whole of a network, at least one.
        others: those that have a part of it.
        tree: all tensors of the file.
        content: of the file.
        which: one of `CHECKPOINT_WEIGHTS`.
        path: of the file, for messages.

    Raises:
        CheckpointError: the file does not have them, or several that differ.
    """
    averages = _average_names(content)
    averaged = [place for place in fitting if _is_averaged(place, averages)]
    raw = [place for place in fitting if place not in averaged]
    rivals = [p for p in others if len(p.weights) == len(fitting[0].weights) and not _is_averaged(p, averages)]
    unusable = [place.name for place in others if _is_averaged(place, averages)]
    if not averaged and which != "raw":
        lists = {name: tensors for name, tensors in tree.lists.items() if _names_average(name.split(".")[-1])}
        named = {name: _named(name, tensors, raw) for name, tensors in lists.items()}
        averaged = [place for place in named.values() if place]
        unusable += [name for name, place in named.items() if not place]
    if which == "raw" or not averaged:
        if which != "raw" and unusable:
            raise CheckpointError(
                f"{path} has averaged weights that are not the whole of the network, or have no names and cannot be "
                f"told apart ({some_names(unusable)}); save the averaged network's state_dict(), or take the others "
                "with --weights raw"
            )
        if which == "averaged" or not raw:
            missing, present = ("averaged", "raw") if which == "averaged" else ("raw", "averaged")
            raise CheckpointError(
                f"{path} has no {missing} weights, only {present} ones ({_listed(fitting)}); leave out --weights"
            )
        return _only([*raw, *rivals], path), None
    taken = _only(averaged, path)
    if which == "averaged" or not raw:
        return taken, None
    return taken, (
        f"{shown(path.name)} has averaged and raw weights; the averaged ones are taken ({_listed([taken])}), "
        f"--weights raw takes the others ({_listed(raw)})"
    )


def _only(places: Sequence[Place], path: Path) -> Place:
    """The one place, or one of several that have the same numbers."""
    first = places[0]
    if not all(place.same_numbers(first) for place in places[1:]):
        raise CheckpointError(f"{path} has several networks that fit ({_listed(places)}); keep one of them: {RESAVE}")
    return first


def _listed(places: Sequence[Place]) -> str:
    return some_names([place.name or "names without a prefix" for place in places])


def _is_averaged(place: Place, averages: Mapping[str, bool]) -> bool:
    """Whether a place has averaged weights, by its counter or its name."""
    known = averages.get(place.name.split(".", 1)[0])
    return known if known is not None else place.counted or _names_average(place.name)


def _names_average(name: str) -> bool:
    """Whether the last part that says anything, of a name such as `EMACallback.current_model_state`, says averaged."""
    for part in reversed(name.split(".")):
        words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)}
        if words & (AVERAGED | RAW):
            return bool(words & AVERAGED)
    return False


def _average_names(content: Any) -> dict[str, bool]:
    """Whether containers hold averages, where a library says the opposite of what their names say."""
    if not isinstance(content, Mapping):
        return {}
    if {"averaging_state", "current_model_state"} <= content.keys():  # Lightning's WeightAveraging
        return {"state_dict": True, "current_model_state": False}
    average = content.get("ema_state_dict")
    if "state_dict" in content and isinstance(average, Mapping) and "steps" in average:
        return {"state_dict": True, "ema_state_dict": False}  # mmengine's EMAHook swaps the two before it saves
    return {}


def _named(name: str, tensors: Sequence[Tensor], raw: Sequence[Place]) -> Place | None:
    """A list of averaged parameters with the names of the raw ones, if it is as long and of the same shapes in order.

    Libraries fill such lists from `model.parameters()`, whose order is that of the state dict.
    """
    if len(raw) != 1 or [t.shape for t in tensors] != [t.shape for t in raw[0].weights.values()]:
        return None
    return Place(name, dict(zip(raw[0].weights, tensors, strict=True)))
