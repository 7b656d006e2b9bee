"""`spd-eval` with real models: a checkpoint, and the bundle made from the same weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from spd.checkpoint import save_checkpoint
from spd.commands.evaluate import main
from spd.config import PRESETS
from spd.models import seeded

ROWS = ("--images", "2", "--k", "256,1024")
METRICS = ("abs_rel", "rmse", "delta1", "delta2", "delta3")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained network that the fixture `exported` is made from."""
    path = tmp_path_factory.mktemp("checkpoint") / "atto.pt"
    save_checkpoint(path, seeded(PRESETS["atto"]).state_dict(), PRESETS["atto"])
    return path


def evaluated(out: Path, model: Path, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, [str(model), "--data", "rooms", "--no-dense", "--out", str(out), *arguments])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("--size", "128x160", "--images", "2", "--k", "1,16")
    found = evaluated(tmp_path / "out.json", checkpoint, *arguments)
    assert (found["model"], found["backend"], found["precision"]) == ("atto.pt", "torch", "fp32")
    assert (found["size"], found["weights_sha256"], found["data"]) == ("128x160", None, "rooms, test")
    # The last layer's bias makes an untrained network say 2.5 m or so, and rooms are 1 to 9 m deep.
    assert 0.05 < found["by_k"]["16"]["abs_rel"] < 2
    command = [
        sys.executable,
        "-m",
        "spd.commands.evaluate",
        str(checkpoint),
        "--data",
        "rooms",
        "--no-dense",
        *arguments,
    ]
    done = subprocess.run([*command, "--out", str(tmp_path / "again.json")], capture_output=True, text=True, check=True)
    assert [line.split("s  ")[1] for line in done.stderr.splitlines() if ":" not in line] == [
        f"loading {checkpoint}",
        "evaluating",
    ]
    assert "atto.pt 128x160 fp32 on torch" in done.stdout
    assert json.loads((tmp_path / "again.json").read_text()) == found


@pytest.fixture(scope="module")
def literal(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the checkpoint gets in torch at the bundle's size."""
    out = tmp_path_factory.mktemp("literal") / "out.json"
    return evaluated(out, checkpoint, *ROWS, "--backend", "torch", "--size", "160x192")


# Measured on 3 rooms with K = 1024: fp32 5e-8, fp16 1e-4. Deltas move by a whole point for each that crosses a
# threshold: of 2 x 1024 points, four may; of 2 x 256 the one that float16 moves would be 2e-3 by itself.
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-3)])
def test_a_bundle_is_as_good_as_its_checkpoint(
    precision: str, tolerance: float, literal: dict[str, Any], exported: Path, tmp_path: Path
) -> None:
    arguments = (*ROWS, "--backend", "onnxruntime-cpu", "--precision", precision)
    found = evaluated(tmp_path / "out.json", exported, *arguments)
    assert (found["precision"], found["backend"], found["size"]) == (precision, "onnxruntime-cpu", "160x192")
    manifest = json.loads((exported / "manifest.json").read_text())
    assert (found["model"], found["weights_sha256"]) == (manifest["name"], manifest["model"]["weights_sha256"])
    for k, names in (("256", METRICS[:2]), ("1024", METRICS)):
        one, other = ([result["by_k"][k][name] for name in names] for result in (literal, found))
        assert one == pytest.approx(other, rel=0, abs=tolerance)
