"""On a CPU each thread decodes tiles of the points; nobody can tell from the depths."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import spd
from spd.bundle import Bundle, open_bundle
from spd.bundle.reference import read_reference
from spd.errors import BackendError
from spd.runtime.onnx_runtime import OnnxRuntimeBackend
from spd.runtime.openvino_backend import OpenVinoBackend
from spd.runtime.tiled import TILE, TiledBackend

CPU = ("onnxruntime-cpu", "openvino")
Tiled = tuple[TiledBackend, Any, NDArray[np.float32], NDArray[np.float32]]


def on_onnxruntime(bundle: Bundle, threads: int) -> TiledBackend:
    return OnnxRuntimeBackend(bundle, "onnxruntime-cpu", "fp32", threads)


def on_openvino(bundle: Bundle, threads: int) -> TiledBackend:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spd.runtime.openvino_backend.cores", lambda: threads)  # it takes no more threads than cores
        return OpenVinoBackend(bundle, "fp32", threads)


@pytest.fixture(scope="module", params=[on_onnxruntime, on_openvino])
def tiled(request: pytest.FixtureRequest, exported: Path) -> Tiled:
    """A backend of three threads, a cache, points, and what one thread answers to all of them in one call.

    The points are those of the gate whose routes do not depend on rounding.
    """
    bundle = open_bundle(exported)
    reference = read_reference(bundle)
    image, points = reference.images[:1], reference.points[:1, ~reference.undecided[0]]
    alone = on_onnxruntime(bundle, threads=1)
    expected = alone.decode(alone.encode(image), points)
    assert len(np.unique(expected)) > 450, "points answer alike, so their order would not show"
    backend = request.param(bundle, threads=3)
    return backend, backend.encode(image), points, expected


@settings(deadline=None, max_examples=25)
@given(first=st.integers(0, 200), count=st.integers(1, 300))
def test_tiles_answer_what_one_call_answers(tiled: Tiled, first: int, count: int) -> None:
    backend, cache, points, expected = tiled
    got = backend.decode(cache, points[:, first : first + count])
    np.testing.assert_allclose(got, expected[:, first : first + count], rtol=1e-5)


@pytest.mark.parametrize(
    ("count", "sizes", "filled_up"),
    [
        (1, [1], [1]),
        (8, [8], [8]),
        (9, [8, 1], [8, 1]),
        (24, [8] * 3, [8] * 3),
        (100, [34, 34, 32], [34, 34, 32]),
        (200, [34] * 5 + [30], [64, 3, 64, 3, 64, 2]),
    ],
)
def test_points_are_shared_out(
    tiled: Tiled, count: int, sizes: list[int], filled_up: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In equal tiles, or, where tiles are filled up to a size, in as many full ones as there are."""
    backend, cache, points, _ = tiled
    if isinstance(backend, OpenVinoBackend):
        sizes = filled_up
    decode, asked = backend.decode_tile, []

    def recorded(cache: dict[str, Any], part: NDArray[np.float32]) -> NDArray[np.float32]:
        asked.append(part.shape[1])
        return decode(cache, part)

    monkeypatch.setattr(backend, "decode_tile", recorded)
    backend.decode(cache, points[:, :count])
    assert sorted(asked) == sorted(sizes)
    assert max(asked) <= TILE[1]


def decoding_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("spd-decode")}


@pytest.mark.parametrize("backend_name", CPU)
def test_a_closed_model_decodes_for_its_open_scenes_as_before(
    exported: Path, backend_name: str, points: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tiles, on the same threads, which end with the last scene."""
    points, others = points[:200], decoding_threads()
    model = spd.load(exported, backend_name, threads=2)
    scene = model.encode(np.full((160, 192, 3), 99, np.uint8))
    before = scene.depth(points)
    own = decoding_threads() - others
    assert len(own) == 2
    backend = model._open_residency().backend
    assert isinstance(backend, TiledBackend)
    tiles = len(backend.tiles(points[None].astype(np.float32)))
    asked, decode = [], type(backend).decode_tile

    def recorded(*arguments: Any) -> NDArray[np.float32]:
        asked.append(threading.current_thread())
        return decode(*arguments)

    monkeypatch.setattr(type(backend), "decode_tile", recorded)
    model.close()
    np.testing.assert_array_equal(scene.depth(points), before)
    assert len(asked) == tiles == 4
    assert set(asked) <= own
    scene.close()
    monkeypatch.undo()
    asked.clear()
    del model, backend, scene
    gc.collect()
    for thread in own:
        thread.join(30)
    assert not own & decoding_threads()


@pytest.mark.parametrize("backend_name", CPU)
@pytest.mark.parametrize("tiles", [1, 2])
def test_threads_that_cannot_be_started(
    exported: Path, backend_name: str, monkeypatch: pytest.MonkeyPatch, tiles: int, points: NDArray[np.float64]
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with spd.load(exported, backend_name, threads=2) as model:
        scene = model.encode(np.zeros((160, 192, 3), np.uint8))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            if tiles == 1:
                assert scene.depth(points[:5]).shape == (5,)
                return
            with pytest.raises(
                BackendError, match=r"cannot start its 2 threads: can't start new thread; .*threads=1, or"
            ):
                scene.depth(points[:200])
        assert scene.depth(points[:200]).shape == (200,)


LIMITED = """
import ctypes, os, resource, sys
import spd.runtime.onnx_runtime
import spd.runtime.openvino_backend
from spd import load
from spd.errors import BackendError
if os.getuid() == 0:
    os.setresuid(64999, 64999, 0)  # the limit does not hold for root
    ctypes.CDLL(None).setfsuid(0)  # who owns the files
resource.setrlimit(resource.RLIMIT_NPROC, (9, 9))
spd.runtime.openvino_backend.import_openvino()
spd.runtime.openvino_backend.cores = lambda: 40
load(sys.argv[1], sys.argv[2], threads=1)
try:
    load(sys.argv[1], sys.argv[2], threads=40)
except BackendError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limit of processes as Linux does")
@pytest.mark.parametrize("backend_name", CPU)
def test_a_limit_of_processes(exported: Path, backend_name: str) -> None:
    """A real one, under which ONNX Runtime would hang: it can start some of its threads."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(exported), backend_name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{backend_name} cannot start its 40 threads: ")
    assert "such as threads=1, or raise the limit of processes (ulimit -u)" in done.stdout
    assert done.stdout.count("\n") == 1
