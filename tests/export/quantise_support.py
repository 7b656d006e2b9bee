"""What the tests of 8-bit graphs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from export_support import QUICK
from onnx import numpy_helper

import export.accuracy
import export.calibration
import export.pipeline
from export.graphs import GraphPair
from spd.bundle import GRAPHS
from spd.bundle.contract import QUANTISED

INT8 = (*QUICK, "--precision", "int8", "--build", "no")


def few_rooms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(export.accuracy, "ROOMS", 6)
    patch.setattr(export.calibration, "MAX_IMAGES", 4)


def traced_graphs(exported: Path, patch: pytest.MonkeyPatch) -> None:
    """The session's graphs in place of tracing; those below int8-fp16 and fp8 are fp16's."""

    def read(_model: Any, precision: str, *_: Any) -> GraphPair:
        base = QUANTISED.get(precision, precision)
        return GraphPair(*(ir.load(exported / f"{graph}.{base}.onnx") for graph in GRAPHS))

    patch.setattr(export.pipeline, "build_graphs", read)


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def depths(folder: Path, precision: str, image: np.ndarray[Any, Any], points: np.ndarray[Any, Any]) -> Any:
    encoder, decoder = (
        onnxruntime.InferenceSession(str(folder / f"{graph}.{precision}.onnx"), providers=["CPUExecutionProvider"])
        for graph in GRAPHS
    )
    names = [output.name for output in encoder.get_outputs()]
    cache = dict(zip(names, encoder.run(None, {"image": image[None]}), strict=True))
    return decoder.run(["depth"], {**cache, "points": points[None].astype(np.float32)})[0][0]
