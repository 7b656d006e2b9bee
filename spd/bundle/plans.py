"""What a bundle knows of its plans, and whether a plan can run on the machine at hand.

A plan of TensorRT is executable code tied to a TensorRT version, a GPU and a driver. A plan of TensorRT for RTX is tied
to the exact version too, and to the compute capabilities that it was compiled for. Everything about it stands in the
manifest, beside the plan and never in it, and is compared with the machine before the plan is deserialised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spd.bundle.contract import PRECISIONS
from spd.errors import BackendError

HARDWARE_LEVELS = ("none", "ampere_plus", "same_compute_capability")
"""Hardware compatibility a plan can be built with: this GPU model only, any GPU from Ampere on, or this capability."""

FLAVOURS = ("tensorrt", "rtx")
"""The libraries that make plans: TensorRT, and TensorRT for RTX."""

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
    """The machine that a plan of TensorRT was built on, or that a plan of either library is to run on."""

    tensorrt: str
    """Full version of the library, such as 10.16.1.11."""
    cuda: str
    """Version of the CUDA runtime, such as 13.0."""
    driver: str
    """CUDA version that the driver supports, such as 13.0."""
    gpu: str
    """Name, such as NVIDIA H200."""
    compute_capability: str
    """Such as 9.0."""


@dataclass(frozen=True)
class RtxTarget:
    """What a plan of TensorRT for RTX was compiled for, on any machine."""

    tensorrt_rtx: str
    """Full version, such as 1.7.1.116."""
    compute_capabilities: tuple[str, ...]
    """Such as 8.6 and 12.0."""


@dataclass(frozen=True)
class PlanRecord:
    """One plan, as the manifest describes it."""

    graph: str
    """encoder or decoder."""
    precision: str
    """One of `PRECISIONS`: the types in the ONNX graph that it was built from."""
    file: str
    """File name in the bundle."""
    target: Target | RtxTarget
    hardware_compatibility: str
    """One of `HARDWARE_LEVELS`; none for a plan of TensorRT for RTX, whose target says what it fits."""
    profiles: tuple[PlanProfile, ...]
    options: Mapping[str, Any]
    """How it was built, for people: workspace, optimisation level and so on."""
    proven: bool = False
    """Whether it has run on a GPU and passed the gate of the export."""

    @property
    def flavour(self) -> str:
        """One of `FLAVOURS`."""
        return "rtx" if isinstance(self.target, RtxTarget) else "tensorrt"

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        # Without version_compatible, earlier versions refuse the whole bundle.
        return {"flavour": self.flavour, **asdict(self), "version_compatible": False}

    @classmethod
    def from_dict(cls, values: Any) -> PlanRecord:
        """Read back what `as_dict` wrote (and JSON turned into lists).

        Raises:
            ValueError: a field is missing, of another type, or impossible.
        """
        fields = _object(values, "engine")
        graph, precision, file = (_text(fields, key) for key in ("graph", "precision", "file"))
        if graph not in ("encoder", "decoder") or precision not in PRECISIONS:
            raise ValueError(f"engine of graph {graph!r} and precision {precision!r}")
        level = _text(fields, "hardware_compatibility")
        if level not in HARDWARE_LEVELS:
            raise ValueError(f"hardware_compatibility {level!r}")
        flavour = fields.get("flavour", "tensorrt")  # earlier versions wrote none
        if flavour not in FLAVOURS:
            raise ValueError(f"engine of flavour {flavour!r}")
        profiles = fields.get("profiles")
        if not isinstance(profiles, list) or not profiles:
            raise ValueError(f"profiles is {profiles!r}, expected a list with at least one")
        options = _object(fields.get("options"), "options")
        proven = fields.get("proven", options.get("verified", False))  # where earlier versions wrote it
        if not isinstance(proven, bool):
            raise ValueError(f"proven is {proven!r}, expected true or false")
        return cls(
            graph=graph,
            precision=precision,
            file=file,
            target=_target(_object(fields.get("target"), "target"), flavour),
            hardware_compatibility=level,
            profiles=tuple(_profile(_object(item, "profile"), graph) for item in profiles),
            options=options,
            proven=proven,
        )

    def check_fits(self, here: Target, rebuild: str) -> None:
        """Refuse a plan that the machine cannot run, before it is deserialised.

        Whether the GPU is one that a plan of TensorRT for RTX runs on is the library's to say.

        Args:
            here: the machine at hand, with the version of the plan's library.
            rebuild: the command that builds it for this machine, for the message.

        Raises:
            BackendError: the library or the GPU is another one than the plan was built for, or the driver is older.
        """
        if isinstance(self.target, RtxTarget):
            if self.target.tensorrt_rtx != here.tensorrt:
                raise BackendError(
                    f"{self.file} was built with TensorRT for RTX {self.target.tensorrt_rtx}, this is {here.tensorrt}; "
                    f"rebuild it: {rebuild}"
                )
            return
        if self.target.tensorrt != here.tensorrt:
            raise BackendError(
                f"{self.file} was built with TensorRT {self.target.tensorrt}, this is {here.tensorrt}; "
                f"rebuild it: {rebuild}"
            )
        if not _gpu_fits(self.target, here, self.hardware_compatibility):
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


def _gpu_fits(target: Target, here: Target, hardware_compatibility: str) -> bool:
    if hardware_compatibility == "ampere_plus":
        return float(here.compute_capability) >= 8.0
    if hardware_compatibility == "same_compute_capability":
        return here.compute_capability == target.compute_capability
    return (here.gpu, here.compute_capability) == (target.gpu, target.compute_capability)


def _target(values: dict[str, Any], flavour: str) -> Target | RtxTarget:
    if flavour == "tensorrt":
        return Target(**{key: _text(values, key) for key in Target.__dataclass_fields__})
    capabilities = values.get("compute_capabilities")
    if not isinstance(capabilities, list) or not capabilities or not all(isinstance(c, str) for c in capabilities):
        raise ValueError(f"compute_capabilities is {capabilities!r}, expected a list of texts with at least one")
    return RtxTarget(_text(values, "tensorrt_rtx"), tuple(capabilities))


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
