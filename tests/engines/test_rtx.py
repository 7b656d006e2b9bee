"""TensorRT for RTX itself, on the graphs that the export writes: they compile, in their precision, for every GPU."""

from __future__ import annotations

import ast
import re
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rich.console import Console
from rtx_support import needs_rtx
from stand_ins.test_surface import chains

import engines.rtx
from engines.builder import Compiler
from engines.inspection import check_precision, inspect_layers, island_paths
from engines.kernels import Kernel, read_kernels
from engines.profile.blocks import OTHER
from engines.profile.compiled import KernelCount
from engines.profile.cost import CostedGraph
from engines.profile.tensorrt import layer_blocks
from engines.progress import BuildState, watch
from engines.rtx import (
    COMPUTE_CAPABILITIES,
    PORTABLE,
    CompiledGraph,
    compile_graph,
    compile_profiles,
    rtx_compiler,
)
from export.graphs import LEAST_OPSETS, GraphOptions, Limits, build_graphs
from spd.bundle import GRAPHS, open_bundle
from spd.bundle.contract import DTYPES, FLOATING, TensorSpec, contract
from spd.bundle.plans import PlanProfile
from spd.commands.progress import Phases
from spd.config import PRESETS
from spd.errors import BackendError, ExportError
from spd.models import seeded

ROOT = Path(__file__).parents[2]
POINTS = 256

pytestmark = needs_rtx

ITEMSIZE = {"Float": 4, "Half": 2, "BFloat16": 2, "Int64": 8, "UInt8": 1}
WORDS = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Int64", "uint8": "UInt8"}


def compiled_with_log(
    path: Path, graph: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[CompiledGraph, list[str]]:
    """A graph of a bundle, compiled for 256 points, and the lines of the log that begin with `Name: `."""
    logs: list[str] = []

    def keep(log: str, name: str) -> tuple[Kernel, ...]:
        logs.append(log)
        return read_kernels(log, name)

    monkeypatch.setattr(engines.rtx, "read_kernels", keep)
    bundle = open_bundle(path)
    inputs = bundle.manifest.contract.inputs(graph)
    points = POINTS if graph == "decoder" else 0
    compiled = compile_graph(bundle.graph(graph, precision), inputs, BuildState(), points)
    return compiled, re.findall(r"^Name: .*$", logs[0], re.MULTILINE)


@pytest.mark.parametrize("precision", FLOATING)
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_compiles_in_its_precision(
    exported: Path, graph: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, lines = compiled_with_log(exported, graph, precision, monkeypatch)
    assert compiled.plan
    assert 1e6 < compiled.scratch_bytes < 1e8

    # Nothing is dropped, and the bytes are those of another reading of the same lines.
    lines = [line for line in lines if not re.search(", LayerType: (signal|wait), ", line)]
    assert [kernel.name for kernel in compiled.kernels] == [line.split(",")[0][len("Name: ") :] for line in lines]
    for kernel, line in zip(compiled.kernels, lines, strict=True):
        tensors = re.findall(r"Dimensions: (\[[\d,]*\]).*?Datatype: (\w+)", line)
        assert kernel.nbytes == sum(int(np.prod(ast.literal_eval(dims))) * ITEMSIZE[dtype] for dims, dtype in tensors)

    manifest = open_bundle(exported).manifest
    inspection = inspect_layers(compiled.kernels, precision, island_paths(graph, manifest.config))
    assert check_precision(inspection, f"{graph} for RTX") is None
    assert (inspection.verdict, inspection.unknown) == ("proven", ())
    others = [inspect_layers(compiled.kernels, other, ()).verdict for other in FLOATING if other != precision]
    assert others == ["wrong", "wrong"]
    known = [("b3b/layers/1/MatMul",)] if graph == "decoder" and precision != "fp32" else []
    assert [island.nodes for island in inspection.islands] == known

    exported_graph = CostedGraph(exported / f"{graph}.{precision}.onnx", graph, POINTS)
    products = {node.name for node in exported_graph.nodes if node.op_type in ("MatMul", "Conv")}
    listed = {node for layer in inspection.relevant for node in layer.nodes}
    assert products - listed == set(), "a product that no layer is judged by"

    check_tensors(compiled.kernels, graph, precision, exported)
    blocks = layer_blocks(graph, compiled.kernels, exported_graph.blocks_and_macs())
    assert OTHER not in blocks
    pairs = list(zip(compiled.kernels, blocks, strict=True))
    counts = [KernelCount.of(kernel for kernel, own in pairs if own == block) for block in set(blocks)]
    assert sum(count.bytes for count in counts) == KernelCount.of(compiled.kernels).bytes
    assert blocks.count("TopK") == (graph == "decoder")


@pytest.mark.slow
@pytest.mark.parametrize("precision", FLOATING)
def test_tiny_compiles_too(tmp_path: Path, precision: str) -> None:
    """As above, for the other preset, whose tracing takes half a minute for each precision."""
    config, size = PRESETS["tiny"], (128, 160)
    pair = build_graphs(seeded(config), precision, GraphOptions(*size, Limits(POINTS, 1), LEAST_OPSETS["bf16"]))
    tensors = contract(config, *size)
    for graph, inputs in (("encoder", tensors.encoder_inputs), ("decoder", tensors.decoder_inputs)):
        path = tmp_path / f"{graph}.onnx"
        ir.save(getattr(pair, graph), str(path))
        compiled = compile_graph(path, inputs, BuildState(), POINTS if graph == "decoder" else 0)
        inspection = inspect_layers(compiled.kernels, precision, island_paths(graph, config))
        assert (inspection.verdict, inspection.unknown) == ("proven", ())


def check_tensors(kernels: tuple[Kernel, ...], graph: str, precision: str, exported: Path) -> None:
    """Every input of the graph is read and every output written, in the contract's size and type."""
    contract = open_bundle(exported).manifest.contract
    inputs, outputs = (getattr(contract, f"{graph}_{side}") for side in ("inputs", "outputs"))
    for specs, found in (
        (inputs, [tensor for kernel in kernels for tensor in kernel.inputs]),
        (outputs, [tensor for kernel in kernels for tensor in kernel.outputs]),
    ):
        by_name = {tensor.name: (tensor.nbytes, tensor.dtype) for tensor in found}  # shapes may be views of it
        for spec in specs:
            word = WORDS[DTYPES[precision] if spec.dtype == "graph" else spec.dtype]
            nbytes = int(np.prod(spec.resolved(1, POINTS))) * ITEMSIZE[word]
            assert by_name.get(spec.name) == (nbytes, word), spec.name


def decoder(bundle: Path) -> tuple[Path, tuple[TensorSpec, ...]]:
    """The float32 decoder and its inputs."""
    return bundle / "decoder.fp32.onnx", open_bundle(bundle).manifest.contract.decoder_inputs


def test_a_node_that_it_does_not_know_is_named(exported: Path, tmp_path: Path) -> None:
    path, inputs = decoder(exported)
    model = onnx.load(str(path))
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    node.op_type = "GeluX"
    onnx.save(model, str(tmp_path / "broken.onnx"))
    with pytest.raises(ExportError) as caught:
        compile_graph(tmp_path / "broken.onnx", inputs, BuildState(), 16)
    message = str(caught.value)
    assert re.match(r"TensorRT for RTX 1\.\d+.* cannot read .*broken\.onnx: ", message)
    assert f"node {node.name} (GeluX): " in message
    assert "\n" not in message


def test_a_file_that_is_no_graph_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes((exported / "decoder.fp32.onnx").read_bytes()[:1000])
    with pytest.raises(ExportError, match=r"cannot read .*torn\.onnx|could not read the graph of .*torn\.onnx"):
        compile_graph(tmp_path / "torn.onnx", decoder(exported)[1], BuildState(), 16)


def test_a_build_is_cancelled(exported: Path) -> None:
    path, inputs = decoder(exported)
    state = BuildState()
    ended: list[str] = []
    steps: list[int] = []
    step = state.step

    def cancel_at_once(name: str, done: int) -> bool:
        state.cancel()
        steps.append(done)
        return step(name, done)

    state.step = cancel_at_once  # type: ignore[method-assign]

    def work() -> None:
        try:
            compile_graph(path, inputs, state, POINTS)
        except ExportError as error:
            ended.append(str(error))
            raise

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        watch("compiling", work, state, Phases(Console(quiet=True)))
    assert steps
    assert time.monotonic() - begin < 10, "at its first step"
    assert len(ended) == 1, "the build did not end by itself"
    assert "could not build a plan of" in ended[0]


def test_every_profile_has_its_own_kernels(exported: Path) -> None:
    path, inputs = decoder(exported)
    profiles = tuple(PlanProfile((1, 1, 1), (k, k, k)) for k in (16, 40))
    together = compile_profiles(path, inputs, profiles, BuildState(), rtx_compiler("8.9"))
    for profile, k in zip(together.profiles, (16, 40), strict=True):
        alone = compile_graph(path, inputs, BuildState(), k)
        assert [kernel.nodes for kernel in profile.kernels] == [kernel.nodes for kernel in alone.kernels]
        assert (profile.moved_bytes, profile.scratch_bytes) == (alone.profiles[0].moved_bytes, alone.scratch_bytes)


def test_sizes_that_a_profile_leaves_open_count_no_bytes(exported: Path) -> None:
    inputs = open_bundle(exported).manifest.contract.encoder_inputs
    compiled = compile_profiles(
        exported / "encoder.fp16.onnx", inputs, (PlanProfile((1, 1, 2), None),), BuildState(), rtx_compiler("8.9")
    )
    assert len(compiled.kernels) > 100
    assert compiled.profiles[0].moved_bytes is None


@pytest.mark.parametrize("capability", ["9.0", "7.5", "8.7", "89", "CURRENT", ""])
def test_other_gpus_are_refused(capability: str) -> None:
    with pytest.raises(BackendError) as caught:
        rtx_compiler(capability)
    message = str(caught.value)
    assert f"compute capability {capability}, expected 8.0, 8.6, 8.9, 12.0 or 12.1" in message
    assert ("an H100 or H200 needs TensorRT itself: spd-build" in message) == (capability == "9.0")


def test_every_gpu_that_it_names_is_offered() -> None:
    members = import_module("tensorrt_rtx").ComputeCapability.__members__
    offered = {f"SM{capability.replace('.', '')}" for capability in COMPUTE_CAPABILITIES}
    assert offered == set(members) - {"NONE", "CURRENT", "SM75"}
    for capability in COMPUTE_CAPABILITIES:
        compiler = rtx_compiler(capability)
        config = configured(compiler)
        assert config.num_compute_capabilities == 1
        assert config.get_compute_capability(0) == members[f"SM{capability.replace('.', '')}"]


def test_several_gpus_in_one_plan() -> None:
    members = import_module("tensorrt_rtx").ComputeCapability.__members__
    for asked, expected in ((("8.6", "12.0"), ("8.6", "12.0")), ((), PORTABLE)):
        config = configured(rtx_compiler(*asked))
        targets = [config.get_compute_capability(index) for index in range(config.num_compute_capabilities)]
        assert targets == [members[f"SM{capability.replace('.', '')}"] for capability in expected]


def configured(compiler: Compiler) -> Any:
    """A configuration of the compiler's own, with the target set."""
    trt = compiler.trt
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    assert compiler.set_target is not None
    compiler.set_target(config)
    return config


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendError, match=r"^tensorrt_rtx is missing: pip install 'spd-depth\[rtx\]'$"):
        rtx_compiler()


@pytest.mark.parametrize("version", ["1.6.9.1", "2.0"])
def test_another_version_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("tensorrt_rtx"), "__version__", version)
    with pytest.raises(
        BackendError, match=rf"for RTX {version} is not supported: expected 1\.7 or later, before 2; pip"
    ):
        rtx_compiler()


OBJECTS = {
    "engines/builder.py": {
        "config": "IBuilderConfig",
        "network": "INetworkDefinition",
        "builder": "Builder",
        "parser": "OnnxParser",
        "error": "ParserError",
        "profile": "IOptimizationProfile",
    },
    "engines/progress.py": {},
    "engines/rtx.py": {"config": "IBuilderConfig"},
    "spd/runtime/tensorrt/engine.py": {
        "_runtime": "Runtime",
        "_engine": "ICudaEngine",
        "engine": "ICudaEngine",
        "context": "IExecutionContext",
        "_context": "IExecutionContext",
    },
    "spd/runtime/tensorrt/rtx.py": {
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "config": "IRuntimeConfig",
        "_cache": "IRuntimeCache",
    },
}
"""What variables and attributes hold, by the files that use the library."""

OURS = {"runtime", "set_profile", "name", "profiles", "inputs", "outputs", "keep_kernels"}
"""Attributes of `Engine` and `Context` of SPD, which are called the same there."""


def test_every_name_that_spd_takes_of_it_exists() -> None:
    trt = import_module("tensorrt_rtx")
    used = set()
    for file, variables in OBJECTS.items():
        used |= set(chains(ROOT / file, ("trt", "_trt", "rtx")))
        for variable, kind in variables.items():
            used |= {(kind, chain[0]) for chain in chains(ROOT / file, (variable,)) if chain[0] not in OURS}
    missing = []
    for chain in sorted(used):
        holder: Any = trt
        for name in chain:
            holder = getattr(holder, name, None)
        if holder is None:
            missing.append(".".join(chain))
    assert missing == []
    assert used >= {
        ("IBuilderConfig", "progress_monitor"),
        ("IBuilderConfig", "set_compute_capability"),
        ("OnnxParser", "parse_from_file"),
        ("ComputeCapability", "__members__"),
        ("Runtime", "get_engine_validity"),
        ("Runtime", "engine_host_code_allowed"),
        ("IRuntimeConfig", "set_runtime_cache"),
        ("IRuntimeCache", "deserialize"),
        ("ICudaEngine", "create_runtime_config"),
        ("ICudaEngine", "get_device_memory_size_for_profile_v2"),
        ("IExecutionContext", "execute_async_v3"),
    }
