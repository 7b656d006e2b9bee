"""The commands and the Python of README.md run as printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spd.commands.evaluate
import spd.commands.train
from spd.checkpoint import save_checkpoint
from spd.config import PRESETS
from spd.data.rooms import render_room
from spd.models import seeded

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


USE_IT = README[README.index("## Use it") : README.index("## Train and evaluate")]
"""What runs anywhere; the commands of the TensorRT section need a GPU, and tests/calib runs spd-calibrate."""


TRAIN = README[README.index("## Train and evaluate") : README.index("## How the pieces fit")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", USE_IT, flags=re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("spd-")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has before the first command: a checkpoint, photos and points."""
    folder = tmp_path_factory.mktemp("reader")
    config = PRESETS["atto"]
    save_checkpoint(folder / "model.pt", seeded(config), config)
    Image.fromarray(render_room(1, 480, 640).image).save(folder / "photo.jpg")
    (folder / "photos").mkdir()
    for seed in (2, 3):
        Image.fromarray(render_room(seed, 120, 160).image).save(folder / "photos" / f"{seed}.png")
    (folder / "pts.csv").write_text("id,u,v\na,10.5,20.5\nb,319,239\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_commands_run_as_printed(folder: Path) -> None:
    assert {command.split()[0] for command in COMMANDS} == {"spd-export", "spd-infer"}
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    printed = {}
    for command in COMMANDS:
        result = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stderr}"
        printed[command] = result.stdout
    rows = printed["spd-infer photo.jpg --points pts.csv"].splitlines()
    assert rows[0] == "id,u,v,depth"
    assert [row.rpartition(",")[0] for row in rows[1:]] == ["a,10.5,20.5", "b,319,239"]
    assert all(0 < float(row.rpartition(",")[2]) < 100 for row in rows[1:])
    for name in ("depth.json", "depth.png", "xyz.csv", "depths.npz"):
        assert (folder / name).stat().st_size > 0

    # The five lines of Python use the bundle that the commands made.
    (python,) = blocks("python")
    script = f"{python}\nprint(depth.dtype, depth.shape, float(depth[0]))"
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    kind, shape, depth = result.stdout.split(" ", 2)
    assert (kind, shape) == ("float32", "(1,)")
    assert np.isfinite(float(depth))


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z][a-z-]*)", README))
    assert {"demo", "test", "check"} <= targets
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))


@pytest.mark.parametrize("line", [line for line in TRAIN.splitlines() if line.startswith(("spd-train", "spd-eval"))])
def test_options_of_training_and_evaluation_exist(line: str) -> None:
    """Their data is not here; tests/commands/test_train.py and tests/evaluation run them on other data."""
    name, *arguments = shlex.split(line)
    command = {"spd-train": spd.commands.train.main, "spd-eval": spd.commands.evaluate.main}[name]
    assert command.make_context(name, arguments).params["data"] is not None
