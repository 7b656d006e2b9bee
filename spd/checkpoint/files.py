"""What is in a checkpoint file, read without running it and without a look at the network.

A checkpoint is `.pt` or `.pth` (read with `weights_only=True`, always) or `.safetensors`. Its weights are a state dict,
bare or under one of `CONTAINERS`, with or without the prefixes that DistributedDataParallel and torch.compile add.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from torch import Tensor

from spd.errors import CheckpointError, one_line

SUFFIXES = (".pt", ".pth", ".safetensors")
"""Files that can be read and written."""

CONTAINERS = ("ema", "model", "state_dict", "model_state_dict")
"""Where a file may keep its weights, best first: `ema`, the average that one evaluates; the others mean the same."""

PREFIXES = ("module.", "_orig_mod.")
"""Added to every name by DistributedDataParallel and by torch.compile."""

ENTRIES = ("config", "network", "image_size")
"""What a file may say beside the weights."""

RESAVE = "resave it where it was made with: torch.save(model.state_dict(), 'weights.pt')"
NAMES_SHOWN = 3
DEPTH = 3  # containers inside each other; a pickle can hold itself


class Content(NamedTuple):
    """What a file holds, not checked yet."""

    weights: Any
    """A state dict, or containers around one."""
    config: Any
    """The values of the network's config; None if the file does not say."""
    network: Any
    """Which network it is; None if the file does not say."""
    image_size: Any
    """Height and width of the images it was trained on; None if the file does not say."""


def check_suffix(path: Path) -> None:
    """Raise CheckpointError unless a file of that name can be read and written."""
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")


def read(path: Path) -> Content:
    """Read a file.

    Raises:
        CheckpointError: it is missing, damaged, of another kind, or holds code.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}, expected a checkpoint ({', '.join(SUFFIXES)})")
    check_suffix(path)
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty, expected a checkpoint; copy it again")
        if path.suffix.lower() == ".safetensors":
            return _safetensors(path)
        content = unpickled(path, path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from error
    entries = content if isinstance(content, dict) else {}
    return Content(content, *(entries.get(key) for key in ENTRIES))


def _safetensors(path: Path) -> Content:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole .safetensors file: {one_line(error)}; copy it again") from error
    said = {}
    for key in ENTRIES:
        try:
            said[key] = json.loads(metadata[key]) if key in metadata else None
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: its {key} is not JSON: {one_line(error)}; save it again") from error
    return Content(weights, **said)


def unpickled(file: Path, path: Path, mmap: bool = False) -> Any:
    """What torch.load reads from `file`, safely; messages name `path`.

    Raises:
        CheckpointError: the file is damaged, is no PyTorch checkpoint, or holds code.
        OSError: the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        if found := re.search(r"(?<=GLOBAL )[\w.]+|TorchScript", str(error)):
            raise CheckpointError(
                f"{path} holds code or objects other than tensors ({found[0]}), which are never run; {RESAVE}"
            ) from error
        raise CheckpointError(f"{path} is damaged or not a PyTorch checkpoint; copy it again, or {RESAVE}") from error


def state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights by name out of what a file holds, without containers and prefixes.

    Raises:
        CheckpointError: there are none, or there are other things among them.
    """
    entries = content if isinstance(content, Mapping) else {}
    for _ in range(DEPTH):
        inner = (entries[key] for key in CONTAINERS if isinstance(entries.get(key), Mapping))
        entries = next(inner, entries)
    # n_averaged is the counter of AveragedModel, torch's own moving average.
    weights = {key: value for key, value in entries.items() if key not in (*ENTRIES, "n_averaged")}
    others = [str(key) for key, value in weights.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if not weights or others:
        found = f"entries that are no tensors ({some_names(others)})" if others else "no tensors by name"
        raise CheckpointError(
            f"{path} holds {found}, expected a state dict, bare or under {', '.join(CONTAINERS)}; {RESAVE}"
        )
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def some_names(names: list[str]) -> str:
    """The first few of some names that may come from a file."""
    shown = [name if name.isprintable() and len(name) <= 120 else ascii(name[:120]) for name in names[:NAMES_SHOWN]]
    return ", ".join(shown + ["..."] * (len(names) > NAMES_SHOWN))
