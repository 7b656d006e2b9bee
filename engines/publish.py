"""Putting plans into a bundle: everything is written to a hidden folder of it first, then renamed into place."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.progress import on_interrupt
from spd.bundle import Bundle
from spd.bundle.manifest import MANIFEST, REPORT, FileRecord, Manifest
from spd.bundle.plans import PlanRecord
from spd.errors import BundleError
from spd.files import write_atomically


def staged_bundle(bundle: Bundle, folder: Path, records: tuple[PlanRecord, ...]) -> Bundle:
    """A bundle whose plans are `records`, which lie in `folder`, for running them before they are published."""
    files = {**bundle.manifest.files, **{r.file: FileRecord.of(folder / r.file) for r in records}}
    return Bundle(folder, replace(bundle.manifest, files=files, engines=records))


def read_report(bundle: Bundle) -> dict[str, Any]:
    """`engines.json` of the plans that the bundle has; empty if it has none.

    Raises:
        BundleError: the file is missing or changed.
    """
    if REPORT not in bundle.manifest.files:
        return {}
    try:
        report = json.loads(bundle.file(REPORT).read_text(encoding="utf-8"))
    except ValueError:
        report = None
    if not isinstance(report, dict):
        raise BundleError(f"{bundle.path / REPORT} is not a JSON object; build all precisions again with --force")
    return report


def publish(
    bundle: Bundle, folder: Path, records: tuple[PlanRecord, ...], report: dict[tuple[str, str], dict[str, Any]]
) -> Manifest:
    """Move the plans of `folder` into the bundle and list them; plans of other flavours and precisions stay.

    Everything is written before anything is renamed. While plans are replaced the manifest lists none of them: a build
    that is killed at any point leaves a bundle that is whole, at worst without these engines.

    Args:
        bundle: as it is on disk now.
        folder: with the plans, on the same disk; a plan that is not there is in the bundle already.
        records: the plans.
        report: what to say in `engines.json`, by flavour and precision.

    Returns:
        The bundle's new manifest.

    Raises:
        OSError: a file cannot be written or renamed.
    """
    manifest = bundle.manifest
    kept = tuple(engine for engine in manifest.engines if (engine.flavour, engine.precision) not in report)
    replaced = {engine.file for engine in manifest.engines if engine not in kept}
    staying = {record.file for record in records if not (folder / record.file).exists()}
    dropped = (replaced - staying) | {REPORT}
    files = {name: record for name, record in manifest.files.items() if name not in dropped}
    whole = tuple(engine for engine in manifest.engines if engine in kept or engine.file in staying)
    between = replace(manifest, files=files, engines=whole)

    document: dict[str, dict[str, Any]] = {}
    old = read_report(bundle)
    for engine in kept:
        if (entry := old.get(engine.flavour, {}).get(engine.precision)) is not None:
            document.setdefault(engine.flavour, {})[engine.precision] = entry
    for (flavour, precision), entry in report.items():
        document.setdefault(flavour, {})[precision] = entry
    _write_text(folder / REPORT, json.dumps(document, indent=2, allow_nan=False) + "\n")
    moving = [*(record.file for record in records if record.file not in staying), REPORT]
    new = {name: FileRecord.of(folder / name) for name in moving}
    final = replace(manifest, files={**files, **new}, engines=(*kept, *records))
    _write_text(folder / "between.json", between.to_json())
    _write_text(folder / MANIFEST, final.to_json())
    with on_interrupt(lambda: None):  # a dozen renames
        os.replace(folder / "between.json", bundle.path / MANIFEST)
        for name in dropped - new.keys():
            with suppress(OSError):
                (bundle.path / name).unlink()
        for name in new:
            os.replace(folder / name, bundle.path / name)
        os.replace(folder / MANIFEST, bundle.path / MANIFEST)
    return final


def _write_text(path: Path, text: str) -> None:
    with write_atomically(path) as file:
        file.write(text.encode())
