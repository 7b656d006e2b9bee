"""The repository on a real Triton server on the CPU: sequences, one request, refusals, a restart."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

import spd
from engines.triton.cli import main

pytestmark = pytest.mark.slow

CLIENT = """
import json, sys
import numpy as np, tritonclient.http as http
port, folder = sys.argv[1:]
client = http.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=60)
steps = json.load(open(f"{folder}/steps.json"))
for step in steps:
    inputs = []
    for name, kind in (("IMAGE", "UINT8"), ("FILE", "UINT8"), ("POINTS", "FP32")):
        if name in step:
            array = np.load(f"{folder}/{step[name]}.npy")
            inputs.append(http.InferInput(name, array.shape, kind))
            inputs[-1].set_data_from_numpy(array)
    options = {key: step[key] for key in ("sequence_id", "sequence_start", "sequence_end") if key in step}
    try:
        print(json.dumps(client.infer(step["model"], inputs, **options).as_numpy("DEPTH").tolist()))
    except Exception as error:
        print(json.dumps(str(error)))
"""


def ask(python: Path, port: int, folder: Path, steps: list[dict[str, Any]]) -> list[Any]:
    """What the server answers to each step: depths, or the text of an error."""
    (folder / "steps.json").write_text(json.dumps(steps))
    done = subprocess.run([python, "-c", CLIENT, str(port), folder], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, NDArray[Any]]:
    """What clients send, also as files."""
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(2))
    Image.fromarray(second).save(tmp_path / "second.png")
    made = {
        "first": first,
        "second": second,
        "file": np.frombuffer((tmp_path / "second.png").read_bytes(), np.uint8),
        "broken": np.frombuffer(b"no image", np.uint8),
        "points": (rng.random((300, 2)) * (120, 90)).astype(np.float32),
        "outside": np.array([[130, 5]], np.float32),
    }
    for name, array in made.items():
        np.save(tmp_path / f"{name}.npy", array)
    return made


def test_sequences_and_single_requests(
    exported: Path, tmp_path: Path, triton_python: Path, serve: Callable[..., Any], arrays: dict[str, NDArray[Any]]
) -> None:
    out = tmp_path / "models"
    options = ["--backend", "onnxruntime-cpu", "--max-scenes", "2"]
    done = CliRunner().invoke(main, [str(exported), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    server = serve(out, ("spd", "spd_once"))

    def step(sequence: int, start: bool = False, end: bool = False, **names: str) -> dict[str, Any]:
        return {"model": "spd", "sequence_id": sequence, "sequence_start": start, "sequence_end": end, **names}

    answers = ask(
        triton_python,
        server.port,
        tmp_path,
        [
            step(7, start=True, IMAGE="first"),
            step(8, start=True, FILE="file", POINTS="points"),
            step(7, POINTS="points"),
            step(8, POINTS="points", end=True),
            step(7, IMAGE="second", POINTS="points", end=True),  # the next frame
            {"model": "spd_once", "IMAGE": "first", "POINTS": "points"},
            {"model": "spd_once", "FILE": "file", "POINTS": "points"},
            step(9, start=True, POINTS="points"),
            step(9, POINTS="points", IMAGE="first"),
            step(9, POINTS="outside"),
            step(9, FILE="broken"),
            step(7, POINTS="points"),
            {"model": "spd_once", "POINTS": "points"},
        ],
    )
    with spd.load(exported, "onnxruntime-cpu") as model:
        with model.encode(arrays["first"]) as scene:
            first = scene.depth(arrays["points"])
        with model.encode(arrays["second"]) as scene:
            second = scene.depth(arrays["points"])
    assert answers[0] == []
    for answer, expected in zip(answers[1:7], (second, first, second, second, first, second), strict=True):
        np.testing.assert_allclose(answer, expected, rtol=1e-6)
    assert "sequence 9 has no image" in answers[7]
    np.testing.assert_allclose(answers[8], first, rtol=1e-6)
    assert "outside the image" in answers[9]
    assert "image" in answers[10]
    assert "START" in answers[11]  # Triton's own: the sequence has ended
    assert "has no image" in answers[12]
    assert "Traceback" not in server.log.read_text(errors="replace")

    server.process.kill()
    again = serve(out, ("spd",))
    lost, begun = ask(
        triton_python,
        again.port,
        tmp_path,
        [step(9, POINTS="points"), step(9, start=True, IMAGE="first", POINTS="points")],
    )
    assert "START" in lost
    np.testing.assert_allclose(begun, first, rtol=1e-6)


def test_the_least_recently_used_scene_goes(
    exported: Path, tmp_path: Path, triton_python: Path, serve: Callable[..., Any], arrays: dict[str, NDArray[Any]]
) -> None:
    out = tmp_path / "models"
    CliRunner().invoke(main, [str(exported), "--out", str(out), "--max-scenes", "1"])
    # Triton itself holds back a second sequence; one that is begun anew takes the place of the first.
    config = out / "spd" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_candidate_sequences: 1", "max_candidate_sequences: 8"))
    server = serve(out, ("spd",))
    steps = [
        {"model": "spd", "sequence_id": 1, "sequence_start": True, "IMAGE": "first"},
        {"model": "spd", "sequence_id": 2, "sequence_start": True, "IMAGE": "second", "POINTS": "points"},
        {"model": "spd", "sequence_id": 1, "POINTS": "points"},
        {"model": "spd", "sequence_id": 2, "POINTS": "points"},
    ]
    _, second, gone, kept = ask(triton_python, server.port, tmp_path, steps)
    assert "sequence 1 has no image" in gone
    assert kept == second
