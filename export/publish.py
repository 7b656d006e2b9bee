"""The files of a bundle, and where it may be put."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import onnx_ir as ir

from export.graphs import GraphPair
from export.runners import GraphFiles
from spd.bundle import MANIFEST, FileRecord, Manifest
from spd.errors import ExportError, one_line
from spd.runtime.machine import package_versions
from spd.staging import remove_leftovers
from spd.version import __version__

TOOLS = ("torch", "timm", "onnx", "onnxscript", "onnx-ir", "onnxruntime-gpu", "onnxruntime", "numpy")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_target(out: Path, name: str, force: bool) -> Path:
    """The folder a bundle will get, checked before any work is done.

    Raises:
        ExportError: the name cannot be a folder's, or something is there already.
    """
    if not _NAME.fullmatch(name):
        raise ExportError(f"the bundle name {name!r} is not usable: take letters, digits, '.', '_' and '-'")
    target = out / name
    remove_leftovers(out, name)
    if target.exists():
        if not (target / MANIFEST).is_file():
            raise ExportError(f"{target} exists and is not a bundle; choose another --name or --out")
        if not force:
            raise ExportError(f"{target} exists; give --force to replace it, or another --name")
    return target


def write_graphs(folder: Path, precision: str, graphs: GraphPair) -> GraphFiles:
    """Write `encoder.<precision>.onnx` and `decoder.<precision>.onnx`, each with its weights inside.

    Raises:
        ExportError: ONNX's own checker refuses a graph.
        OSError: a file cannot be written.
    """
    files = GraphFiles.within(folder, precision)
    for model, path in ((graphs.encoder, files.encoder), (graphs.decoder, files.decoder)):
        ir.save(model, path)
        try:
            onnx.checker.check_model(path, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(f"{path.name} is not valid ONNX: {one_line(error, whole=True)}") from error
    return files


def write_json(path: Path, document: object) -> None:
    """Write a JSON document; NaN is an error."""
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and sha256 of everything in the folder."""
    return {path.name: FileRecord.of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` last: a folder without it is no bundle."""
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def tool_versions() -> dict[str, str]:
    """Versions of the packages that made the bundle."""
    return {"spd-depth": __version__, **package_versions(TOOLS)}
