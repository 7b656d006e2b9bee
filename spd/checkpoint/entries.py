"""What a checkpoint says about its network beside the weights: `config`, `network` and `image_size`.

Training scripts keep things of their own under these names, such as all their settings in `config`. Those are none of
SPD's business. A config is SPD's if it has a field that only SPD's has; the other two count if it is, or if they make
sense.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from spd.checkpoint.files import RESAVE, shown
from spd.config import PRESETS, SPDConfig, check_size, preset_name
from spd.errors import CheckpointError, one_line

COMMON_FIELDS = frozenset({"backbone", "d", "heads", "dropout"})
"""Fields of SPD's config whose names a training script may use for something else."""

OWN_FIELDS = {field.name for field in fields(SPDConfig)} - COMMON_FIELDS


def is_own(said: Mapping[str, Any]) -> bool:
    """Whether a file has SPD's config, and so was written by `save_checkpoint`."""
    config = said.get("config")
    return isinstance(config, Mapping) and not OWN_FIELDS.isdisjoint(config)


def network_name(said: Mapping[str, Any], known: Iterable[str], usable: Sequence[str], path: Path) -> str:
    """Which network a file holds by its entry `network`, SPD by default.

    Raises:
        CheckpointError: the name is none of the `known` ones, or not one of those that the caller can use.
    """
    name = said.get("network")
    is_known = isinstance(name, str) and name in known
    if name is not None and not is_known and is_own(said):
        expected = " or ".join(known)
        raise CheckpointError(f"{path} says that it holds the network {shown(name)}, expected {expected}; {RESAVE}")
    network = str(name) if is_known else "spd"
    if network not in usable:
        baseline = ", a baseline, which cannot be exported; evaluate it with spd-eval"
        hint = baseline if network != "spd" else f", expected {' or '.join(usable)}; take another checkpoint"
        raise CheckpointError(f"{path} holds {network}{hint}")
    return network


def network_config(said: Mapping[str, Any], preset: str | None, path: Path) -> SPDConfig | None:
    """The config that the file or the caller gives, if any.

    Raises:
        CheckpointError: the file's is SPD's and cannot be used or is not the preset's, or there is no such preset.
    """
    if preset is not None and preset not in PRESETS:
        raise CheckpointError(f"there is no preset {preset!r}, only {', '.join(PRESETS)}")
    wanted = PRESETS[preset] if preset is not None else None
    if not is_own(said):
        return wanted
    try:
        config = SPDConfig.from_dict(dict(said["config"]))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its config cannot be used: {shown(one_line(error))}; save it again") from error
    if wanted not in (None, config):
        name = preset_name(config) or "another network"
        raise CheckpointError(f"{path} says in its config that it is {name}, not {preset}; leave out --preset")
    return config


def trained_size(said: Mapping[str, Any], config: SPDConfig, path: Path) -> tuple[int, int] | None:
    """Height and width in pixels of the images that the network was trained on, if the file says.

    Raises:
        CheckpointError: the file is SPD's, and what it says cannot be a size.
    """
    values = said.get("image_size")
    if values is None:
        return None
    try:
        match values:
            case [int(height), int(width)]:
                check_size(height, width, config)
                return height, width
        problem = f"is {shown(values)}, expected [height, width] in pixels"
    except ValueError as error:
        problem = f"cannot be used: {shown(one_line(error))}"
    if is_own(said):
        raise CheckpointError(f"{path}: its image_size {problem}; save it again")
    return None
