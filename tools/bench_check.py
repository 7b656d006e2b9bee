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

The last two are of `atto` in float32 on ONNX Runtime's CPU provider.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spd.commands.cli import Command, note, write_stdout
from tools.bench.worker import Worker

if TYPE_CHECKING:
    import onnx_ir as ir

    from export.graphs import GraphOptions, GraphPair
    from spd.bundle import Bundle

COMMITTED = Path(__file__).with_name("bench_counts.json")

PACKAGES = ("torch", "timm", "onnxscript", "onnx-ir", "numpy")
"""Whose versions decide about `DEPENDENT`."""
DEPENDENT = ("encoder_nodes", "decoder_nodes", "decoder_bytes_per_point", "host_bytes_per_point")
"""Figures that other versions of `PACKAGES` may change."""

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Shape"})
"""Operators that write nothing large: the same bytes in another shape, or a shape."""

CALLS, WARM_UP = 64, 8
ASK = "if that is meant: python -m tools.bench_check --update"

Counts = dict[str, int]


@dataclass(frozen=True)
class Case:
    """A network whose graphs are counted."""

    preset: str
    height: int
    """Of the image, pixels."""
    width: int
    """Of the image, pixels."""
    precisions: tuple[str, ...]
    max_points: int = 4096
    opset: int = 20
    with_routes: bool = False

    @property
    def name(self) -> str:
        """As in the committed file."""
        return f"{self.preset} {self.height}x{self.width}"

    @property
    def options(self) -> GraphOptions:
        """As the export takes them."""
        from export.graphs import GraphOptions, Limits  # torch

        limits = Limits(max_points=self.max_points)
        return GraphOptions(self.height, self.width, limits, self.opset, self.with_routes)


TINY = Case("tiny", 480, 640, ("fp32", "fp16"))
"""What `spd-export --seed-checkpoint tiny` gives."""
ATTO = Case("atto", 160, 192, ("fp32", "fp16", "bf16"), max_points=512, opset=22, with_routes=True)
"""What the tests export."""


def counts_of_graphs(graphs: GraphPair, bundle_bytes: int) -> Counts:
    """The figures of a pair of graphs; `bundle_bytes` is what they keep of an image."""
    import onnx_ir as ir

    from tools.bench.macs import macs_of

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
    import onnx_ir as ir

    from export.graphs import GraphPair  # torch
    from spd.runtime.backend import cache_nbytes

    found = {}
    for precision in bundle.manifest.precisions:
        graphs = GraphPair(*(ir.load(bundle.graph(graph, precision)) for graph in ("encoder", "decoder")))
        found[precision] = counts_of_graphs(graphs, cache_nbytes(bundle.manifest.contract, precision))
    with Worker(runtime_counts, bundle.path) as worker:  # what else a process has loaded moves them by some bytes
        return {**found, "runtime": worker.made()}


def counts_of_case(case: Case, precisions: tuple[str, ...] | None = None) -> dict[str, Counts]:
    """The figures of the graphs of a case by precision, which are built for it; takes 20 s each for `tiny`."""
    from export.graphs import build_graphs  # torch
    from spd.bundle.contract import contract
    from spd.config import PRESETS
    from spd.models import seeded
    from spd.runtime.backend import cache_nbytes

    model = seeded(PRESETS[case.preset])
    tensors = contract(model.config, case.height, case.width, case.with_routes)
    return {
        precision: counts_of_graphs(build_graphs(model, precision, case.options), cache_nbytes(tensors, precision))
        for precision in precisions or case.precisions
    }


def runtime_counts(path: Path) -> Counts:
    """What `scene.depth` allocates in steady state, on ONNX Runtime's CPU provider in float32."""
    import numpy as np

    import spd

    model = spd.load(path, "onnxruntime-cpu", precision="fp32", threads=1)
    height, width = model.size
    scene = model.encode(np.zeros((height, width, 3), dtype=np.uint8))
    points = np.random.default_rng(0).uniform((0, 0), (width, height), size=(256, 2))

    def peak(count: int) -> int:
        """Most bytes in use during a call, beyond those before it."""
        for _ in range(WARM_UP):
            scene.depth(points[:count])
        tracemalloc.start()
        try:
            peaks = []
            for _ in range(3):
                gc.collect()
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                scene.depth(points[:count])
                peaks.append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()
        return min(peaks)

    def left_over(calls: int) -> int:
        """Python's memory blocks after some calls, beyond those before them."""
        gc.collect()
        gc.disable()  # or cycles would be collected, or not, as it happens
        try:
            before = sys.getallocatedblocks()
            for _ in range(calls):
                scene.depth(points[:16])
            return sys.getallocatedblocks() - before
        finally:
            gc.enable()

    left_over(4 * CALLS)  # until then lists of free objects may still grow, by some 200 blocks in all
    return {
        # Of two K, so that what does not grow with them, which differs between versions of Python, falls out.
        "host_bytes_per_point": round((peak(256) - peak(128)) / 128),
        # Likewise what the counting itself leaves, a few.
        "retained_blocks_per_call": round((left_over(3 * CALLS) - left_over(CALLS)) / (2 * CALLS)),
    }


def count_all() -> dict[str, dict[str, Counts]]:
    """All figures by case and precision; takes two minutes on one core."""
    from rich.console import Console

    from export.pipeline import Options, export_bundle, load_source  # torch
    from spd.bundle import open_bundle
    from spd.commands.progress import Phases

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
    from spd.runtime.machine import package_versions  # for --help

    found = {package: number.partition("+")[0] for package, number in package_versions(PACKAGES).items()}
    return {package: found.get(package) for package in PACKAGES}


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--update", is_flag=True, help="Write what was counted as the figures to compare with.")
def main(update: bool) -> None:
    """Compare what the graphs cost, counted rather than timed, with tools/bench_counts.json."""
    found = count_all()
    if update:
        from spd.files import write_atomically

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
