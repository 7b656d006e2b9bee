"""Bundles: one folder with both graphs, what describes them (`manifest.json`), and what proves them.

`parity.json` is the proof of the graphs, `gate.npz` what other forms of them are proven against.
"""

from spd.bundle.manifest import GATE, GRAPHS, MANIFEST, PARITY, FileRecord, Manifest
from spd.bundle.reading import Bundle, open_bundle

__all__ = ["GATE", "GRAPHS", "MANIFEST", "PARITY", "Bundle", "FileRecord", "Manifest", "open_bundle"]
