"""The backend `tensorrt-rtx`: what differs from TensorRT, on a stand-in for the runtime of TensorRT for RTX."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from tensorrt_support import EDGES, add_engines, nothing_left, replace_records, rewrite

import spd
from engines.cli import main as spd_build
from spd.bundle import open_bundle
from spd.bundle.plans import RtxTarget
from spd.cache_files import remove_oldest
from spd.errors import BackendError

CONTEXTS = 1 + len(EDGES)
"""The encoder, and the decoder at each bucket."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "spd-depth"


@pytest.fixture
def engines(tensorrt_rtx: Any, bundle: Path) -> Path:
    """A bundle with proven float32 engines for the RTX 4090."""
    return add_engines(bundle, capabilities=("8.6", "8.9"))


def ask_every_bucket(folder: Path, room: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Load, encode, and ask once at each K of `EDGES`; the model is gone at the end."""
    points = np.random.default_rng(0).uniform(1, 150, (EDGES[-1], 2))
    with spd.load(folder, backend="tensorrt-rtx") as model:
        scene = model.encode(room)
        return [scene.depth(points[:count]) for count in EDGES]


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("kernels_*.cache"))


def test_depths_are_those_of_onnxruntime(engines: Path, tensorrt_rtx: Any, rooms, points: NDArray[np.float64]) -> None:
    with nothing_left(tensorrt_rtx), spd.load(engines) as model, spd.load(engines, "onnxruntime-cpu") as cpu:
        assert (model.backend, model.precision) == ("tensorrt-rtx", "fp32")
        assert len(model.notes) == 1
        assert model.notes[0].startswith("tensorrt cannot run"), "it is tried first"
        scene, expected = model.encode(rooms[0]), cpu.encode(rooms[0]).depth(points)
        for _ in range(3):  # plain, captured, launched
            np.testing.assert_allclose(scene.depth(points), expected, rtol=1e-5)
        scene.close()
        del scene, model, cpu
    assert tensorrt_rtx.counts.events["captures"] > 0, "with CUDA graphs, as on TensorRT"


def test_kernels_are_compiled_once_for_a_machine(engines: Path, tensorrt_rtx: Any, cache: Path, rooms) -> None:
    first = ask_every_bucket(engines, rooms[0])
    assert tensorrt_rtx.counts.events["compiled_kernels"] == CONTEXTS
    assert len(kept(cache)) == 2, "a file for each plan"
    tensorrt_rtx.counts.reset()
    for before, after in zip(first, ask_every_bucket(engines, rooms[0]), strict=True):
        np.testing.assert_array_equal(before, after)
    assert tensorrt_rtx.counts.events["compiled_kernels"] == 0

    tensorrt_rtx.driver += 10  # a newer driver may compile better
    ask_every_bucket(engines, rooms[0])
    assert tensorrt_rtx.counts.events["compiled_kernels"] == CONTEXTS
    assert len(kept(cache)) == 4


def test_kernels_that_are_damaged_or_of_another_machine_are_compiled_again(
    engines: Path, tensorrt_rtx: Any, cache: Path, rooms
) -> None:
    ask_every_bucket(engines, rooms[0])
    encoder, decoder = kept(cache)
    data = bytearray(encoder.read_bytes())
    data[-1] ^= 1
    encoder.write_bytes(data)
    # A whole file whose kernels the library itself refuses.
    header, _, body = decoder.read_bytes().partition(b"\n")
    changed = body.replace(b"RTX 4090", b"RTX 3060")
    decoder.write_bytes(
        json.dumps({**json.loads(header), "sha256": sha256(changed).hexdigest()}).encode() + b"\n" + changed
    )
    tensorrt_rtx.counts.reset()
    ask_every_bucket(engines, rooms[0])
    assert tensorrt_rtx.counts.events["compiled_kernels"] == CONTEXTS
    tensorrt_rtx.counts.reset()
    ask_every_bucket(engines, rooms[0])
    assert tensorrt_rtx.counts.events["compiled_kernels"] == 0, "they were replaced by good ones"


def test_a_cache_folder_that_cannot_be_written_costs_time_only(
    engines: Path, tensorrt_rtx: Any, cache: Path, rooms, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.INFO, "spd.tensorrt"):
        ask_every_bucket(engines, rooms[0])
    assert any("the compiled kernels cannot be kept" in record.getMessage() for record in caplog.records)
    assert tensorrt_rtx.counts.events["compiled_kernels"] == CONTEXTS


def test_the_oldest_files_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / f"kernels_{name}.cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "timing_x.cache").write_bytes(bytes(1000))
    remove_oldest(tmp_path, "kernels_*.cache", 250)
    assert {path.name for path in tmp_path.iterdir()} == {"kernels_new.cache", "kernels_middle.cache", "timing_x.cache"}
    remove_oldest(tmp_path, "kernels_*.cache", 99)
    assert {path.name for path in tmp_path.iterdir()} == {"timing_x.cache"}


def refused(folder: Path, message: str) -> str:
    with pytest.raises(BackendError, match=message) as caught:
        spd.load(folder, backend="tensorrt-rtx")
    text = str(caught.value)
    assert text.endswith(f"rebuild it: spd-build {folder} --for rtx --precision fp32 --force")
    return text


def test_a_gpu_that_it_was_not_compiled_for(engines: Path, tensorrt_rtx: Any) -> None:
    tensorrt_rtx.gpu, tensorrt_rtx.compute_capability = "NVIDIA H100", (9, 0)
    text = refused(engines, r"compiled for compute capability 8\.6, 8\.9\) cannot run on NVIDIA H100")
    assert "(compute capability 9.0): unsupported cc;" in text
    assert tensorrt_rtx.counts.events["deserializations"] == 0


def test_another_version(engines: Path, tensorrt_rtx: Any) -> None:
    encoder, decoder = open_bundle(engines).manifest.engines
    older = RtxTarget("1.7.0.1", ("8.9",))
    replace_records(engines, replace(encoder, target=older), replace(decoder, target=older))
    refused(engines, rf"was built with TensorRT for RTX 1\.7\.0\.1, this is {tensorrt_rtx.version}")


def test_a_plan_that_is_none(engines: Path, tensorrt_rtx: Any) -> None:
    rewrite(engines, "encoder.fp32.rtx.engine", b"no plan at all")
    refused(engines, r"cannot run on NVIDIA GeForce RTX 4090 .*: malformed engine;")
    assert tensorrt_rtx.counts.events["deserializations"] == 0


def test_a_bundle_without_such_engines(tensorrt_rtx: Any, bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"has no TensorRT for RTX engines; build them: spd-build .* --for rtx"):
        spd.load(bundle, backend="tensorrt-rtx")
    assert spd.load(bundle).backend == "onnxruntime-cpu"


@pytest.fixture
def unproven(tensorrt_rtx: Any, bundle: Path) -> Path:
    """A bundle whose engines were compiled, not run; they take as many points as the cases of its gate."""
    add_engines(bundle, edges=(open_bundle(bundle).manifest.max_points,), capabilities=("8.9",))
    replace_records(bundle, *(replace(record, proven=False) for record in open_bundle(bundle).manifest.engines))
    return bundle


def test_an_unproven_engine_warns_once_and_is_proven_by_the_command_it_names(
    unproven: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = f"spd-build {unproven} --prove --for rtx --precision fp32"
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "spd"), spd.load(unproven, "tensorrt-rtx") as model:
            assert [note.endswith(command) for note in model.notes] == [True]
    assert [record.getMessage().endswith(command) for record in caplog.records] == [True]

    result = CliRunner().invoke(spd_build, command.split()[1:])
    assert result.exit_code == 0, result.stderr
    assert "fp32 is proven: largest error" in result.stderr
    manifest = open_bundle(unproven).manifest
    assert all(record.proven for record in manifest.engines)
    entry = json.loads(open_bundle(unproven).file("engines.json").read_text())["rtx"]["fp32"]
    assert entry["proof"]["passed"] is True
    assert entry["proof"]["machine"]["gpu"] == "NVIDIA GeForce RTX 4090"
    with spd.load(unproven, "tensorrt-rtx") as model:
        assert model.notes == []


def test_a_proof_that_fails_leaves_the_bundle_as_it_was(unproven: Path, tensorrt_rtx: Any) -> None:
    before = {path.name: path.read_bytes() for path in unproven.iterdir()}
    tensorrt_rtx.faults.nan_output = "depth"
    result = CliRunner().invoke(spd_build, [str(unproven), "--prove", "--for", "rtx"])
    assert result.exit_code == 1
    assert "the fp32 engines do not compute what the model computes" in result.stderr
    assert {path.name: path.read_bytes() for path in unproven.iterdir()} == before


def test_both_kinds_stand_in_one_bundle(engines: Path, use_tensorrt: Callable[[str], Any]) -> None:
    use_tensorrt("11.4.0.106")
    add_engines(engines)
    manifest = open_bundle(engines).manifest
    assert [(record.flavour, record.graph) for record in manifest.engines] == [
        ("rtx", "encoder"),
        ("rtx", "decoder"),
        ("tensorrt", "encoder"),
        ("tensorrt", "decoder"),
    ]
    with spd.load(engines) as model:
        assert (model.backend, model.notes) == ("tensorrt", [])
