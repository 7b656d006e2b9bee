"""Record what TensorRT for RTX compiles the graphs of a bundle to, in the form of TensorRT's inspector.

The stand-in of the inspector answers with it in tests. Kernels change when the export or the compiler does:

    python -m tools.record_rtx_layers BUNDLE tests/stand_ins/rtx_layers.json.gz
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from engines.kernels import Kernel
from engines.layers import Tensor
from engines.progress import BuildState
from engines.rtx import compile_graph
from spd.bundle import GRAPHS, Bundle, open_bundle
from spd.bundle.contract import FLOATING
from spd.files import write_atomically

POINTS = 256


def record(bundle: Bundle, graph: str, precision: str) -> list[dict[str, Any]]:
    """The layers of one graph of a bundle for one image and, in the decoder, 256 points."""
    inputs = bundle.manifest.contract.inputs(graph)
    points = POINTS if graph == "decoder" else 0
    compiled = compile_graph(bundle.graph(graph, precision), inputs, BuildState(), points)
    return [inspector_form(kernel) for kernel in compiled.kernels]


def inspector_form(kernel: Kernel) -> dict[str, Any]:
    """A kernel as the inspector of TensorRT would say it in JSON."""
    return {
        "Name": kernel.name,
        "LayerType": kernel.type,
        "Inputs": _tensors(kernel.inputs),
        "Constants": _tensors(kernel.constants),
        "Outputs": _tensors(kernel.outputs),
        "TacticName": kernel.tactic,
        "StreamId": 0,
        "Metadata": "\x1f".join(f"[ONNX Layer: {node}]" for node in kernel.nodes),
    }


def _tensors(tensors: Iterable[Tensor]) -> list[dict[str, Any]]:
    return [{"Name": t.name, "Dimensions": list(t.shape), "Format/Datatype": t.dtype} for t in tensors]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(bundle: Path, out: Path) -> None:
    """Record the layers of both graphs of BUNDLE in every floating precision into OUT, gzipped JSON."""
    opened = open_bundle(bundle)
    layers = {graph: {precision: record(opened, graph, precision) for precision in FLOATING} for graph in GRAPHS}
    with write_atomically(out) as file:
        file.write(gzip.compress(json.dumps(layers, separators=(",", ":")).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
