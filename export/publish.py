"""Writing a bundle: everything into a temporary folder, proved there, then renamed into place (design 3)."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from export.graphs import GraphPair
from export.runners import GraphFiles
from spd.bundle import MANIFEST, FileRecord, Manifest
from spd.errors import ExportError, one_line
from spd.files import is_alive
from spd.runtime.machine import package_versions
from spd.version import __version__

TOOLS = ("torch", "timm", "onnx", "onnxscript", "onnx-ir", "onnxruntime-gpu", "onnxruntime", "numpy")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PARTIAL = ".partial"
_REPLACED = ".replaced"


def check_target(out: Path, name: str, force: bool) -> Path:
    """The folder a bundle will get, checked before any work is done.

    Raises:
        ExportError: the name cannot be a folder's, or something is there already.
    """
    if not _NAME.fullmatch(name):
        raise ExportError(f"the bundle name {name!r} is not usable: take letters, digits, '.', '_' and '-'")
    target = out / name
    _remove_leftovers(target)
    if target.exists():
        if not (target / MANIFEST).is_file():
            raise ExportError(f"{target} exists and is not a bundle; choose another --name or --out")
        if not force:
            raise ExportError(f"{target} exists; give --force to replace it, or another --name")
    return target


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, renamed to it at the end, removed on any error.

    Raises:
        OSError: the folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.{os.getpid()}."
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=_PARTIAL, dir=target.parent))
    folder.chmod(0o755)  # mkdtemp keeps others out; a bundle is to be read by them
    replaced = folder.with_suffix(_REPLACED)
    try:
        yield folder
        if target.exists():
            target.rename(replaced)
        folder.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove_leftovers(target: Path) -> None:
    """Remove what a killed export of the same bundle left, if its process is gone, and put back what it moved away."""
    for folder in (
        *target.parent.glob(f".{target.name}.*{_REPLACED}"),
        *target.parent.glob(f".{target.name}.*{_PARTIAL}"),
    ):
        owner = folder.name.removeprefix(f".{target.name}.").split(".")[0]
        if not owner.isdigit() or is_alive(int(owner)):
            continue
        if folder.suffix == _REPLACED and not target.exists():
            folder.rename(target)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def write_graphs(folder: Path, precision: str, graphs: GraphPair) -> GraphFiles:
    """Write `encoder.<precision>.onnx` and `decoder.<precision>.onnx`, each with its weights inside.

    Raises:
        ExportError: ONNX's own checker refuses a graph.
        OSError: a file cannot be written.
    """
    files = GraphFiles(precision, folder / f"encoder.{precision}.onnx", folder / f"decoder.{precision}.onnx")
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
