"""In a forked process a model refuses at once, and neither its end nor the process's end hangs or touches a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorrt_support import add_engines

import spd

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

LOADED = """
import gc, multiprocessing, os, sys
import numpy as np
import spd
from spd.errors import SPDError
IMAGE = np.full((160, 192, 3), 99, np.uint8)
POINTS = [(i, i) for i in range(100)]
model = spd.load(sys.argv[1], **eval(sys.argv[2]))
scene = model.encode(IMAGE)
scene.depth(POINTS)

def refusal(ask):
    try:
        return ask()
    except SPDError as error:
        return f"refused: {error}"

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""

SCRIPTS = {
    "every call": """
def work():
    print(refusal(lambda: scene.depth(POINTS)))
    print(refusal(lambda: scene.depth([])))
    print(refusal(lambda: model.encode(IMAGE)), flush=True)
in_child(work)
""",
    "a pool": """
def ask(number):
    return scene.depth(POINTS[:number])
with multiprocessing.get_context("fork").Pool(2) as pool:
    for number in (1, 0, 100):
        print(refusal(lambda: pool.map(ask, [number])))
""",
    "closed": """
def work():
    global model, scene
    scene.close()
    model.close()
    del model, scene
    gc.collect()
    print("refused: ", flush=True)
for _ in range(3):
    in_child(work)
""",
    "loaded again": """
def work():
    again = spd.load(sys.argv[1], **eval(sys.argv[2]))
    same = np.allclose(again.encode(IMAGE).depth(POINTS), expected, rtol=1e-5)
    print("refused: " if same else "wrong", flush=True)
expected = scene.depth(POINTS)
for _ in range(3):
    in_child(work)
""",
}


@pytest.mark.parametrize(
    ("backend", "script"),
    [
        *((backend, script) for backend in ("onnxruntime-cpu", "openvino") for script in SCRIPTS),
        ("torch", "every call"),
    ],
)
def test_in_a_process_of_its_own(exported: Path, checkpoint: Path, backend: str, script: str) -> None:
    """After the children, the parent's model still works."""
    path, options = (checkpoint, {"size": (160, 192)}) if backend == "torch" else (exported, {"threads": 3})
    code = LOADED + SCRIPTS[script] + "print(scene.depth(POINTS).shape)"
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            code,
            str(path),
            repr({"backend": backend, **options}),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *refused, last = done.stdout.splitlines()
    assert last == "(100,)"
    assert len(refused) == 3
    assert all(line.startswith("refused: ") for line in refused)
    if script in ("every call", "a pool"):
        assert all("was forked; load it in each process, after the fork only, or start" in line for line in refused)


def forked(work: Callable[[], str]) -> str:
    """What `work` returns in a forked process."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads, which is what is tested
        child = os.fork()
    if child == 0:
        try:
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.timeout(60)
def test_tensorrt_is_left_alone(tensorrt_11: Any, bundle: Path, rooms, points, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a query, nor the end of a scene or of everything, makes a single call of CUDA or TensorRT."""
    from spd.runtime.tensorrt import cuda  # the one in use

    model: Any = spd.load(add_engines(bundle), backend="tensorrt")
    scenes = [model.encode(room) for room in rooms]
    for _ in range(3):
        expected = scenes[0].depth(points[:10])
    tensorrt_11.counts.reset()

    def work() -> str:
        nonlocal model
        calls: list[str] = []
        for kind, names in ((cuda.Gpu, ("use", "close")), (cuda.DeviceBuffer, ("close",)), (cuda.Stream, ("sync",))):
            for name in names:
                setattr(kind, name, lambda *_, name=name: calls.append(name))
        said = []
        for ask in (lambda: scenes[0].depth([(1, 1)]), lambda: model.encode(rooms[0])):
            try:
                ask()
            except spd.errors.SPDError as error:
                said.append("was forked" in str(error))
        scenes.pop().close()
        model.close()
        model = None
        scenes.clear()
        weakref.finalize._exitfunc()  # type: ignore[attr-defined] # what runs when a process ends
        return repr((said, calls, dict(tensorrt_11.counts.events)))

    live = {name: count for name, count in tensorrt_11.counts.events.items() if name.startswith("live_")}
    assert forked(work) == repr(([True, True], [], live))
    np.testing.assert_array_equal(scenes[0].depth(points[:10]), expected)
