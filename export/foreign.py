"""Graphs that someone else has quantised, such as NVIDIA's ModelOpt, put into a bundle through its own gate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir

from export.accuracy import GateRooms, QuantisedResult, measure_quantised
from export.graphs import GraphPair
from export.interface import interface_fault
from export.operators import check_operators
from export.publish import write_graphs, write_json, write_manifest
from export.runners import GraphFiles
from spd.bundle import GRAPHS, PARITY, Bundle, FileRecord, Manifest, open_bundle
from spd.bundle.contract import DTYPES, QUANTISED
from spd.bundle.manifest import REPORT
from spd.bundle.reference import read_reference
from spd.commands.progress import Phases
from spd.errors import BundleError, ExportError, ParityError, SPDError, one_line
from spd.staging import staged

EIGHT_BITS = {"int8": {"INT8", "UINT8"}, "int8-fp16": {"INT8"}, "fp8": {"FLOAT8E4M3FN"}}
"""ONNX's names of the types that the pairs of a precision may have."""


@dataclass(frozen=True)
class Added:
    """A bundle with graphs from elsewhere."""

    path: Path
    manifest: Manifest
    result: QuantisedResult


def add_graphs(source: Path, precision: str, into: Path, force: bool, phases: Phases) -> Added:
    """Hold a quantised encoder and decoder to the gate of 8-bit graphs, and put them into a bundle.

    Args:
        source: a folder with `encoder.onnx` and `decoder.onnx`, made from the graphs of the bundle.
        precision: one of `spd.bundle.contract.QUANTISED`.
        into: the bundle, or a folder that holds one.
        force: replace graphs of the same precision; the engines that were built from them are removed.
        phases: is told what goes on.

    Raises:
        BundleError: the bundle cannot be used, or was never verified.
        ExportError: it has such graphs already, or one of the new ones is missing, has other inputs or outputs than
            the bundle's, is not quantised so, or cannot be run.
        ParityError: the depths are too far from those of the bundle's float32 graphs.
        OSError: a file cannot be read or written.
    """
    bundle = open_bundle(into)
    manifest = bundle.manifest
    if precision in manifest.precisions and not force:
        raise ExportError(f"{bundle.path} has {precision} graphs already; give --force to replace them")
    if not manifest.verified:
        raise BundleError(
            f"{bundle.path} was exported with --no-verify: nothing is there to hold graphs to; export it again without"
        )
    reference = read_reference(bundle)
    with phases("reading the graphs"):
        graphs = _read_graphs(source, precision, bundle)
    with _edited_copy(bundle) as folder, _named_faults(source):
        files = write_graphs(folder, precision, graphs)
        exact = GraphFiles("fp32", *(bundle.graph(graph, "fp32") for graph in GRAPHS))
        with phases("running fp32 on rooms") as tick:
            rooms = GateRooms(exact, manifest.height, manifest.width, tick)
        with phases(f"verifying {precision}") as tick:
            result = measure_quantised(files, rooms, reference, manifest.max_points, manifest.trained, tick)
        if not result.passed:
            raise ParityError(
                f"the {precision} graphs of {source} are too far from the float32 ones: {result.difference}; "
                f"{bundle.path} stays as it was (quantise fewer products, or with other ranges)"
            )
        edited = _publish(folder, bundle, files, result)
    return Added(bundle.path, edited, result)


def _read_graphs(source: Path, precision: str, bundle: Bundle) -> GraphPair:
    """Both graphs with the types of all their tensors, checked."""
    base = QUANTISED[precision]
    models, found = [], set()
    for graph in GRAPHS:
        path = source / f"{graph}.onnx"
        if not path.is_file():
            raise ExportError(
                f"{source} holds no {path.name}, expected encoder.onnx and decoder.onnx; one that is not quantised is "
                f"{graph}.{base}.onnx of the bundle"
            )
        try:
            proto = onnx.load(path)
            model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
        except Exception as error:  # what protobuf, onnx and onnx_ir raise shares no base class
            raise ExportError(f"{path} cannot be read as ONNX: {one_line(error)}") from error
        tensors = bundle.manifest.contract
        fault = interface_fault(model, tensors.inputs(graph), tensors.outputs(graph), DTYPES[precision])
        if fault is not None:
            raise ExportError(f"{path}: {fault}; quantise {graph}.{base}.onnx of {bundle.path}")
        found |= {
            node.inputs[0].dtype.name
            for node in model.graph
            if node.op_type == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].dtype is not None
        }
        if precision != "int8":  # which TensorRT does not take
            check_operators(model)
        models.append(model)
    if not found or not found <= EIGHT_BITS[precision]:
        types = f"are quantised to {', '.join(sorted(found)).lower()}" if found else "have no DequantizeLinear"
        raise ExportError(
            f"the graphs of {source} {types}, expected {' or '.join(sorted(EIGHT_BITS[precision])).lower()} for "
            f"--precision {precision}"
        )
    return GraphPair(*models)


@contextmanager
def _edited_copy(bundle: Bundle) -> Iterator[Path]:
    """A copy of a bundle, to be changed; it takes the place of the bundle unless an error comes up."""
    with staged(bundle.path) as folder:
        shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
        yield folder


@contextmanager
def _named_faults(source: Path) -> Iterator[None]:
    """What ONNX Runtime raises, as an ExportError."""
    try:
        yield
    except (SPDError, OSError):
        raise
    except Exception as error:  # it shares no base class
        raise ExportError(f"ONNX Runtime cannot run the graphs of {source}: {one_line(error)}") from error


def _publish(folder: Path, bundle: Bundle, files: GraphFiles, result: QuantisedResult) -> Manifest:
    """List the new graphs in the copy of the bundle, with what proves them, and drop what the old ones were."""
    manifest, precision = bundle.manifest, files.precision
    parity = json.loads(bundle.file(PARITY).read_text(encoding="utf-8"))
    write_json(folder / PARITY, {**parity, precision: result.as_dict()})
    changed = [files.encoder.name, files.decoder.name, PARITY]
    stale = {engine.file for engine in manifest.engines if engine.precision == precision}
    if stale:
        report = json.loads(bundle.file(REPORT).read_text(encoding="utf-8"))
        kept = {flavour: {p: e for p, e in entries.items() if p != precision} for flavour, entries in report.items()}
        write_json(folder / REPORT, kept)
        changed.append(REPORT)
    for name in stale:
        (folder / name).unlink()
    records = {name: record for name, record in manifest.files.items() if name not in stale}
    edited = replace(
        manifest,
        graphs={**manifest.graphs, precision: {"encoder": files.encoder.name, "decoder": files.decoder.name}},
        files={**records, **{name: FileRecord.of(folder / name) for name in changed}},
        engines=tuple(engine for engine in manifest.engines if engine.file not in stale),
    )
    write_manifest(folder, edited)
    return edited
