"""`spd-bulk` on a real Ray of this machine: values, photos that cannot be used, what is done stays done, kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import spd
from spd.bundle.manifest import MANIFEST, FileRecord
from spd.points import Pattern

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def make_photos(folder: Path, count: int, bad: int) -> None:
    """Photos of noise, of which some are broken."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / f"{index:04}.png")
    for index in range(0, count, count // bad) if bad else ():
        (folder / f"{index:04}.png").write_text("no image")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "spd.bulk.cli", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, check=False)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows, as anyone's Parquet reader finds them."""
    rows: list[dict[str, Any]] = parquet.read_table(folder).to_pylist()
    return rows


def test_depths_are_those_of_the_scene(exported: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "depths"
    make_photos(photos, 7, bad=1)
    options = ("--points", "grid:9", "--out", out, "--engines", exported, "--backend", "onnxruntime-cpu", "--part", 3)
    done = run(f"file://{photos}", *options)
    assert done.returncode == 0, done.stderr
    assert "0000.png is not an image" in done.stderr
    assert "7 photos in" in done.stderr
    assert "ray" not in done.stderr.lower().replace("starting ray", "")
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [f"file://{photos}/{index:04}.png" for index in range(7)]
    digest = FileRecord.of(exported / MANIFEST).sha256
    points = Pattern("grid", 9).table(40, 30).points
    with spd.load(exported, "onnxruntime-cpu") as model:
        for index, row in enumerate(rows):
            assert row["bundle"] == digest
            if index == 0:
                assert "not an image" in row["error"]
                assert row["depth"] is None
                continue
            assert row["error"] is None
            np.testing.assert_allclose(np.column_stack([row["u"], row["v"]]), points, atol=1e-5)
            with model.encode(photos / f"{index:04}.png") as scene:
                np.testing.assert_allclose(row["depth"], scene.depth(points), rtol=1e-6)

    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = run(f"file://{photos}", *options)
    assert again.returncode == 0
    assert "7 photos are done already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_points_outside_a_photo_are_null_and_a_fault_ends_the_job(exported: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "depths"
    make_photos(photos, 1, bad=0)
    (tmp_path / "points.csv").write_text("u,v\n5,5\n500,5\n")
    options = ("--points", tmp_path / "points.csv", "--engines", exported, "--out")
    refused = run(photos, *options, out, "--backend", "tensorrt-rtx")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("Error: ")
    assert run(photos, *options, out).returncode == 0
    (row,) = rows_of(out)
    assert row["depth"][0] > 0
    assert row["depth"][1] is None
    assert "1 of 2 points are outside" in row["error"]


def test_bad_arguments_are_one_line(exported: Path, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1, bad=0)
    (tmp_path / "points.csv").write_text("image,u,v\na.png,5,5\n")
    for arguments, said in (
        ((tmp_path / "nothing", "--points", "grid:9", "--engines", exported), "does not exist"),
        ((tmp_path / "photos", "--points", tmp_path / "points.csv", "--engines", exported), "has a column image"),
        ((tmp_path / "photos", "--points", "grid:9", "--engines", tmp_path), "holds no bundle"),
    ):
        done = run(*arguments, "--out", tmp_path / "out")
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("Error: ")
        assert said in last


@pytest.mark.slow
def test_a_job_that_is_killed_loses_and_doubles_nothing(exported: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "depths"
    make_photos(photos, 500, bad=10)
    arguments = command(photos, "--points", "grid:64", "--out", out, "--engines", exported, "--part", 10)
    for kill, parts in ((signal.SIGKILL, 2), (signal.SIGKILL, 5)):
        process = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("part-*"))) < parts:
            time.sleep(0.05)
        process.send_signal(kill)
        assert process.wait() == -kill
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "photos are done already" in done.stderr
    rows = rows_of(out)
    assert sorted(row["image"] for row in rows) == sorted(str(path) for path in photos.iterdir())
    assert sum(row["depth"] is None for row in rows) == 10
    assert all(len(row["depth"]) == 64 for row in rows if row["depth"] is not None)


@pytest.mark.slow
def test_ctrl_c_ends_a_job_cleanly(exported: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "depths"
    make_photos(photos, 300, bad=0)
    arguments = command(photos, "--points", "grid:64", "--out", out, "--engines", exported, "--part", 10)
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob("part-*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "Interrupted."
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
