"""Checkpoints: weights on disk, read as `spd.checkpoint.files` says.

They fit the network name by name and shape by shape, or they are refused. A file says which of `NETWORKS` it holds in
its entry `network`; without one it is SPD. Its entry `image_size` says how large the images were that it was trained
on: a network reads metres off how large things look, in pixels, so that it is right at that size only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from torch import Tensor

from spd.baselines.bilinear_mlp import BilinearMLP
from spd.checkpoint.files import RESAVE, check_suffix, read, some_names, state_dict, unpickled
from spd.config import PRESETS, SPDConfig, check_size, preset_name
from spd.errors import CheckpointError, one_line
from spd.files import write_atomically
from spd.models import SPD

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that weights may have in a file; the model holds them in float32."""

Network: TypeAlias = SPD | BilinearMLP

NETWORKS: dict[str, type[Network]] = {"spd": SPD, "bilinear-mlp": BilinearMLP}
"""What a checkpoint can hold, and what its entry `network` then says; all but SPD are baselines."""


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, and where they came from."""

    model: Network
    """In eval mode, float32, on the CPU."""
    config: SPDConfig
    network: str
    """Which of `NETWORKS` the model is."""
    name: str
    """File name, for people."""
    weights_sha256: str
    """Hash of the model's float32 weights: it depends neither on the file's format nor on its containers."""
    size: tuple[int, int] | None
    """Height and width in pixels of the images that it was trained on; None if the file does not say."""


def load_checkpoint(path: str | Path, preset: str | None = None, *, networks: Sequence[str] = ("spd",)) -> Checkpoint:
    """Read a network from a file.

    Args:
        path: a `.pt`, `.pth` or `.safetensors` file.
        preset: the widths of the network it holds; by default its `config`, or else the preset that its names and
            shapes fit exactly.
        networks: those of `NETWORKS` that the caller can use.

    Raises:
        CheckpointError: the file cannot be read safely, holds another network, or is not the whole of one network with
            finite weights.
    """
    path = Path(path)
    content = read(path)
    network = _network(content.network, networks, path)
    weights = state_dict(content.weights, path)
    model = _fitting(weights, network, _config(content.config, preset, path), path)
    model.load_state_dict(_finite(weights, torch.float32, path), assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    size = _size(content.image_size, model.config, path)
    return Checkpoint(model.eval(), model.config, network, path.name, weights_sha256(model.state_dict()), size)


def save_checkpoint(
    path: str | Path,
    model: torch.nn.Module | Mapping[str, Tensor],
    config: SPDConfig,
    *,
    network: str = "spd",
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    **extra: Any,
) -> None:
    """Write what `load_checkpoint` reads back; a file of that name is replaced at once or, on an error, not at all.

    Args:
        path: ends in `.pt`, `.pth` or `.safetensors`.
        model: the network or its state dict, wrapped by DistributedDataParallel or torch.compile or not.
        config: of the network.
        network: which of `NETWORKS` it is.
        size: height and width in pixels of the images that it was trained on.
        dtype: of the floating point numbers in the file, torch.float16 for half the size; by default as they are.
        extra: written next to the weights as it is: tensors and plain values in `.pt`, JSON values in `.safetensors`.
            `ema` takes a state dict that is preferred to `model` when the file is read.

    Raises:
        CheckpointError: the weights do not fit `config` or are not finite in `dtype`, or `extra` cannot be written so
            that it can be read back without running code.
    """
    assert network in NETWORKS
    path = Path(path)
    check_suffix(path)
    weights = state_dict(model.state_dict() if isinstance(model, torch.nn.Module) else model, path)
    _fitting(weights, network, config, path)
    weights = _finite(weights, dtype, path)
    extra["config"] = config.as_dict()
    if network != "spd":
        extra["network"] = network
    if size is not None:
        extra["image_size"] = list(size)
    try:
        with write_atomically(path) as file:
            if path.suffix.lower() == ".safetensors":
                metadata = {key: json.dumps(value) for key, value in extra.items()}
                file.write(safetensors.torch.save(weights, {**metadata, "format": "pt"}))
            else:
                torch.save({**extra, "model": weights}, file)
                file.flush()
                unpickled(Path(file.name), path, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # pickling `extra` can raise anything
        raise CheckpointError(f"{path} cannot be written: {one_line(error)}") from error


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


def _network(said: object, networks: Sequence[str], path: Path) -> str:
    """Which network a file holds by its entry `network`, if the caller can use it."""
    network = "spd" if said is None else said
    if not isinstance(network, str) or network not in NETWORKS:
        got = some_names([str(network)])
        raise CheckpointError(f"{path} says that it holds the network {got}, expected {_any(NETWORKS)}; {RESAVE}")
    if network not in networks:
        baseline = ", a baseline, which cannot be exported; evaluate it with spd-eval"
        hint = baseline if network != "spd" else f", expected {_any(networks)}; take another checkpoint"
        raise CheckpointError(f"{path} holds {network}{hint}")
    return network


def _any(networks: Iterable[str]) -> str:
    return " or ".join(networks)


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
        raise CheckpointError(f"{path}: its config cannot be used: {one_line(error)}; save it again") from error
    if wanted not in (None, config):
        name = preset_name(config) or "another network"
        raise CheckpointError(f"{path} says in its config that it is {name}, not {preset}; leave out --preset")
    return config


def _size(values: Any, config: SPDConfig, path: Path) -> tuple[int, int] | None:
    """The size that the file gives, if any."""
    match values:
        case None:
            return None
        case [int(height), int(width)]:
            try:
                check_size(height, width, config)
            except ValueError as error:
                raise CheckpointError(f"{path}: its image_size cannot be used: {error}; save it again") from error
            return height, width
    found = some_names([str(values)])
    raise CheckpointError(f"{path}: its image_size is {found}, expected [height, width] in pixels; save it again")


def _fitting(weights: Mapping[str, Tensor], network: str, config: SPDConfig | None, path: Path) -> Network:
    """The network, still without weights, that `weights` fit exactly: of `config`, or of a preset."""
    found = []
    for candidate in [config] if config else PRESETS.values():
        model = _blank(network, candidate, path)
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


def _blank(network: str, config: SPDConfig, path: Path) -> Network:
    """A network without memory for its weights: made in 0.13 s instead of 0.7 s for `tiny`."""
    try:
        with torch.device("meta"):
            return NETWORKS[network](config)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its config describes no network: {one_line(error)}; save it again") from error


def _differences(weights: Mapping[str, Tensor], model: Network) -> tuple[int, str]:
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
        f"{block}: " + ", ".join(f"{len(texts)} {kind} ({some_names(texts)})" for kind, texts in kinds.items())
        for block, kinds in found.items()
        if kinds
    )


def _finite(weights: Mapping[str, Tensor], dtype: torch.dtype | None, path: Path) -> dict[str, Tensor]:
    """Copies in `dtype` on the CPU that share no memory with each other or a file."""
    if wrong := [f"{name} {t.dtype}" for name, t in weights.items() if t.dtype not in FLOATS]:
        raise CheckpointError(
            f"{path} has {len(wrong)} tensors that are no floating point weights ({some_names(wrong)})"
        )
    if wrong := [name for name, t in weights.items() if t.layout != torch.strided or t.is_meta]:
        raise CheckpointError(f"{path} has {len(wrong)} tensors without dense values ({some_names(wrong)}); {RESAVE}")
    copies = {name: t.detach().to("cpu", dtype or t.dtype, copy=True).contiguous() for name, t in weights.items()}
    if wrong := [name for name, tensor in copies.items() if not tensor.isfinite().all()]:
        what = str(dtype or "its dtype").removeprefix("torch.")
        raise CheckpointError(
            f"{path} has NaN or infinite weights in {what} in {len(wrong)} of {len(copies)} tensors "
            f"({some_names(wrong)}); take an earlier checkpoint"
        )
    return copies
