"""The modules `cuda.core` and `cuda.bindings` on host memory; see `stand_ins` for what they prove and what not.

Device memory is real host memory, so TensorRT's stand-in reads it at its address. Work waits in its stream until
somebody synchronises (`stand_ins.timeline`). Stricter than the real thing: no allocation at all in a thread that
captures a graph, and a graph's memory is checked at each launch.
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from types import ModuleType

from stand_ins import cuda_bindings, cuda_core, cuda_graph, cuda_memory

CORE = (
    cuda_core.Device,
    cuda_core.Stream,
    cuda_core.StreamOptions,
    cuda_core.Event,
    cuda_core.EventOptions,
    cuda_memory.Buffer,
    cuda_memory.MemoryResource,
    cuda_memory.DeviceMemoryResource,
    cuda_memory.DeviceMemoryResourceOptions,
    cuda_memory.PinnedMemoryResource,
    cuda_memory.PinnedMemoryResourceOptions,
    cuda_memory.LegacyPinnedMemoryResource,
)
"""What `cuda.core` offers."""

GRAPH = (cuda_graph.Graph, cuda_graph.GraphBuilder, cuda_graph.GraphCompleteOptions)
"""What `cuda.core.graph` offers."""


def modules() -> dict[str, ModuleType]:
    """Everything below `cuda`, by module name."""
    made = {
        name: module(name)
        for name in (
            "cuda",
            "cuda.core",
            "cuda.core.graph",
            "cuda.core._utils",
            "cuda.core._utils.cuda_utils",
            "cuda.bindings",
            "cuda.bindings.runtime",
            "cuda.bindings.driver",
        )
    }
    for name, child in made.items():
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(made[parent], last, child)
            vars(made[parent]).setdefault("__path__", [])
    offers = {
        "cuda.core": CORE,
        "cuda.core.graph": GRAPH,
        "cuda.core._utils.cuda_utils": (cuda_core.CUDAError, cuda_core.ComputeCapability),
        "cuda.bindings.runtime": cuda_bindings.RUNTIME,
        "cuda.bindings.driver": cuda_bindings.DRIVER,
    }
    for name, things in offers.items():
        for thing in things:
            setattr(made[name], thing.__name__, thing)
    vars(made["cuda.core"])["__version__"] = "1.2.2"
    return made


def module(name: str) -> ModuleType:
    """An empty module that `importlib.util.find_spec` finds."""
    made = ModuleType(name, "A stand-in for tests.")
    made.__spec__ = ModuleSpec(name, None)
    return made
