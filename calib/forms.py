"""What a precision makes of the float32 deployment form, as a whole and module by module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from export.graphs import GraphOptions, deployed
from export.policy import Policy, compute_in, lowerable_modules
from spd.bundle import GRAPHS
from spd.models import SPD

Pair = dict[str, nn.Module]
"""The modules of both graphs, by the names of the graphs."""


class Form(ABC):
    """One model in float32 and in a lower precision."""

    def __init__(self, model: SPD, options: GraphOptions) -> None:
        self.model = model
        self.options = replace(options, policy=Policy(), with_routes=False)

    @property
    @abstractmethod
    def lowerable(self) -> list[str]:
        """Modules that a policy may name and that the precision changes, by their path."""

    @abstractmethod
    def exact(self) -> Pair:
        """In float32."""

    @abstractmethod
    def lowered(self, kept: Collection[str]) -> Pair:
        """As a whole in the lower precision, but for the modules kept."""

    @abstractmethod
    def units(self, names: Sequence[str], kept: Collection[str]) -> dict[str, nn.Module]:
        """Modules that take the place of those of the float32 form, without what is kept inside them."""


class FloatForm(Form):
    """float16 or bfloat16."""

    def __init__(self, model: SPD, dtype: torch.dtype, options: GraphOptions) -> None:
        super().__init__(model, options)
        self._dtype = dtype

    @property
    def lowerable(self) -> list[str]:
        """As in `Form`."""
        return all_lowerable(self.exact())

    def exact(self) -> Pair:
        """As in `Form`."""
        return self._pair(torch.float32, ())

    def lowered(self, kept: Collection[str]) -> Pair:
        """As in `Form`."""
        return self._pair(self._dtype, kept)

    def units(self, names: Sequence[str], kept: Collection[str]) -> dict[str, nn.Module]:
        """As in `Form`, with casts around them."""
        low = self._pair(self._dtype, [name for name in kept if name not in names])
        host = self.exact()
        for graph in GRAPHS:
            compute_in(host[graph], low[graph], Policy(tuple(names)).of(graph), self._dtype, torch.float32)
        return {name: submodule(host, name) for name in names}

    def _pair(self, dtype: torch.dtype, kept: Collection[str]) -> Pair:
        options = replace(self.options, policy=Policy(tuple(kept)))
        pair = deployed(self.model, dtype, options, for_gpu=True)  # modules of float32 are put into it, and the reverse
        return dict(zip(GRAPHS, pair, strict=True))


def all_lowerable(pair: Pair) -> list[str]:
    """Everything in both graphs that a policy may name."""
    return [f"{graph}.{path}" for graph, module in pair.items() for path in lowerable_modules(module)]


def submodule(pair: Pair, name: str) -> nn.Module:
    """A module of a pair by its path, which begins with the name of the graph."""
    graph, _, path = name.partition(".")
    return pair[graph].get_submodule(path)


def outermost(names: Collection[str]) -> list[str]:
    """Names of modules without those that lie in another of them."""
    return [name for name in names if not inside_any(name, (other for other in names if other != name))]


def inside_any(name: str, modules: Iterable[str]) -> bool:
    """Whether a module is one of others, or lies in one of them."""
    return any(f"{name}.".startswith(f"{other}.") for other in modules)
