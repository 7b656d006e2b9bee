"""Opening a bundle, and handing out its files.

A bundle is data from elsewhere: the manifest is checked field by field, file names must be plain names inside the
folder, and every file is compared with its sha256 before it is opened. A file may be a link to anywhere, as in a model
hub's cache or on a mounted volume: its content decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spd.bundle.manifest import MANIFEST, FileRecord, Manifest
from spd.errors import BundleError
from spd.files import CHECKPOINT_SUFFIXES


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest has been read."""

    path: Path
    manifest: Manifest

    def graph(self, graph: str, precision: str) -> Path:
        """Path of the `encoder` or `decoder` graph in a precision, its content checked.

        Raises:
            BundleError: the bundle has no such precision, or the file is missing or not the one that was exported.
        """
        if precision not in self.manifest.graphs:
            raise BundleError(
                f"{self.path} has no {precision} graphs, only {', '.join(self.manifest.precisions)}; "
                f"export with --precision {precision}"
            )
        return self.file(self.manifest.graphs[precision][graph])

    def file(self, name: str) -> Path:
        """Path of a file of the bundle, its size and sha256 checked.

        Raises:
            BundleError: the file is not in the manifest, missing, or not the one that was exported.
        """
        path = self.path / name
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleError(f"{self.path / MANIFEST} does not list {name}; export the bundle again")
        if not path.is_file():
            raise BundleError(f"{path} is missing: the bundle is incomplete; copy it again or export it again")
        if path.stat().st_size != record.bytes or FileRecord.of(path) != record:
            raise BundleError(
                f"{path} is not the file that was exported (its sha256 differs from the manifest's); "
                "copy the bundle again or export it again"
            )
        return path


def open_bundle(path: str | Path) -> Bundle:
    """Open the bundle at `path`, or the only bundle in the folder `path`.

    Raises:
        BundleError: there is none, there are several, or its manifest cannot be used.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.exists():
            kinds = f"a bundle's folder, made by spd-export, or a checkpoint ({', '.join(CHECKPOINT_SUFFIXES)})"
            raise BundleError(f"{folder} is a file, expected {kinds}")
        raise BundleError(f"{folder} does not exist, expected a bundle; make one with: spd-export --out {folder}")
    if not (folder / MANIFEST).is_file():
        # A name that begins with a dot is an export that is still running or was killed.
        found = sorted(m.parent for m in folder.glob(f"*/{MANIFEST}") if not m.parent.name.startswith("."))
        if not found:
            raise BundleError(f"{folder} holds no bundle (no {MANIFEST}); make one with: spd-export --out {folder}")
        if len(found) > 1:
            raise BundleError(f"{folder} holds {len(found)} bundles, choose one of: {', '.join(map(str, found))}")
        folder = found[0]
    manifest = folder / MANIFEST
    try:
        text = manifest.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{manifest} cannot be read ({error}); export the bundle again") from error
    return Bundle(folder, Manifest.from_json(text, str(manifest)))
