"""What is in a checkpoint file, read without running it and without a look at the network.

A `.safetensors` file holds tensors by name, and text beside them. An `.index.json` file names the files that hold the
parts of one checkpoint. Every other file is a pickle by torch.save, read with `weights_only=True`, always.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch

from spd.checkpoint.protocols import in_protocol_2
from spd.errors import CheckpointError, one_line
from spd.files import CHECKPOINT_SUFFIXES, checkpoint_suffix, why_no_checkpoint

INDEX = ".index.json"

RESAVE = "resave it where it was made with: torch.save(model.state_dict(), 'weights.pt')"
NAMES_SHOWN = 3
CHARACTERS_SHOWN = 120


class Content(NamedTuple):
    """What a file holds, not checked yet."""

    values: Any
    """Tensors by name, or containers around them."""
    said: Mapping[str, Any]
    """What may describe the network, by name: entries beside the weights."""


def check_suffix(path: Path) -> None:
    """Raise CheckpointError unless a checkpoint of that name can be written."""
    if checkpoint_suffix(path) in (None, INDEX):
        expected = ", ".join(suffix for suffix in CHECKPOINT_SUFFIXES if suffix != INDEX)
        raise CheckpointError(f"{path} has the suffix {path.suffix!r}, expected one of {expected}")


def read(path: Path) -> Content:
    """Read a file.

    Raises:
        CheckpointError: it is missing, damaged, of another kind, or holds code.
    """
    try:
        if reason := why_no_checkpoint(path):
            raise CheckpointError(f"{path} {reason}")
        return _shards(path) if checkpoint_suffix(path) == INDEX else _file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error


def _file(path: Path) -> Content:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty, expected a checkpoint; copy it again")
    if checkpoint_suffix(path) == ".safetensors":
        return _safetensors(path)
    values = unpickled(path, path)
    return Content(values, {} if not isinstance(values, Mapping) else values)


def _safetensors(path: Path) -> Content:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole .safetensors file: {one_line(error)}; copy it again") from error
    return Content(weights, {key: _json_or_text(text) for key, text in metadata.items()})


def _json_or_text(text: str) -> Any:
    """A value of a .safetensors file's metadata: JSON where SPD wrote it, any text where another program did."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shards(path: Path) -> Content:
    """All tensors of the files that an index names."""
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
        files = [path.parent / name for name in names]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no index of shards: it has no weight_map of file names") from error
    # A name that leads out of the folder could make a stranger's index read any file.
    if wrong := [name for name, file in zip(names, files, strict=True) if Path(name).name != name or _no_shard(file)]:
        raise CheckpointError(f"{path} names files that are not shards in its folder ({some_names(wrong)})")
    weights: dict[Any, Any] = {}
    for file in files:
        values = _file(file).values
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{file} holds no tensors by name, expected a shard of {path.name}; {RESAVE}")
        weights |= values
    return Content(weights, {})


def _no_shard(file: Path) -> bool:
    return not file.is_file() or checkpoint_suffix(file) in (None, INDEX)


def unpickled(file: Path, path: Path, mmap: bool = False) -> Any:
    """What torch.load reads from `file`, safely; messages name `path`.

    Raises:
        CheckpointError: the file is damaged, is no PyTorch checkpoint, or holds code.
        OSError: the file cannot be read.
    """
    # timm keeps its settings in a Namespace, which is a dict with another syntax.
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
        try:
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
            except Exception as error:  # a broken pickle can raise anything
                if "Unsupported operand" not in str(error):
                    raise
            return torch.load(in_protocol_2(file), map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:
            if found := re.search(r"(?<=GLOBAL )[\w.]+|TorchScript", str(error)):
                raise CheckpointError(
                    f"{path} holds code or objects other than tensors ({some_names([found[0]])}), which are never "
                    f"run; {RESAVE}"
                ) from error
            raise CheckpointError(
                f"{path} is damaged or not a PyTorch checkpoint; copy it again, or {RESAVE}"
            ) from error


def some_names(names: Iterable[Any]) -> str:
    """The first few of some names that may come from a file: printable and not too long."""
    names = list(names)
    return ", ".join([shown(name) for name in names[:NAMES_SHOWN]] + ["..."] * (len(names) > NAMES_SHOWN))


def shown(value: Any) -> str:
    """A name or message with something from a file in it: printable and not too long."""
    text = value if isinstance(value, str) else str(value)
    cut = text if len(text) <= CHARACTERS_SHOWN else text[:CHARACTERS_SHOWN] + "..."
    return cut if cut.isprintable() else ascii(cut)
