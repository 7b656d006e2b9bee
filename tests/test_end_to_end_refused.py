"""Bad bundles, images and points through the real `spd-infer`: one line says what is wrong, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spd.data.rooms import render_room

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
GOOD = ("a.jpg", "--points", "pts.csv", "--engines")


def run(folder: Path, *arguments: str | Path, **options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spd.commands.infer.cli", *map(str, arguments)]
    environment = {**ENVIRONMENT, **options}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The current folder of a user: a.jpg and pts.csv, and some files that are broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(render_room(1, 120, 160).image).save(folder / "a.jpg")
    (folder / "pts.csv").write_text("u,v\n1,2\n159.5,119.5\n")
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-2000])
    (folder / "text.png").write_text("not an image")
    np.save(folder / "rgb.npy", np.zeros((4, 4, 3)))
    (folder / "nothing").mkdir()
    for name, rows in {"outside": "1,2\n160,0\n", "nan": "1,nan\n", "words": "a,b\n", "wide": "1,2,3\n"}.items():
        (folder / f"{name}.csv").write_text(f"u,v\n{rows}")
    return folder


def refused(done: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *before, last = done.stderr.splitlines()
    assert last.startswith("Error: ")
    assert message in last
    assert bool(before) == (code == 2)  # usage comes first


REQUESTS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no image": (("none.jpg", "--points", "pts.csv"), 1, "none.jpg does not exist"),
    "empty image": (("empty.jpg", "--points", "pts.csv"), 1, "empty.jpg is empty (0 bytes)"),
    "image cut off": (("cut.jpg", "--points", "pts.csv"), 1, "cut.jpg is damaged or cut off"),
    "text": (("text.png", "--points", "pts.csv"), 1, "text.png is not an image"),
    "array": (("rgb.npy", "--points", "pts.csv"), 1, "rgb.npy is not an image"),
    "folder without images": (("nothing", "--points", "pts.csv"), 1, "nothing holds no images"),
    "no points": (("a.jpg", "--points", "none.csv"), 1, "none.csv does not exist"),
    "point outside": (("a.jpg", "--points", "outside.csv"), 1, "outside.csv row 3: point (160, 0) is outside a.jpg"),
    "NaN": (("a.jpg", "--points", "nan.csv"), 1, "nan.csv row 2: column v is 'nan'"),
    "words": (("a.jpg", "--points", "words.csv"), 1, "words.csv row 2: column u is 'a'"),
    "three columns": (("a.jpg", "--points", "wide.csv"), 1, "wide.csv row 2 has 3 columns, expected 2"),
    "tensorrt": ((*GOOD[:3], "--backend", "tensorrt"), 1, "tensorrt cannot run"),
    "bf16": ((*GOOD[:3], "--precision", "bf16", "--backend", "onnxruntime-cpu"), 1, "cannot run bf16"),
    "bundle on torch": ((*GOOD[:3], "--backend", "torch"), 1, "torch runs checkpoints"),
    "unknown backend": ((*GOOD[:3], "--backend", "gpu"), 2, "'gpu' is not one of"),
    "no folder for --out": ((*GOOD[:3], "--out", "none/out.csv"), 2, "the folder of none/out.csv does not exist"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), REQUESTS.values(), ids=REQUESTS)
def test_requests_that_cannot_be_answered(
    photos: Path, exported: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = sorted(photos.rglob("*"))
    out = () if "--out" in arguments else ("--out", "out.csv")
    done = run(photos, *arguments, *out, "--picture", "pictures/", "--engines", exported)
    refused(done, code, message)
    assert sorted(photos.rglob("*")) == before


def missing(bundle: Path) -> Path:
    shutil.rmtree(bundle.parent)
    return bundle.parent


def without_a_bundle(bundle: Path) -> Path:
    shutil.rmtree(bundle)
    return bundle.parent


def incomplete(bundle: Path) -> Path:
    (bundle / "decoder.fp32.onnx").unlink()
    return bundle.parent


def changed(bundle: Path) -> Path:
    """One bit in the middle of the weights."""
    path = bundle / "encoder.fp32.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # as it is linked to the shared one
    path.write_bytes(data)
    return bundle


def edited(bundle: Path, *keys: str, value: object) -> Path:
    """The manifest with the value of root[keys[0]][keys[1]]... replaced."""
    path = bundle / "manifest.json"
    root = json.loads(path.read_text(encoding="utf-8"))
    section = root
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    path.write_text(json.dumps(root), encoding="utf-8")
    return bundle


def several(bundle: Path) -> Path:
    """A second bundle beside it, and one that is still being written."""
    for name in ("other", ".unfinished"):
        (bundle.parent / name).mkdir()
        shutil.copy(bundle / "manifest.json", bundle.parent / name)
    return bundle.parent


BUNDLES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (missing, "engines does not exist, expected a bundle"),
    "no bundle": (without_a_bundle, "engines holds no bundle (no manifest.json); make one with: spd-export"),
    "incomplete": (incomplete, "decoder.fp32.onnx is missing: the bundle is incomplete"),
    "changed": (changed, "encoder.fp32.onnx is not the file that was exported (its sha256 differs"),
    "newer": (lambda bundle: edited(bundle, "format_version", value=999), "format version 999, this spd-depth reads"),
    "leaves the folder": (
        lambda bundle: edited(bundle, "graphs", "fp32", "encoder", value="../encoder.fp32.onnx"),
        "names the file '../encoder.fp32.onnx', which is not inside the bundle",
    ),
    "other tensors": (lambda bundle: edited(bundle, "size", value=[160, 224]), "lists other tensors"),
    "no JSON": (lambda bundle: shutil.copy(bundle / "encoder.fp32.onnx", bundle / "manifest.json").parent, "cannot be"),
}


@pytest.mark.parametrize(("damage", "message"), BUNDLES.values(), ids=BUNDLES)
def test_bundles_that_cannot_be_used(photos: Path, bundle: Path, damage: Callable[[Path], Path], message: str) -> None:
    engines = damage(bundle)
    before = sorted(photos.rglob("*"))
    refused(run(photos, *GOOD, engines, "--out", "out.csv"), 1, message)
    assert sorted(photos.rglob("*")) == before


def test_several_bundles_are_listed(photos: Path, bundle: Path) -> None:
    engines = several(bundle)
    done = run(photos, *GOOD, engines)
    refused(done, 1, f"{engines} holds 2 bundles, choose one of: {bundle}, {engines / 'other'}")
    assert ".unfinished" not in done.stderr
    assert run(photos, *GOOD, bundle).returncode == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(photos: Path, exported: Path) -> None:
    locked = photos / "nothing"
    locked.chmod(0o555)
    refused(run(photos, *GOOD, exported, "--out", "nothing/out.csv"), 2, "the folder of nothing/out.csv is read-only")
    locked.chmod(0o755)
    assert list(locked.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk(photos: Path, exported: Path, unbuffered: str) -> None:
    (photos / "out.csv").symlink_to("/dev/full")
    done = run(photos, *GOOD, exported, "--out", "out.csv", PYTHONUNBUFFERED=unbuffered)
    note, error = done.stderr.splitlines()
    assert note.startswith("Note: ")
    assert (done.returncode, error) == (1, "Error: out.csv: No space left on device")
    assert (photos / "out.csv").is_symlink()
