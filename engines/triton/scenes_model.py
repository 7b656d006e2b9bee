"""A Triton model that keeps scenes: `spd-triton` copies this file into the model repository.

The correlation id of a sequence names its scene. The first request brings an image, and any request may bring points.
An image in a later request takes the place of the first, as in a video. Tensors pass by DLPack, without a copy, and may
be on the GPU. (Triton 2.51's own conversion gives tensors of no bytes under numpy 2.)
"""

from __future__ import annotations

import ctypes
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

import spd
from spd.errors import InputError, SPDError

_USED = ctypes.c_char_p(b"used_dltensor")


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that lies beside this file."""
        parameters = {
            key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()
        }
        self._model = spd.load(
            Path(args["model_repository"]) / args["model_version"] / "bundle",
            parameters["backend"],
            precision=parameters["precision"] or None,
            cache_budget=parameters["cache_budget"] or None,
            device=int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None,
        )
        self._max_scenes = int(parameters["max_scenes"])
        self._scenes: OrderedDict[int, Any] = OrderedDict()  # by correlation id, least recently used first
        pb.Logger.log_info(f"spd {spd.__version__}: {self._model!r}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, each of another sequence."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Give back what the model holds."""
        for scene in self._scenes.values():
            scene.close()
        self._model.close()

    def _answer(self, request: Any) -> Any:
        if request.is_cancelled():
            return _refusal("the request was cancelled", pb.TritonError.CANCELLED)
        end, sequence = (int(_array(request, name).item()) for name in ("END", "CORRID"))
        try:
            depth = self._depth(request, sequence)
        except InputError as error:
            return _refusal(str(error), pb.TritonError.INVALID_ARG)
        except SPDError as error:
            return _refusal(str(error), pb.TritonError.INTERNAL)
        finally:
            if end:
                self._forget(sequence)
        return pb.InferenceResponse([_tensor("DEPTH", depth)])

    def _depth(self, request: Any, sequence: int) -> Any:
        """Depth at the request's points, metres; empty if it has none."""
        image, file, points = (_array(request, name) for name in ("IMAGE", "FILE", "POINTS"))
        if file is not None:
            image = file.tobytes()
        if image is not None:
            self._forget(sequence)
            self._scenes[sequence] = self._model.encode(image)
            if len(self._scenes) > self._max_scenes:
                self._forget(next(iter(self._scenes)))
        if sequence not in self._scenes:
            raise InputError(
                f"sequence {sequence} has no image: send IMAGE [H, W, 3] or FILE, the bytes of an image file, first "
                f"(at most {self._max_scenes} sequences keep theirs)"
            )
        self._scenes.move_to_end(sequence)
        return np.empty(0, np.float32) if points is None else self._scenes[sequence].depth(points)

    def _forget(self, sequence: int) -> None:
        scene = self._scenes.pop(sequence, None)
        if scene is not None:
            scene.close()


def _array(request: Any, name: str) -> Any:
    """An input of a request, or None: a numpy array, or on the GPU what Triton gives, which speaks DLPack."""
    tensor = pb.get_input_tensor_by_name(request, name)
    return np.from_dlpack(tensor) if tensor is not None and tensor.is_cpu() else tensor


def _tensor(name: str, array: Any) -> Any:
    """An output for Triton, which renames the capsule that it takes to what numpy reports as a fault."""
    capsule = array.__dlpack__()
    tensor = pb.Tensor.from_dlpack(name, capsule)
    ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), _USED)
    return tensor


def _refusal(message: str, code: int) -> Any:
    return pb.InferenceResponse([], pb.TritonError(message, code))
