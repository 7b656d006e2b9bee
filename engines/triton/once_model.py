"""A Triton model that answers one image and its points: `spd-triton` copies this file into the model repository.

It asks the model that keeps scenes, as a sequence of one request, so that the bundle is loaded once.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import triton_python_backend_utils as pb

WHOLE_SEQUENCE = pb.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START | pb.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Remember who keeps the scenes."""
        self._scenes: str = json.loads(args["model_config"])["parameters"]["scenes"]["string_value"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests one after the other."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = (pb.get_input_tensor_by_name(request, name) for name in ("IMAGE", "FILE", "POINTS"))
        answer = pb.InferenceRequest(
            model_name=self._scenes,
            requested_output_names=["DEPTH"],
            inputs=[tensor for tensor in given if tensor is not None],
            correlation_id=secrets.randbits(63) | 1 << 62,  # clients count from 1
            flags=WHOLE_SEQUENCE,
        ).exec()
        if answer.has_error():
            return pb.InferenceResponse([], answer.error())
        return pb.InferenceResponse([pb.get_output_tensor_by_name(answer, "DEPTH")])
