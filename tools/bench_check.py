"""Counted costs against committed ones: `python -m tools.bench_check`, which is `make bench-check`.

Times depend on the machine and on what else it does. These figures do not, so they are compared exactly:

| figure | what it counts |
|---|---|
| `encoder_macs` | multiply-accumulates of the encoder for one image |
| `decoder_macs_per_point` | multiply-accumulates of the decoder for each further point |
| `decoder_macs_once` | those that a call needs however few its points are |
| `decoder_bytes_per_point` | bytes that the decoder's nodes write for each further point, as if nothing were fused |
| `encoder_nodes`, `decoder_nodes` | nodes of the graphs |
| `scene_bytes` | what is kept of one image between its encoding and its queries |
| `host_bytes_per_point` | Python and numpy memory that `scene.depth` needs at a time, for each further point |
| `retained_blocks_per_call` | Python objects left over by a `scene.depth` in steady state |
| `encoder_kernels`, `decoder_kernels` | kernels that TensorRT for RTX compiles a graph to |
| `encoder_kernel_bytes`, `decoder_kernel_bytes` | bytes that these read and write |

Those of `scene.depth` are of `atto` in float32 on ONNX Runtime's CPU provider. Kernels are those of the float16 graphs
for one image and 256 points, for compute capability 8.9. They are compiled and not run, so no GPU is needed.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import onnx_ir as ir
from rich.console import Console

from engines.progress import BuildState
from engines.rtx import compile_graph
from export.graphs import GraphOptions, GraphPair, Limits, build_graphs
from export.pipeline import Options, export_bundle, load_source
from spd.bundle import Bundle, open_bundle
from spd.bundle.contract import Contract, contract
from spd.commands.cli import Command, note, write_stdout
from spd.commands.progress import Phases
from spd.config import PRESETS
from spd.files import write_atomically
from spd.models import seeded
from spd.runtime.backend import cache_nbytes
from spd.runtime.machine import package_versions
from tools.bench.macs import macs_of

COMMITTED = Path(__file__).with_name("bench_counts.json")

PACKAGES = ("torch", "timm", "onnxscript", "onnx-ir", "numpy", "tensorrt-rtx-cu13")
"""Whose versions decide about `DEPENDENT`."""
KERNEL_FIGURES = ("encoder_kernels", "encoder_kernel_bytes", "decoder_kernels", "decoder_kernel_bytes")
DEPENDENT = (
    *("encoder_nodes", "decoder_nodes", "decoder_bytes_per_point", "host_bytes_per_point"),
    *KERNEL_FIGURES,
)
"""Figures that other versions of `PACKAGES` may change."""

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Shape"})
"""Operators that write nothing large: the same bytes in another shape, or a shape."""

KERNEL_POINTS = 256

ASK = "if that is meant: python -m tools.bench_check --update"

Counts = dict[str, int]


@dataclass(frozen=True)
class Case:
    """A network whose graphs are counted."""

    preset: str
    options: GraphOptions
    """As the export takes them."""
    precisions: tuple[str, ...]

    @property
    def name(self) -> str:
        """As in the committed file."""
        return f"{self.preset} {self.options.height}x{self.options.width}"


TINY = Case("tiny", GraphOptions(480, 640), ("fp32", "fp16"))
"""What `spd-export --seed-checkpoint tiny` gives."""
ATTO = Case(
    "atto", GraphOptions(160, 192, Limits(max_points=512), opset=22, with_routes=True), ("fp32", "fp16", "bf16")
)
"""What the tests export."""


def counts_of_graphs(graphs: GraphPair, bundle_bytes: int) -> Counts:
    """The figures of a pair of graphs; `bundle_bytes` is what they keep of an image."""
    encoder, decoder = (ir.to_proto(model).graph for model in (graphs.encoder, graphs.decoder))
    one, two = (macs_of(decoder, points=count) for count in (1, 2))
    return {
        "encoder_macs": macs_of(encoder),
        "decoder_macs_per_point": two - one,
        "decoder_macs_once": 2 * one - two,
        "decoder_bytes_per_point": written_bytes(graphs.decoder, 2) - written_bytes(graphs.decoder, 1),
        "encoder_nodes": len(graphs.encoder.graph),
        "decoder_nodes": len(graphs.decoder.graph),
        "scene_bytes": bundle_bytes,
    }


def written_bytes(model: ir.Model, points: int) -> int:
    """Bytes of all outputs of all nodes but `VIEWS`, for one image of K points."""
    sizes = {"B": 1, "K": points}
    total = 0.0  # a type of half a byte would have half an itemsize
    for node in model.graph:
        for value in node.outputs if node.op_type not in VIEWS else ():
            assert value.shape is not None
            assert value.dtype is not None
            dims = [dim if isinstance(dim, int) else sizes.get(str(dim), 1) for dim in value.shape]
            total += math.prod(dims) * value.dtype.itemsize
    return int(total)


def counts_of_bundle(bundle: Bundle) -> dict[str, Counts]:
    """The figures of a bundle by precision, and of its runtime under `runtime`."""
    found = {}
    for precision in bundle.manifest.precisions:
        graphs = GraphPair(*(ir.load(bundle.graph(graph, precision)) for graph in ("encoder", "decoder")))
        found[precision] = counts_of_graphs(graphs, cache_nbytes(bundle.manifest.contract, precision))
    command = [sys.executable, "-m", "tools.bench.host", str(bundle.path.absolute())]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True)
    return {**found, "runtime": json.loads(done.stdout)}


def counts_of_case(case: Case, precisions: tuple[str, ...] | None = None) -> dict[str, Counts]:
    """The figures of a case by precision, in float16 with `KERNEL_FIGURES`.

    Its graphs are built for that, 20 s each for `tiny`.
    """
    model = seeded(PRESETS[case.preset])
    tensors = contract(model.config, case.options.height, case.options.width, case.options.with_routes)
    found = {}
    for precision in precisions or case.precisions:
        graphs = build_graphs(model, precision, case.options)
        found[precision] = counts_of_graphs(graphs, cache_nbytes(tensors, precision))
        if precision == "fp16":
            found[precision] |= counts_of_kernels(graphs, tensors)
    return found


def counts_of_kernels(graphs: GraphPair, tensors: Contract) -> Counts:
    """`KERNEL_FIGURES` of a pair of graphs."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, inputs, points in (
            ("encoder", tensors.encoder_inputs, 0),
            ("decoder", tensors.decoder_inputs, KERNEL_POINTS),
        ):
            path = Path(folder) / f"{name}.onnx"
            ir.save(getattr(graphs, name), path)
            kernels = compile_graph(path, inputs, BuildState(), points).kernels
            found += [len(kernels), sum(kernel.nbytes for kernel in kernels)]
    return dict(zip(KERNEL_FIGURES, found, strict=True))


def count_all() -> dict[str, dict[str, Counts]]:
    """All figures by case and precision; takes two minutes on one core."""
    phases = Phases(Console(stderr=True))
    with tempfile.TemporaryDirectory() as folder:
        options = Options(ATTO.options, ATTO.precisions, "atto", verify=False)
        exported = export_bundle(load_source(None, ATTO.preset, None), Path(folder), options, phases)
        found = {ATTO.name: counts_of_bundle(open_bundle(exported.path))}
    with phases(f"tracing {TINY.name}"):
        found[TINY.name] = counts_of_case(TINY)
    return found


def differences(committed: Mapping[str, Any], found: Mapping[str, Mapping[str, Counts]]) -> Iterator[str]:
    """A line for each figure in `found` that is not the committed one.

    Figures of `DEPENDENT` are left out where the packages have other versions than when they were committed.
    """
    same = committed["versions"] == versions()
    for case, by_precision in found.items():
        for precision, counts in by_precision.items():
            known = committed["counts"].get(case, {}).get(precision, {})
            for figure, value in counts.items():
                if known.get(figure) != value and (same or figure not in DEPENDENT):
                    before = f"{known[figure]:,} committed" if figure in known else "not committed"
                    yield f"{case} {precision}: {figure} is {value:,}, {before}"


def read_committed() -> dict[str, Any]:
    """What `--update` wrote."""
    document: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return document


def versions() -> dict[str, str | None]:
    """Versions of `PACKAGES` here, without what a build adds to them."""
    found = {package: number.partition("+")[0] for package, number in package_versions(PACKAGES).items()}
    return {package: found.get(package) for package in PACKAGES}


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--update", is_flag=True, help="Write what was counted as the figures to compare with.")
def main(update: bool) -> None:
    """Compare what the graphs cost, counted rather than timed, with tools/bench_counts.json."""
    found = count_all()
    if update:
        with write_atomically(COMMITTED) as file:
            file.write((json.dumps({"versions": versions(), "counts": found}, indent=1) + "\n").encode())
        note(f"{COMMITTED} is written")
        return
    committed = read_committed()
    if committed["versions"] != versions():
        note(
            f"other versions than when it was committed ({committed['versions']}): {', '.join(DEPENDENT)} not compared"
        )
    lines = list(differences(committed, found))
    if lines:
        raise click.ClickException(f"{len(lines)} figures changed; {ASK}\n" + "\n".join(lines))
    compared = sum(len(counts) for by_precision in found.values() for counts in by_precision.values())
    write_stdout(f"{compared} figures are as committed\n".encode())


if __name__ == "__main__":
    main()
