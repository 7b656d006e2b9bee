"""A module of torch as one ONNX file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.graphs import DEFAULT_OPSET


def write_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: Any = None,
) -> None:
    """Trace a module with some inputs and write it; shapes are fixed but for `dynamic_shapes`, as torch takes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecations
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            opset_version=DEFAULT_OPSET,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    assert program is not None
    program.save(path)
