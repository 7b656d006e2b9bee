"""TensorRT's enumerations and small values, as the recorded surface of a version lists them."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stand_ins.machine import current
from tools.record_api_surface import record

SURFACES = {path.stem.removeprefix("surface_"): path for path in sorted(Path(__file__).parent.glob("surface_*.json"))}
"""Recorded surfaces by version; `python -m tools.record_api_surface` makes another."""


RTX = "rtx"
"""Stands for the version of TensorRT for RTX that is installed; its surface is asked, not recorded."""


@functools.cache
def surface(version: str) -> dict[str, Any]:
    """What the real bindings of a version offer."""
    if version == RTX:
        return record(importlib.import_module("tensorrt_rtx"))
    document: dict[str, Any] = json.loads(SURFACES[version].read_text(encoding="utf-8"))
    return document


class BoundEnum(Enum):
    """As pybind11 makes them: an int when asked, no arithmetic, equal to nothing but itself."""

    def __int__(self) -> int:
        value: int = self.value
        return value

    __index__ = __int__


@functools.cache
def enums(version: str) -> MappingProxyType[str, Any]:
    """All enumerations of a version by name."""
    recorded = surface(version)["enums"]
    make: Any = BoundEnum
    made = {name: make(name.rpartition(".")[2], values) for name, values in recorded.items()}
    for kind in made.values():
        kind.__module__ = "tensorrt"
    return MappingProxyType(made)


def enum(name: str) -> Any:
    """An enumeration of the version at hand."""
    return enums(current().surface)[name]


def expect(value: Any, name: str) -> Any:
    """Refuse what is not a member of an enumeration, as pybind11 does: an int is not."""
    if not isinstance(value, enum(name)):
        raise TypeError(f"incompatible function arguments: expected tensorrt.{name}, got {value!r}")
    return value


def whole(value: Any) -> int:
    """Anything with `__int__`, but no float, as pybind11 takes it."""
    if isinstance(value, (float, str, bytes)) or not hasattr(value, "__int__"):
        raise TypeError(f"incompatible function arguments: expected typing.SupportsInt, got {value!r}")
    return int(value)


class Dims:
    """A shape. Equal to lists and tuples only, as in the real bindings."""

    MAX_DIMS = 8

    def __init__(self, shape: Sequence[int] = ()) -> None:
        if len(shape) > Dims.MAX_DIMS:
            raise TypeError(f"Dims has at most {Dims.MAX_DIMS} dimensions, got {len(shape)}")
        self._shape = tuple(whole(size) for size in shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, arg0: Any) -> Any:
        return self._shape[arg0]

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __eq__(self, arg0: object) -> bool:
        if not isinstance(arg0, (list, tuple)):
            raise TypeError(f"__eq__(): incompatible function arguments: Dims and {type(arg0).__name__}")
        return self._shape == tuple(arg0)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._shape)


class Bound:
    """A class of the bindings: it has the attributes that it has, and a mistyped one is an error."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = name.startswith("_") or isinstance(getattr(type(self), name, None), property)
        if not known and not any(name in inspect.get_annotations(base) for base in type(self).__mro__):
            raise AttributeError(f"'tensorrt.{type(self).__name__}' object has no attribute {name!r}")
        super().__setattr__(name, value)


class NoConstructor(Bound):
    """A class whose objects come from other objects only."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError(f"tensorrt.{type(self).__name__}: No constructor defined!")
