"""What computes a pair of graph files for the parity gate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.diagnosis import first_non_finite
from export.evaluate import evaluate
from spd.runtime.machine import cores


@dataclass(frozen=True)
class GraphFiles:
    """The files of one precision, as they will be published."""

    precision: str
    encoder: Path
    decoder: Path

    @classmethod
    def within(cls, folder: Path, precision: str) -> GraphFiles:
        """The files that `export.publish.write_graphs` writes into a folder."""
        return cls(precision, folder / f"encoder.{precision}.onnx", folder / f"decoder.{precision}.onnx")


class Runner(ABC):
    """Something that computes a pair of graphs: images and points to depth [B, K]."""

    name: str

    @abstractmethod
    def encode(self, images: NDArray[np.uint8]) -> Any:
        """Images to whatever `decode` wants as cache."""

    @abstractmethod
    def decode(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cache and points to depth [B, K]."""


class OnnxRuntimeRunner(Runner):
    """The files as they will be published, on ONNX Runtime's CPU provider."""

    name = "onnxruntime-cpu"

    def __init__(self, files: GraphFiles) -> None:
        import onnxruntime  # 0.1 s that bfloat16 does not need

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()  # it would count the machine's, also in a container that has few
        # Threads that wait for each other in a loop take the cores from other work: on two busy ones, 100 rooms of the
        # demo network took 17 s instead of 7.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")

        def session(path: Path) -> Any:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        self._encoder, self._decoder = session(files.encoder), session(files.decoder)

    def encode(self, images: NDArray[np.uint8]) -> Any:
        """As in `Runner`."""
        outputs = self._encoder.run(None, {"image": images})
        return {output.name: value for output, value in zip(self._encoder.get_outputs(), outputs, strict=True)}

    def decode(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `Runner`."""
        depth: NDArray[np.float32] = self._decoder.run(["depth"], {**cache, "points": points})[0]
        return depth


class TorchRunner(Runner):
    """The files as they will be published, node by node in torch, each tensor rounded to its dtype."""

    name = "torch-nodes"

    def __init__(self, files: GraphFiles) -> None:
        self._encoder, self._decoder = ir.load(files.encoder), ir.load(files.decoder)
        self.routes: NDArray[np.int64] | None = None

    def encode(self, images: NDArray[np.uint8]) -> Any:
        """As in `Runner`."""
        return evaluate(self._encoder, {"image": torch.from_numpy(images)}, self._observe)

    def decode(self, cache: Mapping[str, Tensor], points: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `Runner`."""
        outputs = evaluate(self._decoder, {**cache, "points": torch.from_numpy(points)}, self._observe)
        depth: NDArray[np.float32] = outputs["depth"].numpy()
        return depth

    def _observe(self, node: ir.Node, results: tuple[Tensor, ...]) -> None:
        first_non_finite(node, results)
        if node.op_type == "TopK":
            self.routes = results[1].numpy()
