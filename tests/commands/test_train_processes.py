"""`spd-train` on two processes against one with twice the batch, started by the command itself and by `fabric run`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from training_support import metrics

from spd.commands.train import main
from spd.training.network import Start, new_network
from spd.training.settings import Settings

ROOT = Path(__file__).parents[2]
RUN = ["--preset", "atto", "--size", "128x160", "--no-pretrained", "--encoder-lr-scale", "1", "--final-lr-scale", "1"]
RUN += ["--points", "8", "--max-steps", "2", "--val-images", "3", "--log-every", "1", "--workers", "0", "--batch", "1"]
RUN += ["--dropout", "0"]  # its noise differs from process to process


def finished(command: list[str], **environment: str) -> str:
    """Run it to its end; what it said."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two processes of the command's own."""
    out = tmp_path_factory.mktemp("two") / "run"
    machine = ["--devices", "2", "--accelerator", "cpu", "--precision", "fp32", "--threads", "1"]
    said = finished([sys.executable, "-m", "spd.commands.train", *RUN, *machine, "--out", str(out)]).splitlines()
    assert len(said) == 3, said  # nothing of Fabric's, nothing of the second process's
    assert said[0].endswith("steps 1 to 2 of 2 images, 2 x cpu, fp32")
    return out


def one(out: Path, *options: str) -> dict[str, Tensor]:
    """The weights behind a run on this process."""
    with torch.random.fork_rng(devices=[]):
        done = CliRunner().invoke(
            main, [*RUN, "--accelerator", "cpu", "--precision", "fp32", *options, "--out", str(out)]
        )
    assert done.exit_code == 0, done.output
    return weights(out)


def weights(out: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(out / "last.pt", weights_only=True)["model"]
    return found


def flat(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for _, tensor in sorted(named.items())])


def test_as_one_process_with_twice_the_batch(two: Path, tmp_path: Path) -> None:
    together = one(tmp_path / "batch2", "--batch", "2")
    found, expected = flat(weights(two)), flat(together)
    settings = Settings(preset="atto", height=128, width=160)
    with torch.random.fork_rng(devices=[]):
        change = (expected - flat(new_network(settings, Start(pretrained=False)).state_dict())).norm()
    assert (found - expected).norm() / expected.norm() < 1e-5
    assert (found - expected).norm() / change < 1e-3
    half = flat(one(tmp_path / "batch1"))  # without the second process's images
    assert (half - expected).norm() / change > 0.1

    kept = [{name: float(value) for name, value in row.items()} for row in metrics(two, "images_per_s")]
    same = [{name: float(value) for name, value in row.items()} for row in metrics(tmp_path / "batch2", "images_per_s")]
    assert kept == [pytest.approx(row, rel=1e-5) for row in same]


@pytest.mark.slow
def test_the_gradients_are_those_of_one_process_with_twice_the_batch(tmp_path: Path) -> None:
    """Before they are clipped, which hides a wrong factor, as AdamW does."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\n"
        "import torch\n"
        "from torch import nn\n"
        "clip = nn.utils.clip_grad_norm_\n"
        "def kept(parameters, *rest):\n"
        "    parameters = list(parameters)\n"
        "    folder = sys.argv[sys.argv.index('--out') + 1]\n"
        "    rank = os.environ.get('LOCAL_RANK', '0')\n"
        "    torch.save([one.grad for one in parameters], f'{folder}-{rank}.pt')\n"
        "    return clip(parameters, *rest)\n"
        "nn.utils.clip_grad_norm_ = kept\n"
        "from spd.commands.train import main\n"
        "main()\n"
    )
    machine = ["--accelerator", "cpu", "--precision", "fp32", "--threads", "1", "--max-steps", "1"]
    for name, options in (("two", ["--devices", "2"]), ("one", ["--batch", "2"])):
        finished([sys.executable, str(script), *RUN, *machine, *options, "--out", str(tmp_path / name)])
    found = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("two-0", "two-1", "one-0")]
    first, second, expected = (torch.cat([part.double().flatten() for part in parts]) for parts in found)
    assert torch.equal(first, second)
    assert (first - expected).norm() < 1e-4 * expected.norm()


def test_not_resumed_on_one(two: Path) -> None:
    done = CliRunner().invoke(main, ["--resume", "--devices", "1", "--accelerator", "cpu", "--out", str(two)])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: the number of processes was 2 when the run was begun and is 1 now")


@pytest.mark.slow
def test_under_fabric_run(two: Path, tmp_path: Path) -> None:
    """Which is torchrun with options for Fabric; --devices is not repeated for the command."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable, "-m", "lightning_fabric.cli", "--devices", "2", "--accelerator", "cpu"]
    launcher += ["--precision", "32-true", "--main-port", port]
    script = tmp_path / "train.py"
    script.write_text("from spd.commands.train import main\n\nmain()\n")
    command = [*launcher, str(script), "--", *RUN, "--out", str(tmp_path)]
    said = finished(command, OMP_NUM_THREADS="1")
    assert "steps 1 to 2 of 2 images, 2 x cpu, fp32" in said
    assert metrics(tmp_path, "images_per_s") == metrics(two, "images_per_s")
    found = weights(tmp_path)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(two).items())
