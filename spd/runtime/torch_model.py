"""A checkpoint in torch, in its literal form: for comparison with the deployed graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spd.checkpoint import NETWORKS, load_checkpoint
from spd.config import DEFAULT_SIZE, check_size
from spd.errors import BackendError
from spd.runtime.backend import Backend
from spd.utils.exact import true_float32


class TorchBackend(Backend):
    """The literal model, SPD or a baseline, in float32, on a GPU if torch sees one."""

    name = "torch"
    precision = "fp32"
    max_points = 1024

    def __init__(
        self,
        path: Path,
        size: tuple[int, int] | None = None,
        weights: str = "auto",
        threads: int | None = None,
        device: int | None = None,
    ) -> None:
        """Load a checkpoint.

        Args:
            path: the checkpoint.
            size: height and width of the encoder's image in pixels; by default those that it was trained at.
            weights: see `spd.checkpoint.load_checkpoint`.
            threads: CPU threads of this process, for all that it does with torch; by default they stay as they are.
            device: number of the GPU; by default the first one if torch sees any, or else the CPU.

        Raises:
            CheckpointError: the weights cannot be used.
            BackendError: the model cannot take images of that size.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        checkpoint = load_checkpoint(path, networks=tuple(NETWORKS), weights=weights)
        self.notes = [checkpoint.note] if checkpoint.note else []
        """Which weights were taken, if the file has several and the caller did not choose."""
        self.height, self.width = size or checkpoint.size or DEFAULT_SIZE
        self._model = checkpoint.model
        try:
            check_size(self.height, self.width, self._model.config)
        except ValueError as error:
            raise BackendError(str(error)) from error
        self._device = torch.device(f"cuda:{device or 0}" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device)
        if self._device.type == "cpu":
            # The 92 tokens of so few points stay in the caches: 0.24 ms a point of atto, 0.40 in calls of 1,024.
            self.max_points = 128

    def encode(self, image: NDArray[np.uint8]) -> Any:
        """As in `Backend`."""
        with torch.inference_mode(), true_float32():
            image_BHW3 = torch.from_numpy(image).to(self._device)
            return self._model.encode(image_BHW3.permute(0, 3, 1, 2) / 255)

    def decode(self, cache: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """As in `Backend`."""
        with torch.inference_mode(), true_float32():
            depth, _ = self._model.decode(cache, torch.from_numpy(points).to(self._device))
        result: NDArray[np.float32] = depth.cpu().numpy()
        return result
