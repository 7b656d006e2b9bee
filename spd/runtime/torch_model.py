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

    def __init__(self, path: Path, size: tuple[int, int] | None = None) -> None:
        """Load a checkpoint for images of `size` = (height, width) pixels, by default that which it was trained at.

        Raises:
            CheckpointError: the weights cannot be used.
            BackendError: the model cannot take images of that size.
        """
        checkpoint = load_checkpoint(path, networks=tuple(NETWORKS))
        self.height, self.width = size or checkpoint.size or DEFAULT_SIZE
        self._model = checkpoint.model
        try:
            check_size(self.height, self.width, self._model.config)
        except ValueError as error:
            raise BackendError(str(error)) from error
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device)

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
