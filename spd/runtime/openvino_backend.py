"""Bundles on OpenVINO's CPU plugin. The cache of a scene is kept in OpenVINO's tensors, which both graphs share."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.bundle import Bundle
from spd.errors import BackendError, one_line
from spd.runtime.backend import cache_nbytes
from spd.runtime.machine import cores
from spd.runtime.packages import import_openvino
from spd.runtime.tiled import TILE, TiledBackend


@dataclass(frozen=True)
class Recipe:
    """How a precision is run."""

    graphs: str
    """The precision whose graph files are taken."""
    encoder: str
    """What the encoder computes in, as OpenVINO calls it: f32 or bf16. The decoder always computes in f32."""


RECIPES = {
    "fp32": Recipe("fp32", "f32"),
    # In the decoder bfloat16 would round coordinates: depths were 2.4% off on average.
    "bf16": Recipe("fp32", "bf16"),
    "int8": Recipe("int8", "f32"),
    "int8-bf16": Recipe("int8", "bf16"),
}
"""By precision. For bf16, OpenVINO rounds the float32 graphs itself: no bf16 graphs are needed."""


class OpenVinoBackend(TiledBackend):
    """Both graphs of a bundle on the CPU. The decoder is compiled for a few sizes of tiles, which are filled up.

    With a fixed size it is 15% faster than with an open one: 7.4 and 8.7 ms for 64 points of `atto`. A size is compiled
    when it is first needed: half a second and 50 MB. With an open one every new K would cost each thread 10 to 40 ms.

    OpenVINO can cache compiled models. That would save 40% of the time, and take 170 MB of disk for `tiny`: not used.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None) -> None:
        """Compile the graphs.

        Args:
            bundle: where the graphs are.
            precision: one of `RECIPES`. bf16 takes the float32 graphs and runs the encoder in bfloat16.
            threads: CPU threads for one call, by default and at most all cores that the process may use.

        Raises:
            BackendError: OpenVINO is missing, this CPU has no bfloat16, or the threads cannot be started.
            BundleError: a graph is missing or changed.
        """
        recipe = RECIPES[precision]
        self.precision = precision
        self.height, self.width = bundle.manifest.height, bundle.manifest.width
        self.max_points = bundle.manifest.max_points
        self.cache_bytes = cache_nbytes(bundle.manifest.contract, recipe.graphs)
        openvino = import_openvino()
        core = openvino.Core()
        if recipe.encoder == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError(
                f"openvino cannot run {precision} here: this CPU has no bfloat16 (AVX512_BF16 or AMX); "
                f"take {recipe.graphs}"
            )
        threads = min(threads or cores(), cores())  # OpenVINO starts no more
        self.start_tilers(threads)
        self.check_threads(threads, pools=3)  # the encoder's, the decoder's, and those that decode tiles
        self._encoder = _Graph(openvino, core, bundle, "encoder", recipe.graphs).compiled(recipe.encoder, threads, 1)
        self._decoder = _Graph(openvino, core, bundle, "decoder", recipe.graphs)
        self._decoders: dict[int, _Requests] = {}
        self._compiling = threading.Lock()
        self._tensor = openvino.Tensor

    def encode(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """As in `Backend`."""
        cache = self._encoder.new_outputs()
        image = np.require(image, requirements=("C", "W"))  # OpenVINO takes nothing that it could not write to
        self._encoder.run({"image": self._tensor(image, shared_memory=True), **cache})
        return cache

    def tile_sizes(self, count: int) -> list[int]:
        """As in `TiledBackend`, but full tiles and one rest for each thread: what is filled up costs time."""
        least, most = TILE
        each = max(least, -(-count // self.at_once))
        shares = [min(each, count - start) for start in range(0, count, each)]
        return [min(most, share - start) for share in shares for start in range(0, share, most)]

    def decode_tile(self, cache: dict[str, Any], points: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `TiledBackend`. The last point is repeated up to the next power of two."""
        count = points.shape[1]
        size = max(TILE[0], 1 << (count - 1).bit_length())
        filled = np.pad(points, ((0, 0), (0, size - count), (0, 0)), mode="edge")
        depth = np.empty((1, size), np.float32)
        ends = {"points": filled, "depth": depth}
        tensors = {name: self._tensor(array, shared_memory=True) for name, array in ends.items()}
        self._decoder_of(size).run({**cache, **tensors})
        return depth[:, :count]

    def _decoder_of(self, size: int) -> _Requests:
        """The decoder for tiles of `size` points."""
        if size not in self._decoders:
            with self._compiling:
                if size not in self._decoders:  # another thread may have been first
                    each = self.at_once
                    self._decoders[size] = self._decoder.compiled("f32", each, each, points=(1, size, 2))
        return self._decoders[size]


class _Graph:
    """A graph as it was read."""

    def __init__(self, openvino: Any, core: Any, bundle: Bundle, graph: str, precision: str) -> None:
        self._openvino, self._core = openvino, core
        self._path = bundle.graph(graph, precision)
        try:
            self._model = core.read_model(str(self._path))
        except Exception as error:  # its exceptions share no base class
            raise BackendError(f"openvino cannot load {self._path}: {_reason(error)}") from error

    def compiled(self, precision: str, threads: int, requests: int, **shapes: tuple[int, ...]) -> _Requests:
        """Compile it for one image.

        Args:
            precision: f32 or bf16.
            threads: for all requests together.
            requests: how many run at once.
            shapes: of inputs whose shape depends on more than the number of images.
        """
        settings = {
            # By default it computes in bfloat16 where the CPU can.
            "INFERENCE_PRECISION_HINT": precision,
            "EXECUTION_MODE_HINT": "ACCURACY" if precision == "f32" else "PERFORMANCE",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": str(requests),
            "ENABLE_CPU_PINNING": False,  # two models would be pinned to the same cores
        }
        try:
            model = self._model.clone()
            sizes = {port.any_name: [1, *list(port.partial_shape)[1:]] for port in model.inputs} | shapes
            model.reshape({name: self._openvino.PartialShape(list(shape)) for name, shape in sizes.items()})
            return _Requests(self._openvino, self._core.compile_model(model, "CPU", settings), requests)
        except Exception as error:
            raise BackendError(f"openvino cannot load {self._path}: {_reason(error)}") from error


class _Requests:
    """A compiled graph, and what runs it: each request for one thread at a time."""

    def __init__(self, openvino: Any, compiled: Any, count: int) -> None:
        self._make = openvino.Tensor
        self._inputs = {port.any_name: i for i, port in enumerate(compiled.inputs)}
        self._outputs = {port.any_name: i for i, port in enumerate(compiled.outputs)}
        self._ports = {port.any_name: port for port in (*compiled.inputs, *compiled.outputs)}
        # Bound between two runs, so that no request keeps a scene's cache. Nobody touches them: they take no memory.
        self._idle = self._new(self._ports)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(compiled.create_infer_request())

    def new_outputs(self) -> dict[str, Any]:
        """Tensors for all outputs."""
        return self._new(self._outputs)

    def run(self, tensors: Mapping[str, Any]) -> None:
        """Compute outputs from inputs, given by name; waits until a request is free.

        Raises:
            BackendError: it failed.
        """
        request = self._free.get()
        try:
            self._bind(request, tensors)
            request.infer(share_outputs=True)  # otherwise it copies every output
        except Exception as error:
            raise BackendError(f"openvino failed: {_reason(error)}") from error
        finally:
            self._bind(request, {name: self._idle[name] for name in tensors})
            self._free.put(request)

    def _new(self, names: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._make(self._ports[name].element_type, self._ports[name].shape) for name in names}

    def _bind(self, request: Any, tensors: Mapping[str, Any]) -> None:
        for name, tensor in tensors.items():
            if name in self._inputs:
                request.set_input_tensor(self._inputs[name], tensor)
            else:
                request.set_output_tensor(self._outputs[name], tensor)


def _reason(error: Exception) -> str:
    """What an error says, in one line, without the places in OpenVINO's sources that come first."""
    places = ("Exception from ", "Check '", "FrontEnd API failed")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(places)]
    return one_line(RuntimeError("\n".join(lines)), whole=True) if lines else one_line(error)
