"""Precision policies: which modules keep more bits than a graph's other ones, besides the islands (design 5)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.decoder import TokenCrossAttnFolded
from export.encoder import SelfAttentionLayer
from export.layers import Dense, FeedForward
from export.stages import GRN, Block, Conv
from spd.errors import ExportError

FORMAT = "spd-policy"
FORMAT_VERSION = 2  # 1 had no `unquantised_modules`

# Modules that take tensors of the graph's dtype and give one: they can be computed in float32 between two casts.
_KINDS = (Block, GRN, Conv, SelfAttentionLayer, TokenCrossAttnFolded, FeedForward, Dense)

# Float32 in every graph (design 5): casting its output back would round the log-depth.
ISLANDS = ("head.w_r2",)


@dataclass(frozen=True)
class Policy:
    """Modules by their path, such as `encoder.stages.0.blocks.1.grn`."""

    float32_modules: tuple[str, ...] = ()
    """They stay float32 in every graph, and are not quantised."""
    unquantised_modules: tuple[str, ...] = ()
    """Their products are not quantised: in 8-bit graphs they are float32 or float16, as all else."""

    def of(self, graph: str) -> list[str]:
        """Paths in one graph of what stays float32, outermost only: a module inside another that does, does too."""
        paths = sorted(name.removeprefix(f"{graph}.") for name in self.float32_modules if name.startswith(f"{graph}."))
        return [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        ExportError: it is not there, not a policy, or from a newer format.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}; make a policy with spd-calibrate") from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not JSON ({error}); make a policy with spd-calibrate") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ExportError(f"{path} is not a precision policy; make one with spd-calibrate")
    version = document.get("format_version")
    if type(version) is not int or version > FORMAT_VERSION:
        raise ExportError(f"{path} has format version {version!r}, this spd-depth reads up to {FORMAT_VERSION}")
    return Policy(
        _module_paths(document, "float32_modules", path),
        _module_paths(document, "unquantised_modules", path) if version > 1 else (),
    )


def _module_paths(document: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    modules = document.get(key)
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise ExportError(f"{path}: {key} is {modules!r}, expected a list of module paths")
    return tuple(modules)


def policy_document(policy: Policy, **details: Any) -> dict[str, Any]:
    """What a policy file holds; `details` are for people."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "float32_modules": list(policy.float32_modules),
        "unquantised_modules": list(policy.unquantised_modules),
        **details,
    }


def lowerable_modules(module: nn.Module) -> list[str]:
    """Paths of the submodules that a policy may name, in the order in which they are defined."""
    return [path for path, sub in module.named_modules() if isinstance(sub, _KINDS) and path not in ISLANDS]


def check_policy(policy: Policy, known: Collection[str]) -> None:
    """Refuse a policy that names modules which are not `known`.

    Raises:
        ExportError: names one of them.
    """
    unknown = sorted({*policy.float32_modules, *policy.unquantised_modules} - {*known})
    if unknown:
        raise ExportError(
            f"the policy names {len(unknown)} modules that this network does not have, such as {unknown[0]}; "
            "make a policy for it with spd-calibrate"
        )


def compute_in(
    module: nn.Module, other: nn.Module, paths: Iterable[str], inside: torch.dtype, outside: torch.dtype
) -> None:
    """Replace submodules of `module` by those of `other`, which compute in `inside` between casts from `outside`.

    Both are the same deployment form in different dtypes; `other` gives its submodules away.
    """

    def enter(_module: nn.Module, inputs: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(x.to(inside) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)

    def leave(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output.to(outside)

    for path in paths:
        submodule = other.get_submodule(path)
        submodule.register_forward_pre_hook(enter)
        submodule.register_forward_hook(leave)
        module.set_submodule(path, submodule)
