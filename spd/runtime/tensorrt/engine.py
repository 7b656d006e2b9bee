"""Plans and contexts of TensorRT and of TensorRT for RTX, with every return value checked.

A plan is executable code: its sha256 and the machine it was built for are compared with the manifest before TensorRT
sees a byte of it, and host code in plans stays disabled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from spd.bundle import Bundle
from spd.bundle.contract import DTYPES, TensorSpec
from spd.bundle.plans import PlanRecord, Target
from spd.errors import BackendError, BundleError, DeviceMemoryError, TensorRTError
from spd.runtime.tensorrt.cuda import DeviceBuffer, Stream
from spd.runtime.tensorrt.library import RTX, TENSORRT, Library
from spd.runtime.tensorrt.rtx import CompiledKernels, why_invalid

_DTYPES = {"uint8": "UINT8", "float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int64": "INT64"}
"""Names in tensorrt.DataType."""

logger = logging.getLogger("spd.tensorrt")


class Runtime:
    """A library's runtime and its messages, which go to the logger `spd.tensorrt`."""

    def __init__(self, library: Library = TENSORRT) -> None:
        """Load the library.

        Raises:
            BackendError: it is missing or not a supported version.
        """
        self.library = library
        self.trt = library.module()
        self._log = _make_log(self.trt)
        self._runtime = self.trt.Runtime(self._log)
        self._runtime.engine_host_code_allowed = False

    def deserialise(self, plan: bytes) -> Any:
        """An ICudaEngine, or None."""
        self._log.last = ""
        return self._runtime.deserialize_cuda_engine(plan)

    def why_invalid(self, plan: bytes) -> str | None:
        """Why a plan cannot run here, as far as the library says so before it reads the plan."""
        return why_invalid(self.trt, self._runtime, plan) if self.library is RTX else None

    def error(self, call: str, what: str) -> TensorRTError:
        """The error for a call that failed, with what TensorRT logged about it."""
        said = f": {self._log.last}" if self._log.last else ""
        return TensorRTError(f"{self.library.name} {call} failed for {what}{said}")


def _make_log(trt: Any) -> Any:
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.DEBUG,
        trt.ILogger.Severity.VERBOSE: logging.DEBUG,
    }

    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the last error, the only place where TensorRT says why a call returned False."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, msg: str) -> None:
            level = levels[severity]
            if level == logging.ERROR:
                self.last = " ".join(msg.split())
            logger.log(level, "%s", msg)

    return Log()


class Engine:
    """One deserialised plan. Its contexts may run in several threads, each context in one at a time."""

    def __init__(self, runtime: Runtime, bundle: Bundle, record: PlanRecord, here: Target) -> None:
        """Check a plan and load it.

        Args:
            runtime: of the plan's library.
            bundle: where the plan is.
            record: what the manifest says of it.
            here: the machine at hand.

        Raises:
            BackendError: the plan was built for another machine.
            TensorRTError: the plan is missing or changed, or TensorRT does not take it.
        """
        self.name = record.file
        self.profiles = record.profiles
        self.runtime = runtime
        rebuild = runtime.library.rebuild_command(bundle.path, record.precision)
        record.check_fits(here, rebuild)
        try:
            plan = bundle.file(record.file).read_bytes()
        except BundleError as error:
            raise TensorRTError(f"{error}; or rebuild the engine: {rebuild}") from error
        if reason := runtime.why_invalid(plan):
            raise BackendError(
                f"{self.name} {_made_for(record)} cannot run on {here.gpu} (compute capability "
                f"{here.compute_capability}): {reason}; rebuild it: {rebuild}"
            )
        self._engine = runtime.deserialise(plan)
        if self._engine is None:
            raise TensorRTError(f"{runtime.error('deserialize_cuda_engine', self.name)}; rebuild it: {rebuild}")
        tensors = bundle.manifest.contract
        self.inputs, self.outputs = tensors.inputs(record.graph), tensors.outputs(record.graph)
        self._check(record, rebuild)
        self._kernels = None
        if runtime.library is RTX:
            sha256 = bundle.manifest.files[record.file].sha256
            self._kernels = CompiledKernels(runtime.trt, self._engine, sha256, here)

    def scratch_bytes(self, profile: int) -> int:
        """Bytes that a context needs for its intermediate tensors."""
        return int(self._engine.get_device_memory_size_for_profile_v2(profile))

    def context(self, profile: int, scratch: DeviceBuffer, stream: Stream) -> Context:
        """A context on one profile; contexts on the same scratch memory must not run at the same time.

        Raises:
            DeviceMemoryError: there is no room for what a context keeps to itself.
            TensorRTError: TensorRT refuses.
        """
        managed = self.runtime.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(managed if self._kernels is None else self._kernels.config)
        if context is None:
            error = self.runtime.error("create_execution_context", self.name)
            raise DeviceMemoryError(f"{error}; close scenes or give a cache_budget")
        made = Context(context, self)
        made.set_profile(profile, stream)
        context.set_device_memory(scratch.address, scratch.nbytes)  # in this order: how much is needed is the profile's
        return made

    def keep_kernels(self) -> None:
        """Keep what the library compiled for the GPU at hand, for other processes."""
        if self._kernels is not None:
            self._kernels.keep()

    def _check(self, record: PlanRecord, rebuild: str) -> None:
        """Compare the engine with the contract and the manifest."""
        engine, trt = self._engine, self.runtime.trt
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        got = {
            name: (engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT, engine.get_tensor_dtype(name))
            for name in names
        }
        expected = {
            spec.name: (is_input, _dtype(trt, spec, record.precision))
            for is_input, specs in ((True, self.inputs), (False, self.outputs))
            for spec in specs
        }
        off = next((name for name in sorted({*got, *expected}) if got.get(name) != expected.get(name)), None)
        if off is not None:
            raise TensorRTError(
                f"{self.name} has tensor {off} as {_describe(got.get(off))}, expected {_describe(expected.get(off))}; "
                f"rebuild it: {rebuild}"
            )
        if engine.num_optimization_profiles != len(record.profiles):
            raise TensorRTError(
                f"{self.name} has {engine.num_optimization_profiles} profiles, the manifest says "
                f"{len(record.profiles)}; rebuild it: {rebuild}"
            )


class Context:
    """An execution context; one thread at a time."""

    def __init__(self, context: Any, engine: Engine) -> None:
        self._context = context
        self._engine = engine
        self._ran = False

    def set_profile(self, profile: int, stream: Stream) -> None:
        """Take a profile; shapes have to be set again.

        Raises:
            TensorRTError: there is no such profile.
        """
        try:
            done = self._context.set_optimization_profile_async(profile, stream.handle)
        except RuntimeError:  # what the bindings may make of False
            done = False
        if not done:
            raise self._failed("set_optimization_profile_async", f"profile {profile}")

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Give every input its shape.

        Raises:
            TensorRTError: a shape is outside the profile, or one is missing.
        """
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._failed("set_input_shape", f"tensor {name} {list(shape)}")
        try:
            missing = list(self._context.infer_shapes())
        except RuntimeError as error:
            raise self._failed("infer_shapes", f"tensors {', '.join(shapes)}") from error
        if missing:
            raise self._failed("infer_shapes", f"tensors {', '.join(missing)}")

    def check_shape(self, name: str, expected: tuple[int, ...]) -> None:
        """Make sure that an output is as large as the buffer it gets.

        Raises:
            TensorRTError: it is not.
        """
        shape = tuple(self._context.get_tensor_shape(name))
        if shape != expected:
            raise TensorRTError(f"{self._engine.name} gives tensor {name} as {list(shape)}, expected {list(expected)}")

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Give tensors their device addresses.

        Raises:
            TensorRTError: TensorRT refuses an address.
        """
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._failed("set_tensor_address", f"tensor {name}")

    def enqueue(self, stream: Stream) -> None:
        """Put one run into a stream.

        Raises:
            TensorRTError: TensorRT refuses.
        """
        if not self._context.execute_async_v3(stream.handle):
            raise self._failed("execute_async_v3", "its tensors")
        if not self._ran:  # TensorRT for RTX has compiled the kernels by now
            self._ran = True
            self._engine.keep_kernels()

    def _failed(self, call: str, what: str) -> TensorRTError:
        return self._engine.runtime.error(call, f"{self._engine.name}, {what}")


def _dtype(trt: Any, spec: TensorSpec, precision: str) -> Any:
    return getattr(trt.DataType, _DTYPES[DTYPES[precision] if spec.dtype == "graph" else spec.dtype])


def _made_for(record: PlanRecord) -> str:
    capabilities = getattr(record.target, "compute_capabilities", ())
    return f"(compiled for compute capability {', '.join(capabilities)})"


def _describe(tensor: tuple[bool, Any] | None) -> str:
    return "nothing" if tensor is None else f"{'input' if tensor[0] else 'output'} {tensor[1]}"
