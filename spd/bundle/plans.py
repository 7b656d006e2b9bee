"""What a bundle knows of its TensorRT plans, and whether a plan can run on the machine at hand.

A plan is executable code tied to a TensorRT version, a GPU and a driver. Everything about it stands in the manifest,
beside the plan and never in it, and is compared with the machine before the plan is deserialised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spd.errors import BackendError

HARDWARE_LEVELS = ("none", "ampere_plus", "same_compute_capability")
"""Hardware compatibility a plan can be built with: this GPU model only, any GPU from Ampere on, or this capability."""

Range = tuple[int, int, int]
"""Smallest, best and largest value of a dynamic dimension."""


@dataclass(frozen=True)
class PlanProfile:
    """One optimisation profile of a plan."""

    batch: Range
    """Images per call."""
    points: Range | None
    """Points per image; None for an encoder."""


@dataclass(frozen=True)
class Target:
    """The machine a plan was built on, or is to run on."""

    tensorrt: str
    """Full version, such as 10.16.1.11."""
    cuda: str
    """Version of the CUDA runtime, such as 13.0."""
    driver: str
    """CUDA version that the driver supports, such as 13.0."""
    gpu: str
    """Name, such as NVIDIA H200."""
    compute_capability: str
    """Such as 9.0."""


@dataclass(frozen=True)
class PlanRecord:
    """One plan, as the manifest describes it."""

    graph: str
    """encoder or decoder."""
    precision: str
    """fp32, fp16 or bf16: the types in the ONNX graph that it was built from."""
    file: str
    """File name in the bundle."""
    target: Target
    hardware_compatibility: str
    """One of `HARDWARE_LEVELS`."""
    profiles: tuple[PlanProfile, ...]
    options: Mapping[str, Any]
    """How it was built, for people: workspace, optimisation level and so on."""

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {**asdict(self), "version_compatible": False}  # without it, earlier versions refuse the whole bundle

    @classmethod
    def from_dict(cls, values: Any) -> PlanRecord:
        """Read back what `as_dict` wrote (and JSON turned into lists).

        Raises:
            ValueError: a field is missing, of another type, or impossible.
        """
        fields = _object(values, "engine")
        graph, precision, file = (_text(fields, key) for key in ("graph", "precision", "file"))
        if graph not in ("encoder", "decoder") or precision not in ("fp32", "fp16", "bf16"):
            raise ValueError(f"engine of graph {graph!r} and precision {precision!r}")
        level = _text(fields, "hardware_compatibility")
        if level not in HARDWARE_LEVELS:
            raise ValueError(f"hardware_compatibility {level!r}")
        target = _object(fields.get("target"), "target")
        profiles = fields.get("profiles")
        if not isinstance(profiles, list) or not profiles:
            raise ValueError(f"profiles is {profiles!r}, expected a list with at least one")
        return cls(
            graph=graph,
            precision=precision,
            file=file,
            target=Target(**{key: _text(target, key) for key in Target.__dataclass_fields__}),
            hardware_compatibility=level,
            profiles=tuple(_profile(_object(item, "profile"), graph) for item in profiles),
            options=_object(fields.get("options"), "options"),
        )

    def check_fits(self, here: Target, rebuild: str) -> None:
        """Refuse a plan that the machine cannot run, before it is deserialised.

        Args:
            here: the machine at hand.
            rebuild: the command that builds it for this machine, for the message.

        Raises:
            BackendError: TensorRT or the GPU is another one than the plan was built for, or the driver is older.
        """
        if self.target.tensorrt != here.tensorrt:
            raise BackendError(
                f"{self.file} was built with TensorRT {self.target.tensorrt}, this is {here.tensorrt}; "
                f"rebuild it: {rebuild}"
            )
        if not self._gpu_fits(here):
            raise BackendError(
                f"{self.file} was built for {self.target.gpu} (compute capability {self.target.compute_capability}), "
                f"this is {here.gpu} ({here.compute_capability}); rebuild it: {rebuild}"
            )
        # A plan holds code that the driver of its machine compiled, and an older driver may not know its format
        # (NVIDIA/TensorRT#3911). A newer one does.
        if _version(here.driver) < _version(self.target.driver):
            raise BackendError(
                f"{self.file} was built with a driver for CUDA {self.target.driver}, the driver here is for CUDA "
                f"{here.driver}; update the driver, or rebuild it: {rebuild}"
            )

    def _gpu_fits(self, here: Target) -> bool:
        if self.hardware_compatibility == "ampere_plus":
            return float(here.compute_capability) >= 8.0
        if self.hardware_compatibility == "same_compute_capability":
            return here.compute_capability == self.target.compute_capability
        return (here.gpu, here.compute_capability) == (self.target.gpu, self.target.compute_capability)


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r}, expected an object")
    return value


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}, expected text")
    return value


def _profile(values: dict[str, Any], graph: str) -> PlanProfile:
    points = values.get("points")
    if (points is None) != (graph == "encoder"):
        raise ValueError(f"a profile of the {graph} has points {points!r}")
    return PlanProfile(_range(values.get("batch"), "batch"), None if points is None else _range(points, "points"))


def _range(value: Any, what: str) -> Range:
    if not isinstance(value, list) or len(value) != 3 or not all(type(size) is int for size in value):
        raise ValueError(f"{what} of a profile is {value!r}, expected [smallest, best, largest]")
    low, best, high = value
    if not 1 <= low <= best <= high:
        raise ValueError(f"{what} of a profile is {value!r}, expected 1 <= smallest <= best <= largest")
    return low, best, high
