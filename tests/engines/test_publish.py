"""Plans get into a bundle whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engines import publish as publishing
from engines.publish import REPORT, publish, read_report
from spd.bundle import Bundle, open_bundle
from spd.bundle.plans import PlanProfile, PlanRecord, Target
from spd.errors import BundleError
from spd.staging import staging

HERE = Target("10.16.1.11", "13.0", "13.0", "NVIDIA H200", "9.0")


def records(precision: str) -> tuple[PlanRecord, ...]:
    return tuple(
        PlanRecord(
            graph=graph,
            precision=precision,
            file=f"{graph}.{precision}.engine",
            target=HERE,
            hardware_compatibility="none",
            profiles=(PlanProfile((1, 1, 1), None if graph == "encoder" else (1, 64, 64)),),
            options={},
        )
        for graph in ("encoder", "decoder")
    )


def add(path: Path, precision: str, content: bytes) -> None:
    with staging(path, "spd-build") as folder:
        for record in records(precision):
            (folder / record.file).write_bytes(content)
        publish(open_bundle(path), folder, records(precision), {("tensorrt", precision): {"by": content.decode()}})


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def check_whole(path: Path) -> Bundle:
    """Every file is in the manifest and the one that it names."""
    bundle = open_bundle(path)
    assert {file.name for file in path.iterdir()} == {*bundle.manifest.files, "manifest.json"}
    for name in bundle.manifest.files:
        bundle.file(name)
    return bundle


def test_plans_are_listed_with_their_sha256(bundle: Path) -> None:
    add(bundle, "fp16", b"plan")
    found = check_whole(bundle)
    assert found.manifest.engines == records("fp16")
    assert found.file("encoder.fp16.engine").read_bytes() == b"plan"
    assert read_report(found) == {"tensorrt": {"fp16": {"by": "plan"}}}


def test_plans_of_other_precisions_stay(bundle: Path) -> None:
    add(bundle, "fp16", b"first")
    add(bundle, "bf16", b"second")
    add(bundle, "fp16", b"third")
    found = check_whole(bundle)
    assert {(e.precision, found.file(e.file).read_bytes()) for e in found.manifest.engines} == {
        ("fp16", b"third"),
        ("bf16", b"second"),
    }
    assert read_report(found) == {"tensorrt": {"bf16": {"by": "second"}, "fp16": {"by": "third"}}}


def test_nothing_changes_when_the_disk_is_full(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(bundle, "fp16", b"first")
    before = content(bundle)

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(publishing, "_write_text", full)
    with pytest.raises(OSError, match="No space left"):
        add(bundle, "fp16", b"second")
    assert content(bundle) == before


def test_links_are_replaced_and_what_they_lead_to_stays(bundle: Path, tmp_path: Path) -> None:
    """As in the cache of a model hub, whose contents belong to other versions of the bundle too."""
    add(bundle, "fp16", b"first")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(bundle.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    before = content(blobs)
    add(bundle, "bf16", b"second")
    add(bundle, "fp16", b"third")
    assert content(blobs) == before
    found = check_whole(bundle)
    assert found.file("encoder.fp16.engine").read_bytes() == b"third"
    assert {path.name for path in bundle.iterdir() if not path.is_symlink()} == {
        "manifest.json",
        REPORT,
        *(record.file for precision in ("fp16", "bf16") for record in records(precision)),
    }


class Killed(BaseException):
    """Stands for a kill: nothing may be cleaned up."""


@pytest.mark.parametrize("renames", range(5))
def test_a_build_killed_while_it_publishes_leaves_a_usable_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    add(bundle, "bf16", b"other")
    add(bundle, "fp16", b"first")
    real, count = os.replace, 0
    victim = bundle / ".spd-build.0123abcd.partial"
    victim.mkdir()
    victim.with_suffix(".lock").touch()
    for record in records("fp16"):
        (victim / record.file).write_bytes(b"second")

    def killed(source: Any, target: Any) -> None:
        nonlocal count
        if Path(target).parent == bundle:
            count += 1
            if count > renames:
                raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        publish(open_bundle(bundle), victim, records("fp16"), {("tensorrt", "fp16"): {}})
    monkeypatch.undo()
    found = open_bundle(bundle)
    for name in found.manifest.files.keys() - {REPORT}:
        found.file(name)
    assert {engine.precision for engine in found.manifest.engines} == ({"bf16", "fp16"} if renames == 0 else {"bf16"})
    add(bundle, "fp16", b"third")
    assert check_whole(bundle).file("decoder.fp16.engine").read_bytes() == b"third"


def test_a_damaged_report_is_refused(bundle: Path) -> None:
    add(bundle, "fp16", b"plan")
    (bundle / REPORT).write_text("[]")
    with pytest.raises(BundleError, match=r"engines\.json is not the file that was exported"):
        read_report(open_bundle(bundle))
