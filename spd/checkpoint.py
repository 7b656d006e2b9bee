"""Checkpoints: weights on disk, read without running what is in them and without a look at the network.

A checkpoint is `.pt` or `.pth` (read with `weights_only=True`, always) or `.safetensors`. Its weights are a state dict,
bare or under one of `CONTAINERS`, with or without the prefixes that DistributedDataParallel and torch.compile add. They
fit the model name by name and shape by shape, or they are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from spd.config import PRESETS, SPDConfig, preset_name
from spd.errors import CheckpointError
from spd.files import write_atomically
from spd.models import SPD

SUFFIXES = (".pt", ".pth", ".safetensors")
"""Files that can be read and written."""

CONTAINERS = ("ema", "model", "state_dict", "model_state_dict")
"""Where a file may keep its weights, best first: `ema`, the average that one evaluates; the others mean the same."""

PREFIXES = ("module.", "_orig_mod.")
"""Added to every name by DistributedDataParallel and by torch.compile."""

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that weights may have in a file; the model holds them in float32."""

RESAVE = "resave it where it was made with: torch.save(model.state_dict(), 'weights.pt')"
NAMES_SHOWN = 3
DEPTH = 3  # containers inside each other; a pickle can hold itself


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, and where they came from."""

    model: SPD
    """In eval mode, float32, on the CPU."""
    config: SPDConfig
    name: str
    """File name, for people."""
    weights_sha256: str
    """Hash of the model's float32 weights: it depends neither on the file's format nor on its containers."""


def load_checkpoint(path: str | Path, preset: str | None = None) -> Checkpoint:
    """Read a network from a file.

    Args:
        path: a `.pt`, `.pth` or `.safetensors` file.
        preset: the network it holds; by default its `config`, or else the preset that its names and shapes fit exactly.

    Raises:
        CheckpointError: the file cannot be read safely, or is not the whole of one network with finite weights.
    """
    path = Path(path)
    content, values = _read(path)
    weights = _state_dict(content, path)
    model = _fitting(weights, _config(values, preset, path), path)
    model.load_state_dict(_finite(weights, torch.float32, path), assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return Checkpoint(model.eval(), model.config, path.name, weights_sha256(model.state_dict()))


def save_checkpoint(
    path: str | Path,
    model: torch.nn.Module | Mapping[str, Tensor],
    config: SPDConfig,
    *,
    dtype: torch.dtype | None = None,
    **extra: Any,
) -> None:
    """Write what `load_checkpoint` reads back; a file of that name is replaced at once or, on an error, not at all.

    Args:
        path: ends in `.pt`, `.pth` or `.safetensors`.
        model: the network or its state dict, wrapped by DistributedDataParallel or torch.compile or not.
        config: of the network.
        dtype: of the floating point numbers in the file, torch.float16 for half the size; by default as they are.
        extra: written next to the weights as it is: tensors and plain values in `.pt`, JSON values in `.safetensors`.
            `ema` takes a state dict that is preferred to `model` when the file is read.

    Raises:
        CheckpointError: the weights do not fit `config` or are not finite in `dtype`, or `extra` cannot be written so
            that it can be read back without running code.
    """
    path = Path(path)
    _check_suffix(path)
    weights = _state_dict(model.state_dict() if isinstance(model, torch.nn.Module) else model, path)
    _fitting(weights, config, path)
    weights = _finite(weights, dtype, path)
    extra["config"] = config.as_dict()
    try:
        with write_atomically(path) as file:
            if path.suffix.lower() == ".safetensors":
                metadata = {key: json.dumps(value) for key, value in extra.items()}
                file.write(safetensors.torch.save(weights, {**metadata, "format": "pt"}))
            else:
                torch.save({**extra, "model": weights}, file)
                file.flush()
                _unpickled(Path(file.name), path, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # pickling `extra` can raise anything
        raise CheckpointError(f"{path} cannot be written: {_line(error)}") from error


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """The sha256 in hex that identifies weights: the same for the same numbers, whatever file they came from.

    It runs over the tensors sorted by name, each as the line `name dtype shape`, like `b5.e_g float32 [192]`, and its
    bytes in row-major order.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")


def _read(path: Path) -> tuple[Any, Any]:
    """The content of a file and the values of its config, None without one."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}, expected a checkpoint ({', '.join(SUFFIXES)})")
    _check_suffix(path)
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty, expected a checkpoint; copy it again")
        if path.suffix.lower() == ".safetensors":
            return _safetensors(path)
        content = _unpickled(path, path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {_line(error)}") from error
    return content, content.get("config") if isinstance(content, dict) else None


def _safetensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole .safetensors file: {_line(error)}; copy it again") from error
    try:
        return weights, json.loads(metadata["config"]) if "config" in metadata else None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its config is not JSON: {_line(error)}; save it again") from error


def _unpickled(file: Path, path: Path, mmap: bool = False) -> Any:
    """What torch.load reads from `file`; messages name `path`."""
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


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights by name out of what a file holds, without containers and prefixes."""
    entries = content if isinstance(content, Mapping) else {}
    for _ in range(DEPTH):
        inner = (entries[key] for key in CONTAINERS if isinstance(entries.get(key), Mapping))
        entries = next(inner, entries)
    # n_averaged is the counter of AveragedModel, torch's own moving average.
    weights = {key: value for key, value in entries.items() if key not in ("config", "n_averaged")}
    others = [str(key) for key, value in weights.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if not weights or others:
        found = f"entries that are no tensors ({_names(others)})" if others else "no tensors by name"
        raise CheckpointError(
            f"{path} holds {found}, expected a state dict, bare or under {', '.join(CONTAINERS)}; {RESAVE}"
        )
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _config(values: Any, preset: str | None, path: Path) -> SPDConfig | None:
    """The config that the file or the caller gives, if any."""
    if preset is not None and preset not in PRESETS:
        raise CheckpointError(f"there is no preset {preset!r}, only {', '.join(PRESETS)}")
    wanted = PRESETS[preset] if preset is not None else None
    if values is None:
        return wanted
    try:
        config = SPDConfig.from_dict(dict(values))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its config cannot be used: {_line(error)}; save it again") from error
    if wanted not in (None, config):
        name = preset_name(config) or "another network"
        raise CheckpointError(f"{path} says in its config that it is {name}, not {preset}; leave out --preset")
    return config


def _fitting(weights: Mapping[str, Tensor], config: SPDConfig | None, path: Path) -> SPD:
    """The network, still without weights, that `weights` fit exactly: of `config`, or of a preset."""
    found = []
    for candidate in [config] if config else PRESETS.values():
        model = _blank(candidate, path)
        count, differences = _differences(weights, model)
        if not count:
            return model
        found.append((count, preset_name(candidate) or "the network of its config", differences))
    _, name, listed = min(found)
    if config:
        raise CheckpointError(f"{path} does not fit {name}: {listed}")
    raise CheckpointError(
        f"{path} fits none of the presets {', '.join(PRESETS)}, and says no config; the nearest is {name}: {listed}; "
        "say which network it is with --preset"
    )


def _blank(config: SPDConfig, path: Path) -> SPD:
    """A network without memory for its weights: made in 0.13 s instead of 0.7 s for `tiny`."""
    try:
        with torch.device("meta"):
            return SPD(config)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its config describes no network: {_line(error)}; save it again") from error


def _differences(weights: Mapping[str, Tensor], model: SPD) -> tuple[int, str]:
    """How many tensors do not fit, and which: per block in the paper's order and per kind."""
    found: dict[str, dict[str, list[str]]] = {block: {} for block, _ in model.named_children()}
    found["other"] = {}
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    got = {name: list(tensor.shape) for name, tensor in weights.items()}
    for name in {**expected, **got}:
        if name not in got:
            kind, text = "missing", name
        elif name not in expected:
            kind, text = "unexpected", name
        elif expected[name] != got[name]:
            kind, text = "of another shape", f"{name} expected {expected[name]} got {got[name]}"
        else:
            continue
        block = name.split(".")[0]
        found[block if block in found else "other"].setdefault(kind, []).append(text)
    count = sum(len(texts) for kinds in found.values() for texts in kinds.values())
    return count, "; ".join(
        f"{block}: " + ", ".join(f"{len(texts)} {kind} ({_names(texts)})" for kind, texts in kinds.items())
        for block, kinds in found.items()
        if kinds
    )


def _finite(weights: Mapping[str, Tensor], dtype: torch.dtype | None, path: Path) -> dict[str, Tensor]:
    """Copies in `dtype` on the CPU that share no memory with each other or a file."""
    if wrong := [f"{name} {t.dtype}" for name, t in weights.items() if t.dtype not in FLOATS]:
        raise CheckpointError(f"{path} has {len(wrong)} tensors that are no floating point weights ({_names(wrong)})")
    if wrong := [name for name, t in weights.items() if t.layout != torch.strided or t.is_meta]:
        raise CheckpointError(f"{path} has {len(wrong)} tensors without dense values ({_names(wrong)}); {RESAVE}")
    copies = {name: t.detach().to("cpu", dtype or t.dtype, copy=True).contiguous() for name, t in weights.items()}
    if wrong := [name for name, tensor in copies.items() if not tensor.isfinite().all()]:
        what = str(dtype or "its dtype").removeprefix("torch.")
        raise CheckpointError(
            f"{path} has NaN or infinite weights in {what} in {len(wrong)} of {len(copies)} tensors ({_names(wrong)}); "
            "take an earlier checkpoint"
        )
    return copies


def _names(names: list[str]) -> str:
    """The first few of some names that may come from a file."""
    shown = [name if name.isprintable() and len(name) <= 120 else ascii(name[:120]) for name in names[:NAMES_SHOWN]]
    return ", ".join(shown + ["..."] * (len(names) > NAMES_SHOWN))


def _line(error: Exception) -> str:
    """An error's text on one line; it may quote a file."""
    text = " ".join(str(error).split())
    return text if text.isprintable() else ascii(text)
