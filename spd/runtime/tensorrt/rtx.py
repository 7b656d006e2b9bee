"""What only TensorRT for RTX has: plans that say why they do not fit, and kernels that the GPU at hand compiles.

A plan holds no code for one GPU. The library compiles its kernels when a context first runs, which takes seconds, and
hands them out as a runtime cache. SPD keeps that in the user's cache folder, a file for each plan and machine.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from typing import Any

from spd.bundle.plans import Target
from spd.cache_files import CacheFile, remove_oldest, user_cache_folder
from spd.errors import one_line

MOST_BYTES = 512 << 20
"""All files of compiled kernels together; those that were not used for longest are deleted first."""

logger = logging.getLogger("spd.tensorrt")


def why_invalid(rtx: Any, runtime: Any, plan: bytes) -> str | None:
    """Why the machine at hand cannot run a plan, in the library's words, or None if it can."""
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity == rtx.EngineValidity.SUBOPTIMAL:
        logger.warning("TensorRT for RTX says that a plan may be slower here than it could be")
    if validity != rtx.EngineValidity.INVALID:
        return None
    reasons = [
        name.lower().replace("_", " ")
        for name, flag in rtx.EngineInvalidityDiagnostics.__members__.items()
        if int(flag) & int(diagnostics)
    ]
    return ", ".join(reasons) or "it gives no reason"


class CompiledKernels:
    """How contexts of one engine are made, with the kernels that it compiled on this machine before."""

    def __init__(self, rtx: Any, engine: Any, plan_sha256: str, here: Target) -> None:
        """Read the kernels that were kept.

        Args:
            rtx: the module `tensorrt_rtx`.
            engine: the deserialised plan, an ICudaEngine.
            plan_sha256: of the plan.
            here: the machine at hand.
        """
        made_with = {
            "format": "spd-compiled-kernels",
            "plan": plan_sha256,
            "tensorrt_rtx": here.tensorrt,
            "gpu": here.gpu,
            "compute_capability": here.compute_capability,
            "driver": here.driver,
            "system": platform.system(),
        }
        key = hashlib.sha256(repr(sorted(made_with.items())).encode()).hexdigest()[:32]
        self._file = CacheFile(user_cache_folder() / f"kernels_{key}.cache", made_with, "file of compiled kernels")
        self.config = engine.create_runtime_config()
        """What contexts are made with, an IRuntimeConfig."""
        self.config.set_execution_context_allocation_strategy(rtx.ExecutionContextAllocationStrategy.USER_MANAGED)
        # The lanes capture graphs themselves, with their copies.
        self.config.cuda_graph_strategy = rtx.CudaGraphStrategy.DISABLED
        # A kernel that arrived later, from another thread, would never get into a graph that is captured by then.
        self.config.dynamic_shapes_kernel_specialization_strategy = rtx.DynamicShapesKernelSpecializationStrategy.EAGER
        self._cache = self.config.create_runtime_cache()
        self._kept = self._file.read(logger.info)
        if self._kept and not self._cache.deserialize(self._kept):
            logger.info("%s: TensorRT for RTX refuses these kernels and compiles them again", self._file.path)
            self._kept = b""
        if not self.config.set_runtime_cache(self._cache):
            logger.info("TensorRT for RTX takes no runtime cache; every process compiles its kernels again")

    def keep(self) -> None:
        """Write the kernels if there are new ones; a file that cannot be written costs time, not the run."""
        data = self._cache.serialize()
        if data is None or (kernels := bytes(data)) == self._kept:
            return
        self._kept = kernels
        path = self._file.path
        try:
            with self._file.locked():
                self._file.write(kernels)
                remove_oldest(path.parent, "kernels_*.cache", MOST_BYTES)
        except OSError as error:
            logger.info("%s: the compiled kernels cannot be kept (%s)", path, one_line(error))
