"""A graph of a few nodes with the types that the stand-ins must handle, its build, and its buffers on the device."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stand_ins.machine import Machine
from stand_ins.trt_graph import NUMPY

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
PIXELS = (4, 4, 3)

_RANDOM = np.random.default_rng(5)
W_28 = _RANDOM.standard_normal((2, 8)).astype(np.float32)
V_81 = _RANDOM.standard_normal((8, 1)).astype(np.float32)


def reference(image: NDArray[np.uint8], points_BK2: NDArray[np.float32]) -> tuple[Any, Any]:
    """Depth [B, K] in float64 and routes [B, K, 1]: softmax(points W) V + the image's mean, the largest of points W."""
    scores = points_BK2.astype(np.float64) @ W_28
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mean_B1 = image.astype(np.float64).mean(axis=(1, 2, 3))[:, None]
    return (weights @ V_81)[..., 0] + mean_B1, scores.argmax(-1)[..., None]


def small_graph(precision: str = "fp32") -> bytes:
    """Image uint8 [B, 4, 4, 3] and points float32 [B, K, 2] to depth float32 [B, K] and routes int64 [B, K, 1]."""
    kind = TYPES[precision]

    def weights(name: str, array: NDArray[np.float32]) -> onnx.TensorProto:
        return helper.make_tensor(name, kind, array.shape, array.ravel().tolist())

    def integers(name: str, *values: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "to_float", to=kind),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], "mean", keepdims=1),
        helper.make_node("Squeeze", ["mean", "last"], ["mean_B11"], "drop"),
        helper.make_node("Cast", ["points"], ["p"], "to_kind", to=kind),
        helper.make_node("MatMul", ["p", "W"], ["scores"], "project"),
        helper.make_node("Softmax", ["scores"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "V"], ["mixed"], "mix"),
        helper.make_node("Add", ["mixed", "mean_B11"], ["sum"], "add"),
        helper.make_node("Squeeze", ["sum", "two"], ["flat"], "flat"),
        helper.make_node("Cast", ["flat"], ["depth"], "to_depth", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["p", "W"], ["ranks"], "rank"),
        helper.make_node("Cast", ["ranks"], ["ranks32"], "to_ranks", to=TensorProto.FLOAT),
        helper.make_node("TopK", ["ranks32", "one"], ["best", "routes"], "choose", axis=-1, largest=1, sorted=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", *PIXELS]),
            helper.make_tensor_value_info("points", TensorProto.FLOAT, ["B", "K", 2]),
        ],
        [
            helper.make_tensor_value_info("depth", TensorProto.FLOAT, ["B", "K"]),
            helper.make_tensor_value_info("routes", TensorProto.INT64, ["B", "K", 1]),
        ],
        [
            weights("W", W_28),
            weights("V", V_81),
            integers("axes", 1, 2, 3),
            integers("last", 3),
            integers("two", 2),
            integers("one", 1),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


PROFILES = (((1, 1), (1, 4), (2, 8)), ((1, 9), (1, 16), (2, 32)))
"""B and K: smallest, best, largest."""


def network(trt: Any, logger: Any, graph: bytes) -> Any:
    """Builder, network and configuration with both profiles."""
    builder = trt.Builder(logger)
    made = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(made, logger)
    assert parser.parse(graph)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for shapes in PROFILES:
        profile = builder.create_optimization_profile()
        profile.set_shape("image", *((b, *PIXELS) for b, _ in shapes))
        profile.set_shape("points", *((b, k, 2) for b, k in shapes))
        assert config.add_optimization_profile(profile) >= 0
    return builder, made, config


def plan(trt: Any, graph: bytes) -> Any:
    """A built plan."""
    builder, made, config = network(trt, trt.Logger(), graph)
    return builder.build_serialized_network(made, config)


@dataclass
class Session:
    """An engine's context with buffers for all tensors on one stream."""

    machine: Machine
    trt: Any
    core: Any
    context: Any
    stream: Any
    buffers: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, machine: Machine, plan: Any, batch: int = 1, points: int = 4, profile: int = 0) -> Session:
        """Everything set, ready to enqueue."""
        import tensorrt as trt
        from cuda import core  # only now the stand-in is there

        core.Device(0).set_current()
        engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan)
        session = cls(machine, trt, core, engine.create_execution_context(), core.Device(0).create_stream())
        session.context.set_optimization_profile_async(profile, int(session.stream.handle))
        session.shape(batch, points)
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = tuple(session.context.get_tensor_shape(name))
            size = np.dtype(NUMPY[engine.get_tensor_dtype(name).name]).itemsize * int(np.prod(shape))
            session.buffers[name] = core.Device(0).allocate(size, stream=session.stream)
            assert session.context.set_tensor_address(name, session.buffers[name].handle)
        return session

    def shape(self, batch: int, points: int) -> None:
        """Set the inputs' shapes."""
        assert self.context.set_input_shape("image", (batch, *PIXELS))
        assert self.context.set_input_shape("points", (batch, points, 2))

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Copy an array to a tensor."""
        with self.core.LegacyPinnedMemoryResource().allocate(array.nbytes) as pinned:
            host(pinned, array.dtype)[:] = array.ravel()
            pinned.copy_to(self.buffers[name], stream=self.stream)
            self.stream.sync()

    def read(self, name: str, dtype: Any) -> NDArray[Any]:
        """Copy a tensor to an array."""
        with self.core.LegacyPinnedMemoryResource().allocate(self.buffers[name].size) as pinned:
            self.buffers[name].copy_to(pinned, stream=self.stream)
            self.stream.sync()
            return host(pinned, dtype).copy()

    def enqueue(self) -> bool:
        """One run."""
        accepted: bool = self.context.execute_async_v3(int(self.stream.handle))
        return accepted

    def close(self) -> None:
        """Give everything back."""
        for buffer in self.buffers.values():
            buffer.close()
        self.stream.sync()
        self.context = None


def host(buffer: Any, dtype: Any) -> NDArray[Any]:
    """The contents of pinned memory."""
    raw = (ctypes.c_uint8 * buffer.size).from_address(int(buffer.handle))
    return np.frombuffer(raw, dtype)
