"""Checkpoints: weights on disk, read as `spd.checkpoint.files` says.

The whole of one network is found among a file's tensors, name by name and shape by shape, or the file is refused. It
says which of `NETWORKS` it holds in its entry `network`; without one it is SPD. Its entry `image_size` says how large
the images were that it was trained on: a network reads metres off how large things look in pixels, and is right at that
size only.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from spd.checkpoint.entries import network_config, network_name, trained_size
from spd.checkpoint.files import RESAVE, check_suffix, read, some_names, unpickled
from spd.checkpoint.fitting import NETWORKS, Network, fit
from spd.checkpoint.weights import check_which
from spd.config import SPDConfig
from spd.errors import CheckpointError, one_line
from spd.files import checkpoint_suffix, write_atomically

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that weights may have in a file; the model holds them in float32."""

logger = logging.getLogger("spd")


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
    note: str | None = None
    """Which weights were taken, if the file has averaged and raw ones and the caller did not choose."""


def load_checkpoint(
    path: str | Path, preset: str | None = None, *, networks: Sequence[str] = ("spd",), weights: str = "auto"
) -> Checkpoint:
    """Read a network from a file.

    Args:
        path: a file with one of `spd.files.CHECKPOINT_SUFFIXES`.
        preset: the widths of the network it holds; by default its `config`, or else the preset that its names and
            shapes fit exactly.
        networks: those of `NETWORKS` that the caller can use.
        weights: `averaged` for those of a moving average (EMA, SWA), `raw` for the others, `auto` for the averaged ones
            if the file has them. If it has both, `auto` says so in `Checkpoint.note` and logs it at level info.

    Raises:
        CheckpointError: the file cannot be read safely, holds another network, does not have these weights, or is not
            the whole of one network with finite weights.
    """
    path = Path(path)
    check_which(weights)
    content = read(path)
    network = network_name(content.said, NETWORKS, networks, path)
    config = network_config(content.said, preset, path)
    model, found, note = fit(content.values, network, config, weights, path)
    model.load_state_dict(_finite(found, torch.float32, path), assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    size = trained_size(content.said, model.config, path)
    if note:
        logger.info("%s", note)
    return Checkpoint(model.eval(), model.config, network, path.name, weights_sha256(model.state_dict()), size, note)


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
        path: ends in one of `spd.files.CHECKPOINT_SUFFIXES`, but not in `.index.json`.
        model: the network or its state dict; wrapped by DistributedDataParallel, torch.compile or AveragedModel or not.
        config: of the network.
        network: which of `NETWORKS` it is.
        size: height and width in pixels of the images that it was trained on.
        dtype: of the floating point numbers in the file, torch.float16 for half the size; by default as they are.
        extra: written next to the weights as it is: JSON values in `.safetensors`, tensors and plain values in all
            others. `ema` takes a state dict that is preferred to `model` when the file is read.

    Raises:
        CheckpointError: the weights do not fit `config` or are not finite in `dtype`, `extra` cannot be read back
            without running code, or the file cannot be written, for example because the disk is full.
    """
    assert network in NETWORKS
    path = Path(path)
    check_suffix(path)
    content = model.state_dict() if isinstance(model, torch.nn.Module) else model
    weights = _finite(fit(content, network, config, "auto", path).weights, dtype, path)
    extra["config"] = config.as_dict()
    if network != "spd":
        extra["network"] = network
    if size is not None:
        extra["image_size"] = list(size)
    try:
        with write_atomically(path) as file:
            if checkpoint_suffix(path) == ".safetensors":
                metadata = {key: json.dumps(value) for key, value in extra.items()}
                file.write(safetensors.torch.save(weights, {**metadata, "format": "pt"}))
            else:
                torch.save({**extra, "model": weights}, file)
                file.flush()
                unpickled(Path(file.name), path, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # pickling `extra` can raise anything
        raise CheckpointError(f"{path} cannot be written: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Why a file was not written: what the system said, where torch then complains of its own state."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return one_line(error)


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
