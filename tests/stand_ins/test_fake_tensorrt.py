"""TensorRT's stand-in follows TensorRT's rules."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stand_ins.machine import Machine
from stand_ins.small_graph import PIXELS, Session, network, plan, reference, small_graph

TOLERANCE = {"fp32": 1e-6, "fp16": 2.0**-9, "bf16": 2.0**-6}
"""Relative: half a unit in the last place of each type, four times for the four roundings on the way."""


def bindings() -> Any:
    import tensorrt as trt  # only the fixture puts it there

    return trt


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("batch", "points", "profile"), [(1, 1, 0), (2, 8, 0), (2, 20, 1)])
def test_it_computes_what_the_graph_says(
    tensorrt_any: Machine, precision: str, batch: int, points: int, profile: int
) -> None:
    session = Session.of(tensorrt_any, plan(bindings(), small_graph(precision)), batch, points, profile)
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (batch, *PIXELS), dtype=np.uint8)
    points_BK2 = random.standard_normal((batch, points, 2)).astype(np.float32)
    session.write("image", image)
    session.write("points", points_BK2)
    assert session.enqueue()
    depth, routes = reference(image, points_BK2)
    np.testing.assert_allclose(session.read("depth", np.float32).reshape(depth.shape), depth, rtol=TOLERANCE[precision])
    if precision == "fp32":
        np.testing.assert_array_equal(session.read("routes", np.int64).reshape(routes.shape), routes)
    session.close()


def test_profiles_are_enforced_and_shapes_propagate(tensorrt_any: Machine) -> None:
    session = Session.of(tensorrt_any, plan(bindings(), small_graph()))
    context = session.context
    assert not context.set_input_shape("points", (1, 9, 2))
    assert not context.set_input_shape("points", (1, 4, 3))
    assert not context.set_input_shape("depth", (1, 4))
    assert tuple(context.get_tensor_shape("routes")) == (1, 4, 1)
    assert context.set_optimization_profile_async(1, int(session.stream.handle))
    assert tuple(context.get_tensor_shape("routes")) == (-1, -1, 1)
    assert context.infer_shapes() == ["image", "points"]
    assert not session.enqueue()
    assert context.set_input_shape("points", [2, 9, 2])
    assert context.set_input_shape("image", (1, *PIXELS))
    with pytest.raises(RuntimeError, match="infer_shapes"):
        context.infer_shapes()
    assert not session.enqueue()
    with pytest.raises(RuntimeError, match="Error in set optimization profile async"):
        context.set_optimization_profile_async(2, int(session.stream.handle))
    assert [tuple(shape) for shape in context.engine.get_tensor_profile_shape("points", 1)] == [
        (1, 9, 2),
        (1, 16, 2),
        (2, 32, 2),
    ]
    session.close()


def test_what_is_not_set_makes_an_enqueue_fail(tensorrt_any: Machine) -> None:
    session = Session.of(tensorrt_any, plan(bindings(), small_graph()))
    address = session.buffers["depth"].handle
    for wrong in (0, address + 4, 0x1000):
        assert session.context.set_tensor_address("depth", wrong)
        assert not session.enqueue()
    assert not session.context.set_tensor_address("length", address)
    assert session.context.set_tensor_address("depth", address)
    assert session.enqueue()
    assert not session.context.execute_async_v3(0xBAD0)
    assert [severity for severity, _ in tensorrt_any.log] == ["ERROR"] * 5
    session.close()


def test_a_plan_that_does_not_fit_is_refused(use_tensorrt: Any) -> None:
    use_tensorrt("10.16.1.11")
    old = bytes(plan(bindings(), small_graph()))
    machine = use_tensorrt("11.4.0.106")
    trt = bindings()
    new = bytes(plan(trt, small_graph()))
    runtime = trt.Runtime(trt.Logger())
    assert runtime.deserialize_cuda_engine(new) is not None
    for damaged in (old, new[:-1], new[:100], b"", new[:200] + b"\0" + new[201:]):
        assert runtime.deserialize_cuda_engine(damaged) is None
    assert "expecting library version 11.4.0.106 got 10.16.1.11" in machine.log[0][1]
    machine.compute_capability = (8, 6)
    assert runtime.deserialize_cuda_engine(new) is None
    assert "incompatible device" in machine.log[-1][1]


def test_host_code_in_a_plan_must_be_allowed(tensorrt_any: Machine) -> None:
    trt = bindings()
    builder, made, config = network(trt, trt.Logger(), small_graph())
    config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    with_code = builder.build_serialized_network(made, config)
    config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    without_code = builder.build_serialized_network(made, config)
    runtime = trt.Runtime(trt.Logger())
    assert runtime.deserialize_cuda_engine(with_code) is None
    assert runtime.deserialize_cuda_engine(without_code) is not None
    runtime.engine_host_code_allowed = True
    assert runtime.deserialize_cuda_engine(with_code) is not None


def test_networks_are_strongly_typed(use_tensorrt: Any) -> None:
    for version, built in (("10.16.1.11", False), ("11.4.0.106", True)):
        machine = use_tensorrt(version)
        trt = bindings()
        builder, _, config = network(trt, trt.Logger(), small_graph())
        weak = builder.create_network()
        assert trt.OnnxParser(weak, trt.Logger()).parse(small_graph())
        assert (builder.build_serialized_network(weak, config) is not None) == built
        assert bool(machine.violations) != built
        machine.violations.clear()
        assert hasattr(trt.BuilderFlag, "FP16") != built


def test_bad_configurations_give_no_plan(tensorrt_any: Machine) -> None:
    trt = bindings()
    builder, made, config = network(trt, trt.Logger(), small_graph())
    profile = builder.create_optimization_profile()
    with pytest.raises(RuntimeError, match="Shape provided for opt is inconsistent"):
        profile.set_shape("points", (1, 5, 2), (1, 4, 2), (1, 8, 2))
    assert config.add_optimization_profile(profile) == -1
    profile.set_shape("points", (1, 1, 2), (1, 4, 2), (1, 8, 2))
    assert config.add_optimization_profile(profile) == 2
    assert builder.build_serialized_network(made, config) is None
    assert "image: profile 2 is missing" in tensorrt_any.log[-1][1]
    assert builder.build_serialized_network(made, builder.create_builder_config()) is None
    assert builder.build_serialized_network(builder.create_network(), config) is None
    config.builder_optimization_level = 9
    assert config.builder_optimization_level == 3
    assert config.get_flag(trt.BuilderFlag.TF32)
    with pytest.raises(AttributeError):
        config.progress_monitr = None
    with pytest.raises(TypeError):
        config.set_flag(6)


def test_progress_is_nested_and_comes_from_several_threads(tensorrt_any: Machine) -> None:
    trt = bindings()
    builder, made, config = network(trt, trt.Logger(), small_graph())
    open_phases: dict[str, int] = {}
    finished: Counter[str] = Counter()
    threads = set()

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc] # Any
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            assert (parent_phase is None) == (not open_phases)
            assert parent_phase is None or parent_phase in open_phases
            open_phases[phase_name] = num_steps
            threads.add(threading.get_ident())

        def step_complete(self, phase_name: str, step: int) -> bool:
            assert 0 <= step < open_phases[phase_name]
            finished[phase_name] += 1
            return True

        def phase_finish(self, phase_name: str) -> None:
            assert finished[phase_name] == open_phases.pop(phase_name)

    config.progress_monitor = Monitor()
    assert builder.build_serialized_network(made, config) is not None
    assert not open_phases
    assert len(threads) > 1
    assert len(finished) > 10


@pytest.mark.parametrize("how", ["False", "exception"])
def test_the_monitor_can_end_a_build(tensorrt_any: Machine, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    trt = bindings()
    builder, made, config = network(trt, trt.Logger(), small_graph())
    begun: list[str] = []

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc] # Any
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            begun.append(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if how == "exception":
                raise KeyboardInterrupt
            return False

        def phase_finish(self, phase_name: str) -> None:
            begun.remove(phase_name)

    config.progress_monitor = Monitor()
    assert builder.build_serialized_network(made, config) is None
    assert begun == []
    assert tensorrt_any.memory.live("workspace") == []
    config.progress_monitor = None
    assert builder.build_serialized_network(made, config) is not None
    assert ("KeyboardInterrupt" in capfd.readouterr().err) == (how == "exception")


def test_the_timing_cache_saves_timing(use_tensorrt: Any) -> None:
    machine = use_tensorrt("10.16.1.11")
    trt = bindings()

    def build(cache: bytes) -> bytes:
        machine.counts.reset()
        builder, made, config = network(trt, trt.Logger(), small_graph())
        assert config.get_timing_cache() is None
        assert config.set_timing_cache(config.create_timing_cache(cache), False)
        assert builder.build_serialized_network(made, config) is not None
        return bytes(config.get_timing_cache().serialize())

    cache = build(b"")
    misses = machine.counts.events["timing_cache_misses"]
    assert misses == 2 * 13
    assert machine.counts.events["timing_cache_hits"] == 0
    assert build(cache) == cache
    assert machine.counts.events["timing_cache_hits"] == misses
    _, _, config = network(trt, trt.Logger(), small_graph())
    assert config.create_timing_cache(cache[:-3]) is None
    assert config.create_timing_cache(b"nonsense") is None
    machine.gpu = "NVIDIA L4"
    assert not config.set_timing_cache(config.create_timing_cache(cache), False)
    assert config.set_timing_cache(config.create_timing_cache(cache), True)
    use_tensorrt("11.4.0.106")
    trt = bindings()
    _, _, config = network(trt, trt.Logger(), small_graph())
    assert not config.set_timing_cache(config.create_timing_cache(cache), True)


def test_the_parser_names_what_it_cannot_read(tensorrt_any: Machine, tmp_path: Path) -> None:
    trt = bindings()
    logger = trt.Logger()
    builder = trt.Builder(logger)
    tensorrt_any.faults.refused_operator = "TopK"
    parser = trt.OnnxParser(builder.create_network(2), logger)
    assert not parser.parse(small_graph())
    error = parser.get_error(0)
    assert (parser.num_errors, error.node_name(), error.node_operator()) == (1, "choose", "TopK")
    assert error.code() == trt.ErrorCode.UNSUPPORTED_NODE
    assert "TopK" in error.desc()
    for name, content in (("empty.onnx", b""), ("damaged.onnx", small_graph()[:-40]), ("missing.onnx", None)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert not trt.OnnxParser(builder.create_network(2), logger).parse_from_file(str(tmp_path / name))


def test_the_inspector_shows_types_by_layer(tensorrt_any: Machine) -> None:
    trt = bindings()

    def layers(precision: str) -> list[dict[str, Any]]:
        engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan(trt, small_graph(precision)))
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        found: list[dict[str, Any]] = json.loads(text)["Layers"]
        assert len(found) == 2 * engine.num_layers
        return found

    products = [layer for layer in layers("fp32") if layer["LayerType"] == "gemm"]
    assert [layer["Metadata"] for layer in products] == [
        f"[ONNX Layer: {name}]" for name in ("project", "mix", "rank")
    ] * 2
    assert products[0]["Outputs"][0]["Format/Datatype"] == "Float"
    assert [layer["Outputs"][0]["Format/Datatype"] for layer in layers("fp16") if layer["LayerType"] == "gemm"] == [
        "Half"
    ] * 6
    tensorrt_any.faults.float32_layers = True
    assert all("Half" not in json.dumps(layer) for layer in layers("fp16"))


def test_the_inspector_shows_what_the_verbosity_allows(tensorrt_any: Machine) -> None:
    trt = bindings()
    builder, made, config = network(trt, trt.Logger(), small_graph())
    config.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(builder.build_serialized_network(made, config))
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    assert all(isinstance(layer, str) for layer in json.loads(text)["Layers"])


def test_host_memory_is_a_buffer_and_nothing_else(tensorrt_any: Machine) -> None:
    memory = plan(bindings(), small_graph())
    assert memoryview(memory).nbytes == memory.nbytes == len(bytes(memory))
    for use in (len, iter, lambda data: data[0], lambda data: data.hex()):
        with pytest.raises((TypeError, AttributeError)):
            use(memory)


def test_bindings_refuse_what_pybind_refuses(tensorrt_any: Machine) -> None:
    trt = bindings()

    class Silent(trt.ILogger):  # type: ignore[name-defined,misc] # Any
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"__init__\(\) must be called"):
        trt.Runtime(Silent())
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.ICudaEngine()
    with pytest.raises(TypeError):
        1 << trt.BuilderFlag.TF32
    assert trt.Dims((1, 2)) == (1, 2)
    with pytest.raises(TypeError):
        assert trt.Dims((1, 2)) == trt.Dims((1, 2))


def test_every_allocation_may_fail_and_nothing_leaks(tensorrt_any: Machine) -> None:
    machine, trt = tensorrt_any, bindings()
    trt_plan = bytes(plan(trt, small_graph()))
    runtime = trt.Runtime(trt.Logger())

    def attempt() -> bool:
        builder, made, config = network(trt, trt.Logger(), small_graph())
        if builder.build_serialized_network(made, config) is None:
            return False
        engine = runtime.deserialize_cuda_engine(trt_plan)
        return engine is not None and engine.create_execution_context() is not None

    outcomes = []
    for nth in (1, 2, 3, 4):
        machine.faults.allocation = nth
        outcomes.append(attempt())
        assert machine.memory.free_bytes == machine.memory.capacity
    machine.faults.allocation = None
    assert outcomes == [False, False, False, True]
    assert machine.counts.events["live_engines"] == machine.counts.events["live_contexts"] == 0


def test_planned_faults(tensorrt_any: Machine) -> None:
    machine = tensorrt_any
    trt = bindings()
    machine.faults.build = 1
    builder, made, config = network(trt, trt.Logger(), small_graph())
    assert builder.build_serialized_network(made, config) is None
    data = builder.build_serialized_network(made, config)
    machine.faults.deserialize = 1
    assert trt.Runtime(trt.Logger()).deserialize_cuda_engine(data) is None
    session = Session.of(machine, data)
    session.write("image", np.zeros((1, *PIXELS), np.uint8))
    session.write("points", np.zeros((1, 4, 2), np.float32))
    machine.faults.enqueue = 2
    assert [session.enqueue(), session.enqueue(), session.enqueue()] == [True, False, True]
    machine.faults.nan_output = "depth"
    assert session.enqueue()
    assert np.isnan(session.read("depth", np.float32)).all()
    machine.faults.nan_output = None
    machine.faults.execution = 1
    assert session.enqueue()
    with pytest.raises(Exception, match="planned fault"):
        session.stream.sync()
    assert session.enqueue()
    assert np.isfinite(session.read("depth", np.float32)).all()
    session.close()
