"""Runs one plan at any shape of its profiles, from host arrays to host arrays: for the proof, not for speed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.bundle.contract import DTYPES, TensorSpec
from spd.bundle.plans import PlanProfile
from spd.errors import CudaError
from spd.runtime.tensorrt.cuda import DeviceBuffer, Gpu, PinnedArray
from spd.runtime.tensorrt.engine import Engine

Arrays = dict[str, NDArray[Any]]

# numpy has no bfloat16. Nothing here looks into the cache, so its bits travel as integers.
_NUMPY = {"bfloat16": "uint16"}


class Executor:
    """A plan on the GPU, in one stream."""

    def __init__(self, gpu: Gpu, engine: Engine, precision: str) -> None:
        """Take over a checked and deserialised plan; `precision` says what the contract's `graph` dtype is."""
        self._gpu, self._engine = gpu, engine
        self._dtype = DTYPES[precision]
        self._stream = gpu.stream()

    @property
    def profiles(self) -> tuple[PlanProfile, ...]:
        """The plan's optimisation profiles."""
        return self._engine.profiles

    def run(self, profile: int, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Compute the outputs under a profile; bfloat16 tensors are uint16 arrays of their bits.

        Raises:
            CudaError: CUDA fails, or the GPU is full.
            TensorRTError: TensorRT refuses a shape or fails.
        """
        batch = next(iter(inputs.values())).shape[0]
        points = inputs["points"].shape[1] if "points" in inputs else 0
        with ExitStack() as stack:
            staged = {}
            for spec in self._engine.inputs:
                staged[spec.name] = self._allocate_pinned(stack, spec, inputs[spec.name].shape)
                staged[spec.name].array[...] = inputs[spec.name]
            results = {
                spec.name: self._allocate_pinned(stack, spec, spec.resolved(batch, points))
                for spec in self._engine.outputs
            }
            buffers = {
                name: self._allocate_device(stack, pinned.nbytes, name)
                for name, pinned in (*staged.items(), *results.items())
            }
            scratch = self._allocate_device(stack, self._engine.scratch_bytes(profile), "scratch memory")
            stack.callback(self._wait)
            context = self._engine.context(profile, scratch, self._stream)
            context.set_shapes({name: array.shape for name, array in inputs.items()})
            for name, pinned in results.items():
                context.check_shape(name, pinned.array.shape)
            context.bind({name: buffer.address for name, buffer in buffers.items()})
            for name, pinned in staged.items():
                self._stream.copy(pinned, buffers[name])
            context.enqueue(self._stream)
            for name, pinned in results.items():
                self._stream.copy(buffers[name], pinned)
            self._stream.sync(f"{self._engine.name} in profile {profile}")
            return {name: pinned.array.copy() for name, pinned in results.items()}

    def close(self) -> None:
        """Give the stream back."""
        self._stream.close()

    def _wait(self) -> None:
        """Wait before memory is given back, also after a failure, which is reported already."""
        with suppress(CudaError):
            self._stream.sync(self._engine.name)

    def _allocate_device(self, stack: ExitStack, nbytes: int, what: str) -> DeviceBuffer:
        buffer = self._gpu.allocate(nbytes, what)
        stack.callback(buffer.close)
        return buffer

    def _allocate_pinned(self, stack: ExitStack, spec: TensorSpec, shape: tuple[int, ...]) -> PinnedArray:
        dtype = self._dtype if spec.dtype == "graph" else spec.dtype
        pinned = self._gpu.pinned(shape, np.dtype(_NUMPY.get(dtype, dtype)), spec.name)
        stack.callback(pinned.close)
        return pinned
