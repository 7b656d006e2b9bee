"""Bundles: one folder with both graphs, `manifest.json` that describes them, and `parity.json` that proves them."""

from spd.bundle.manifest import GRAPHS, MANIFEST, PARITY, FileRecord, Manifest
from spd.bundle.reading import Bundle, open_bundle

__all__ = ["GRAPHS", "MANIFEST", "PARITY", "Bundle", "FileRecord", "Manifest", "open_bundle"]
