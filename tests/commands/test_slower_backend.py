"""A command that runs a bundle with engines on a CPU says so in one line on standard error, whatever was asked."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from spd.bundle import GRAPHS, MANIFEST, FileRecord, open_bundle
from spd.bundle.plans import PlanProfile, PlanRecord, Target

# Of a GPU that nobody has, so that the test also holds on a machine with TensorRT.
GONE = Target("10.16.1.11", "13.0", "13.0", "NVIDIA H999", "99.0")


@pytest.fixture
def with_engines(bundle: Path) -> Path:
    """The bundle as it comes from another machine."""
    manifest = open_bundle(bundle).manifest
    records, files = [], dict(manifest.files)
    for graph in GRAPHS:
        plan = bundle / f"{graph}.fp16.engine"
        plan.write_bytes(b"a plan")
        files[plan.name] = FileRecord.of(plan)
        profile = PlanProfile((1, 1, 1), None if graph == "encoder" else (1, 64, 64))
        records.append(PlanRecord(graph, "fp16", plan.name, GONE, "none", (profile,), {}))
    manifest = replace(manifest, engines=tuple(records), files=files)
    (bundle / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return bundle


API = "import sys, spd\nspd.load(sys.argv[1])"
COMMANDS = {
    "api": ["-c", API, "BUNDLE"],
    "infer": ["-m", "spd.commands.infer.cli", "PHOTO", "--points", "grid:4", "--engines", "BUNDLE"],
    "infer -v": ["-m", "spd.commands.infer.cli", "PHOTO", "--points", "grid:4", "--engines", "BUNDLE", "-v"],
    "eval": ["-m", "spd.commands.evaluate", "BUNDLE", "--data", "rooms", "--images", "1", "--k", "1", "--no-dense"],
}


def run(how: str, bundle: Path, photo: Path) -> list[str]:
    """Lines on standard error."""
    places = {"BUNDLE": str(bundle), "PHOTO": str(photo)}
    command = [sys.executable, *(places.get(word, word) for word in COMMANDS[how])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("how", COMMANDS)
def test_it_is_said_once_why_engines_are_not_used(with_engines: Path, photo: Path, how: str) -> None:
    lines = run(how, with_engines, photo)
    (line,) = (line for line in lines if "slower than what it was made for: " in line)
    assert f" is used for {with_engines}, " in line
    reason = line.partition("made for: ")[2].split(";")[0]
    assert sum(reason in line for line in lines) == 1


@pytest.mark.parametrize("how", COMMANDS)
def test_a_bundle_without_engines_is_silent_on_a_machine_without_a_gpu(exported: Path, photo: Path, how: str) -> None:
    from spd.runtime.devices import cuda_missing

    if cuda_missing() is None:
        pytest.skip("this machine has a GPU")
    assert not [line for line in run(how, exported, photo) if "slower" in line]
