"""Plans: what a build writes and a runtime reads back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from stand_ins.machine import current
from stand_ins.trt_graph import Graph, graph_of

MAGIC = b"ptrt"

Shape = tuple[int, ...]


class PlanError(Exception):
    """A plan that cannot be used here, with TensorRT's words for it."""


@dataclass
class Plan:
    """A built network."""

    graph: Graph
    profiles: list[dict[str, tuple[Shape, Shape, Shape]]]
    """Per profile and input the smallest, best and largest shape."""
    verbosity: str
    hardware_compatibility: str
    version_compatible: bool
    lean_runtime: bool
    """Whether it carries host code, as version-compatible plans do unless told otherwise."""
    capabilities: list[str] = field(default_factory=list)
    """SM89 and so on, for TensorRT for RTX."""
    tensorrt: str = field(default_factory=lambda: current().version)
    gpu: str = field(default_factory=lambda: current().gpu)
    compute_capability: tuple[int, int] = field(default_factory=lambda: current().compute_capability)

    def to_bytes(self) -> bytes:
        """The file."""
        header = {key: value for key, value in vars(self).items() if key != "graph"}
        header["model_sha256"] = self.graph.sha256
        head = json.dumps(header, sort_keys=True).encode()
        body = MAGIC + len(head).to_bytes(4, "little") + head + self.graph.data
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read a file.

        Raises:
            PlanError: it is no plan, or damaged.
        """
        if not data.startswith(MAGIC) or len(data) < 40:
            raise PlanError("Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.")
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise PlanError("Serialization assertion: the plan is corrupt (checksum mismatch or truncated file).")
        length = int.from_bytes(data[4:8], "little")
        header = json.loads(data[8 : 8 + length])
        del header["model_sha256"]
        header["compute_capability"] = tuple(header["compute_capability"])
        header["profiles"] = [
            {name: tuple(tuple(shape) for shape in shapes) for name, shapes in profile.items()}
            for profile in header["profiles"]
        ]
        return cls(graph=graph_of(data[8 + length : -32]), **header)

    def check(self, host_code_allowed: bool) -> None:
        """Refuse what this machine cannot run.

        Raises:
            PlanError: another TensorRT, another GPU, or host code that is not allowed.
        """
        machine = current()
        if self.lean_runtime and not host_code_allowed:
            raise PlanError(
                "Plan contains a lean runtime (host executable code), which engine_host_code_allowed does not allow."
            )
        same_major = self.tensorrt.split(".")[0] == machine.version.split(".")[0]
        if self.tensorrt != machine.version and not (self.version_compatible and self.lean_runtime and same_major):
            raise PlanError(
                "The engine plan file is not compatible with this version of TensorRT, expecting library version "
                f"{machine.version} got {self.tensorrt}, please rebuild."
            )
        if not self.gpu_fits():
            here = ".".join(map(str, machine.compute_capability))
            there = ".".join(map(str, self.compute_capability))
            raise PlanError(
                f"The engine plan file is generated on an incompatible device, expecting compute {here} got compute "
                f"{there}, please rebuild."
            )

    def gpu_fits(self) -> bool:
        """Whether the GPU at hand is one that it was built for."""
        machine = current()
        if self.capabilities:
            return "SM{}{}".format(*machine.compute_capability) in self.capabilities
        if self.hardware_compatibility == "AMPERE_PLUS":
            return machine.compute_capability >= (8, 0)
        # Another model of the same capability runs, with a warning, as in the real thing.
        return machine.compute_capability == self.compute_capability
