"""8-bit graphs: Q/DQ pairs around the products with constant weights, by ONNX Runtime's quantiser (design 5).

Weights have a scale for each output channel, activations have one scale for each tensor and no offset. What
is measured is the largest magnitude over the calibration set. With percentiles (99.99%) the depths of the demo network
change by a third more on average.

Convolutions keep their type. The depthwise ones have little to multiply. With the others quantised too, the encoder of
the demo network takes 0.83 of float32's time on ONNX Runtime instead of 0.79, and TensorRT has three kernels more.

There is one form for all runtimes on a CPU. ONNX Runtime's own form with ranges measured at each run, and one in which
products add their bias, take 0.92 and 0.94 of its time in the encoder of `tiny`. With the former a depth would depend
on which other images and points are asked with it.

fp8 is int8-fp16 with float8 in its pairs (`export.float8`). ONNX Runtime's quantiser writes float8 only with scales
from the standard deviation, which cut off the largest activations.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from export.calibration import CalibrationSet
from export.float8 import replace_int8
from export.graphs import GraphPair
from export.policy import ISLANDS, Policy
from export.runners import GraphFiles, OnnxRuntimeRunner
from spd.bundle import GRAPHS
from spd.config import SPDConfig
from spd.errors import ExportError, one_line
from spd.version import __version__

LEAST_RANGE = 256 * 2.0**-14
"""Least distance between the ends of what a float16 scale is for.

A scale below float16's least normal number, 2^-14, is replaced by 1 without a word, so that smaller weights become 0.
"""


def float_modules(config: SPDConfig, policy: Policy) -> tuple[str, ...]:
    """Modules whose products are never quantised.

    These are the weights of windows and where learned offsets lie and what is told of it (coordinates), the queries
    whose scores choose the routes, the head's last layer, and what a policy keeps.
    """
    coordinates = ("b1.windows", "b1.learned_window", "b1.w_off", "b1.w_phi")
    routing = f"b3b.layers.{config.b3_layers - 1}.w_q"
    return (
        *(f"decoder.{path}" for path in (*coordinates, routing, *ISLANDS)),
        *policy.float32_modules,
        *policy.unquantised_modules,
    )


def products_to_quantise(model: onnx.ModelProto, graph: str, kept: tuple[str, ...]) -> list[str]:
    """Names of the nodes that multiply an activation by a constant matrix, but for those of the modules kept.

    Args:
        model: an exported graph, whose nodes are called by their module's path.
        graph: encoder or decoder.
        kept: from `float_modules`.
    """
    # ONNX Runtime has scales for each channel of a matrix, not of a stack of matrices as those of B2's and B5's heads.
    # With one scale for a stack, 64 points take 0.73 to 0.93 of float32's time in these products. With `atto` that is
    # 16 of 17 us each, under 1% of the decoder's time. As a product for each head they take 1.2 to 1.3 of it.
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in matrices
        and not any(f"{graph}.{node.name.replace('/', '.')}".startswith(f"{path}.") for path in kept)
    ]


def quantise(
    base: GraphFiles,
    precision: str,
    calibration: CalibrationSet,
    kept: tuple[str, ...],
    tick: Callable[[float], None],
) -> GraphPair:
    """Run the graphs of `base` over the calibration set and quantise them.

    Args:
        base: graphs in the precision of what is not quantised.
        precision: one of `spd.bundle.contract.QUANTISED`.
        calibration: what to run.
        kept: from `float_modules`.
        tick: is told the share done, of the encoder and then of the decoder.

    Raises:
        ExportError: ONNX Runtime cannot run or quantise a graph.
    """
    images, points = calibration.images, calibration.points
    runner = OnnxRuntimeRunner(base)
    each = range(len(images))
    feeds = {
        "encoder": ({"image": images[i : i + 1]} for i in each),
        "decoder": ({**runner.encode(images[i : i + 1]), "points": points[i : i + 1]} for i in each),
    }
    try:
        encoder, decoder = (
            quantised_graph(path, graph, precision, Reader(feeds[graph], len(each), tick), kept)
            for graph, path in zip(GRAPHS, (base.encoder, base.decoder), strict=True)
        )
    except Exception as error:  # what ONNX Runtime raises shares no base class
        raise ExportError(f"ONNX Runtime cannot quantise the {base.precision} graphs: {one_line(error)}") from error
    return GraphPair(encoder, decoder)


class Reader:
    """What the quantiser reads inputs from; it goes by the method's name."""

    def __init__(self, feeds: Iterator[dict[str, Any]], count: int, tick: Callable[[float], None]) -> None:
        self._feeds, self._count, self._tick = enumerate(feeds), count, tick

    def get_next(self) -> dict[str, Any] | None:
        """The inputs of the next run, or None."""
        done, feed = next(self._feeds, (self._count, None))
        self._tick(done / self._count)
        return feed


def quantised_graph(path: Path, graph: str, precision: str, reader: Reader, kept: tuple[str, ...]) -> ir.Model:
    """A graph with Q/DQ pairs around its products with constant weights.

    Args:
        path: of the graph.
        graph: encoder or decoder.
        precision: one of `spd.bundle.contract.QUANTISED`.
        reader: gives the inputs that the ranges of activations are measured on.
        kept: modules that are not quantised.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(path)
    nodes = products_to_quantise(model, graph, kept)
    add_pre_process_metadata(model)  # or it advises to preprocess; the export has done that
    with tempfile.TemporaryDirectory(prefix="spd-export.") as folder:
        written = Path(folder) / path.name
        quantize_static(
            model,
            written,
            reader,
            QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=nodes,
            per_channel=True,
            # ONNX Runtime has fast kernels for unsigned activations only, TensorRT takes signed ones only.
            activation_type=QuantType.QUInt8 if precision == "int8" else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "MatMulConstBOnly": True,
                # A product's result is added to and normalised in the graph's own precision.
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
                "MinimumRealRange": None if precision == "int8" else LEAST_RANGE,
            },
        )
        model = onnx.load(written)
    _restore_other_inputs(model, {*nodes})
    if precision == "fp8":
        replace_int8(model, onnx.load(path))
    quantised = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    quantised.metadata_props.clear()
    quantised.producer_name, quantised.producer_version = "spd-depth", __version__
    return quantised


def _restore_other_inputs(model: onnx.ModelProto, products: set[str]) -> None:
    """Let only the products read rounded activations.

    The quantiser lets every reader of such an activation read it rounded, also the sums that carry a stage's map on.
    """
    maker = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.name in products:
            continue
        for i, name in enumerate(node.input):
            if name in maker and maker[name].op_type == "DequantizeLinear":
                node.input[i] = maker[maker[name].input[0]].input[0]
