"""The module `tensorrt` on host memory; see `stand_ins` for what it proves and what not.

Engines compute through ONNX Runtime on the CPU, those with bfloat16 node by node in torch. Enumerations and their
values are those of the version's recorded surface, so `BuilderFlag.FP16` exists in 10 and not in 11.
"""

from __future__ import annotations

from types import ModuleType

from stand_ins import (
    trt_builder,
    trt_config,
    trt_context,
    trt_engine,
    trt_enums,
    trt_inspector,
    trt_logging,
    trt_parser,
    trt_progress,
    trt_rtx,
)
from stand_ins.fake_cuda import module

CLASSES: tuple[type, ...] = (
    trt_builder.Builder,
    trt_config.IBuilderConfig,
    trt_config.IHostMemory,
    trt_config.IOptimizationProfile,
    trt_config.ITimingCache,
    trt_context.IExecutionContext,
    trt_engine.ICudaEngine,
    trt_engine.Runtime,
    trt_enums.Dims,
    trt_inspector.EngineInspector,
    trt_logging.ILogger,
    trt_logging.Logger,
    trt_parser.INetworkDefinition,
    trt_parser.ITensor,
    trt_parser.OnnxParser,
    trt_parser.ParserError,
    trt_progress.IProfiler,
    trt_progress.IProgressMonitor,
)
"""What `tensorrt` offers besides enumerations."""


def classes(surface: str) -> tuple[type, ...]:
    """What a version offers besides enumerations."""
    if surface != trt_enums.RTX:
        return CLASSES
    own = {kind.__name__ for kind in trt_rtx.CLASSES}
    return (*trt_rtx.CLASSES, *(kind for kind in CLASSES if kind.__name__ not in own))


def tensorrt_module(surface: str) -> ModuleType:
    """`tensorrt` as of a version whose surface is recorded, or `tensorrt_rtx` as it is installed."""
    made = module("tensorrt_rtx" if surface == trt_enums.RTX else "tensorrt")
    vars(made)["__version__"] = trt_enums.surface(surface)["version"]
    for kind in classes(surface):
        setattr(made, kind.__name__, kind)
    kinds = trt_enums.enums(surface)
    for name, kind in kinds.items():
        if "." not in name:
            setattr(made, name, kind)
    # The severities belong to a version too; the classes are shared, so that the last one that is made counts.
    severity = kinds["ILogger.Severity"]
    for logger in (trt_logging.ILogger, trt_logging.Logger):
        vars_of = {"Severity": severity, **severity.__members__}
        for name, value in vars_of.items():
            setattr(logger, name, value)
    return made
