"""The network as the paper writes it, in torch, eager and compiled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.config import SPDConfig
from tools.bench.rows import Row
from tools.bench.subject import Inputs, Subject


class TorchLiteral(Subject):
    """`spd.models.SPD` in float32 with untrained weights."""

    def __init__(self, row: Row, config: SPDConfig, compiled: Path, inputs: Inputs) -> None:
        """Make the network of a row; `compiled` is a folder that keeps compiled code."""
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled.resolve())
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # or it keeps processes for that
        import torch

        from spd.models import seeded

        torch.set_num_threads(inputs.threads)
        self._torch = torch
        self._device = torch.device("cuda" if row.on_gpu else "cpu")
        model = seeded(config).to(self._device)
        self._inputs = inputs
        self._encode: Any = model.encode
        self._decode: Any = model.decode
        if "compile" in row.backend:
            self._encode, self._decode = torch.compile(model.encode), torch.compile(model.decode)
        self._cache: Any = None

    def encode(self) -> None:
        """As in `Subject`."""
        torch = self._torch
        with torch.inference_mode():
            image_BHW3 = torch.from_numpy(self._inputs.image).to(self._device)
            self._cache = self._encode(image_BHW3.permute(0, 3, 1, 2) / 255)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.scene_mb = sum(tensor.nbytes for tensor in _tensors(self._cache)) / 1e6

    def decode(self, count: int) -> NDArray[np.float32]:
        """As in `Subject`."""
        torch = self._torch
        with torch.inference_mode():
            points_BK2 = torch.from_numpy(self._inputs.first(count)).to(self._device)
            if count > 1:
                torch._dynamo.mark_dynamic(points_BK2, 1)  # one compilation for all K but 1
            depth: NDArray[np.float32] = self._decode(self._cache, points_BK2)[0].cpu().numpy()
        return depth


def _tensors(cache: Any) -> list[Any]:
    pairs = [tensor for pair in (*cache.l3_kv, *cache.l4_kv) for tensor in pair]
    return [*cache.pyramid, *pairs, cache.g, *cache.central]
