"""TensorRT for RTX on 8-bit graphs: products with constant weights have 8 bits, on every GPU that can."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from rtx_support import needs_rtx

from engines.inspection import check_precision, inspect_layers, island_paths
from engines.progress import BuildState
from engines.rtx import compile_graph, rtx_compiler
from export.calibration import calibration_set
from export.graphs import LEAST_OPSETS, GraphOptions, Limits, build_graphs
from export.operators import check_operators
from export.policy import Policy
from export.publish import write_graphs
from export.quantise import float_modules, quantise
from spd.bundle import GRAPHS
from spd.bundle.contract import QUANTISED, contract
from spd.config import PRESETS
from spd.errors import ExportError
from spd.models import seeded

pytestmark = [needs_rtx, pytest.mark.slow]

ATTO, HEIGHT, WIDTH, POINTS = PRESETS["atto"], 160, 192, 256


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs as the export writes them: int8-fp16, and what they are before they are quantised, as fp16."""
    folder = tmp_path_factory.mktemp("int8")
    graphs = build_graphs(seeded(ATTO), "int8-fp16", GraphOptions(HEIGHT, WIDTH, Limits(512, 2), LEAST_OPSETS["fp8"]))
    base = write_graphs(folder, "fp16", graphs)
    few = calibration_set(None, HEIGHT, WIDTH, 64, lambda _: None, most=2)
    for precision in QUANTISED:
        pair = quantise(base, precision, few, float_modules(ATTO, Policy()), lambda _: None)
        if precision != "int8":
            check_operators(pair.encoder)
            check_operators(pair.decoder)
        write_graphs(folder, precision, pair)
    return folder


def products(path: Path) -> set[str]:
    """Nodes that multiply an activation by a constant matrix."""
    model = onnx.load(path)
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return {node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in sizes}


@pytest.mark.parametrize(
    ("precision", "dtype", "capability"),
    [
        *(("int8-fp16", "int8", capability) for capability in ("8.6", "8.9", "12.0")),
        *(("fp8", "fp8", capability) for capability in ("8.9", "12.0")),
    ],
)
@pytest.mark.parametrize("graph", GRAPHS)
def test_products_with_constant_weights_have_8_bits(
    folder: Path, graph: str, precision: str, dtype: str, capability: str
) -> None:
    tensors = contract(ATTO, HEIGHT, WIDTH)
    inputs, points = (tensors.encoder_inputs, 0) if graph == "encoder" else (tensors.decoder_inputs, POINTS)
    compiled = compile_graph(
        folder / f"{graph}.{precision}.onnx", inputs, BuildState(), points, rtx_compiler(capability)
    )
    inspection = inspect_layers(compiled.kernels, precision, island_paths(graph, ATTO))
    assert check_precision(inspection, f"{graph} for RTX") is None
    constant = products(folder / f"{graph}.fp16.onnx")
    narrow = {node for layer in inspection.relevant if dtype in layer.dtypes for node in layer.nodes} & constant
    assert len(constant) >= 40
    assert len(narrow) >= 0.9 * len(constant), constant - narrow


def test_the_form_for_cpus_is_refused_with_the_node(folder: Path) -> None:
    inputs = contract(ATTO, HEIGHT, WIDTH).encoder_inputs
    with pytest.raises(ExportError, match=r"cannot read .*encoder\.int8\.onnx: node .*QuantizeLinear"):
        compile_graph(folder / "encoder.int8.onnx", inputs, BuildState(), compiler=rtx_compiler("8.9"))
