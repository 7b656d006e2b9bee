"""The command `spd-train`: a run that is killed and resumed against one that is not, what is said, and refusals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from training_support import damage, metrics, nyu_folder, scalars

from spd.checkpoint import load_checkpoint
from spd.commands.train import main
from spd.training.samples import Samples
from spd.training.settings import Settings
from spd.training.state import learning_rate_factor

ROOT = Path(__file__).parents[2]
STEPS = 18
SIZE = ["--preset", "atto", "--size", "128x160", "--no-pretrained"]
WHOLE = [*SIZE, "--batch", "1", "--points", "8", "--edge-share", "0.3", "--lr", "1e-3", "--warmup", "3", "--ema", "0.9"]
WHOLE += ["--max-steps", str(STEPS), "--val-every", "5", "--val-images", "2", "--log-every", "1", "--save-every", "4"]
MACHINE = ["--accelerator", "cpu", "--threads", "1", "--workers", "1"]


def started(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "spd.commands.train", "--out", str(out), *options, *MACHINE]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def last_step(out: Path) -> int:
    """Of metrics.csv, 0 before the first row."""
    path = out / "metrics.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    return int(lines[-1].split(",")[0]) if len(lines) > 1 else 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    process = started(out, *WHOLE)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return out


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed in the middle, behind a step that is not kept, and gone on with to the end."""
    out = tmp_path_factory.mktemp("parts") / "run"
    process = started(out, *WHOLE)
    until = time.monotonic() + 120
    while last_step(out) < 6:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert last_step(out) < STEPS
    assert 4 <= torch.load(out / "last.pt", weights_only=True)["progress"]["step"] < STEPS

    process = started(out, "--resume", "--batch", "1")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return out


def test_the_same_loss_curve(uninterrupted: Path, killed: Path) -> None:
    one, other = (metrics(out, "images_per_s") for out in (uninterrupted, killed))
    assert [int(row["step"]) for row in one if "loss" in row] == list(range(1, STEPS + 1))
    assert one == other


def test_the_same_weights(uninterrupted: Path, killed: Path) -> None:
    for name in ("last.pt", "model.pt"):
        one, other = (torch.load(out / name, weights_only=True) for out in (uninterrupted, killed))
        for part in ("model", "ema"):
            assert (part in one) == (part in other) == (name == "last.pt" or part == "model")
            assert all(torch.equal(other[part][key], weight) for key, weight in one.get(part, {}).items())
        assert one["settings"] == other["settings"]
        seconds = [content["progress"].pop("seconds") for content in (one, other)]
        assert min(seconds) > 0
        assert one["progress"] == other["progress"]


def test_nothing_but_the_files_is_left(killed: Path) -> None:
    assert {path.name for path in killed.iterdir()} == {"last.pt", "model.pt", "metrics.csv", "tensorboard"}


@pytest.mark.parametrize("run", ["uninterrupted", "killed"])
def test_tensorboard_has_the_same_numbers(run: str, request: pytest.FixtureRequest) -> None:
    """Each step once, though those behind the last checkpoint were written twice."""
    out: Path = request.getfixturevalue(run)
    expected: dict[str, dict[int, Any]] = {}
    for row in metrics(out):
        for name in row.keys() - {"step"}:
            expected.setdefault(name, {})[int(row["step"])] = pytest.approx(float(row[name]), rel=1e-6)
    assert {*expected} == {"loss", "lr", "images_per_s", "skipped", "abs_rel", "rmse", "delta1"}
    assert scalars(out) == expected


def test_what_the_run_did(uninterrupted: Path) -> None:
    rows = metrics(uninterrupted)
    settings = Settings(lr=1e-3, warmup=3)
    rates = [float(row["lr"]) for row in rows if "lr" in row]
    assert rates == pytest.approx([1e-3 * learning_rate_factor(step, STEPS, settings) for step in range(STEPS)])
    measured = {int(row["step"]): float(row["abs_rel"]) for row in rows if "abs_rel" in row}
    assert list(measured) == [5, 10, 15, 18]
    best = torch.load(uninterrupted / "model.pt", weights_only=True)
    assert best["progress"]["best_abs_rel"] == min(measured.values()) == measured[best["progress"]["best_step"]]
    assert load_checkpoint(uninterrupted / "model.pt").network == "spd"
    assert best["settings"]["edge_share"] == 0.3


def spd_train(*options: object) -> Result:
    """Run the command in this process, in float32 and without workers."""
    common = ["--accelerator", "cpu", "--precision", "fp32", "--workers", "0"]
    with torch.random.fork_rng(devices=[]):
        return CliRunner().invoke(main, [*common, *map(str, options)])


def test_a_run_is_not_begun_over_another(uninterrupted: Path) -> None:
    before = (uninterrupted / "last.pt").read_bytes()
    done = spd_train(*SIZE, "--out", uninterrupted)
    assert done.exit_code == 1
    assert "holds a run already; go on with it with --resume" in done.stderr
    done = spd_train("--resume", "--out", uninterrupted, "--lr", "0.5", "--size", "128x160")
    assert (done.exit_code, done.stderr) == (
        1,
        "Error: the run was begun with lr 0.001, and --resume goes on with it, not with 0.5\n",
    )
    for option, words in (
        (["--init", "weights.pt"], "--init is"),
        (["--backbone-weights", "timm.pt"], "--backbone-weights is"),
        (["--no-pretrained"], "--pretrained and --no-pretrained are"),
    ):
        done = spd_train("--resume", "--out", uninterrupted, *option)
        assert done.exit_code == 2
        assert f"{words} for a new run; leave it out with --resume" in " ".join(done.stderr.split())
    assert (uninterrupted / "last.pt").read_bytes() == before


def test_a_finished_run_is_gone_on_with_in_vain(uninterrupted: Path) -> None:
    before = (uninterrupted / "metrics.csv").read_text()
    done = spd_train("--resume", "--out", uninterrupted)
    assert (done.exit_code, done.stderr.count("\n")) == (0, 1)
    assert "model.pt: AbsRel" in done.stderr
    assert (uninterrupted / "metrics.csv").read_text() == before


def test_overfitting_two_rooms(tmp_path: Path) -> None:
    """The loss of the last steps is far below that of the first; --overfit validates on the same rooms."""
    options = ["--overfit", 2, "--batch", 2, "--points", 16, "--max-steps", 20, "--val-every", 10, "--log-every", 1]
    done = spd_train(*SIZE, *options, "--lr", 2e-3, "--encoder-lr-scale", 1, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    losses = [float(row["loss"]) for row in metrics(tmp_path) if "loss" in row]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    first, last = (float(row["abs_rel"]) for row in metrics(tmp_path) if "abs_rel" in row)
    assert last < first


BASELINE = [*SIZE, "--network", "bilinear-mlp", "--points", "4", "--val-images", "2", "--log-every", "1"]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop(kind: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Samples, number: int) -> Any:
        sample = own(self, number)
        if self.train:
            signal.raise_signal(kind)
        return sample

    own = Samples.__getitem__
    with monkeypatch.context() as patched:
        patched.setattr(Samples, "__getitem__", interrupted)
        done = spd_train(*BASELINE, "--out", tmp_path, "--batch", 1, "--max-steps", 3)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[1:] == [f"stopped after step 1; go on with: spd-train --resume --out {tmp_path}"]
    done = spd_train("--resume", "--out", tmp_path)
    assert done.exit_code == 0
    assert [row["step"] for row in metrics(tmp_path) if "loss" in row] == ["1", "2", "3"]


def test_broken_pairs_are_skipped_counted_and_named(tmp_path: Path) -> None:
    """Three epochs of two steps of two images; one of the four pairs is broken."""
    data = nyu_folder(tmp_path / "nyu", train=4)
    broken = damage(data, 2)
    done = spd_train(*BASELINE, "--data", data, "--out", tmp_path / "run", "--batch", 2, "--epochs", 3)
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("skipped: ")] == [line for line in lines if str(broken) in line]
    assert sum(str(broken) in line for line in lines) == 1
    assert lines[-1].endswith("; 3 times a broken pair was skipped")
    assert "(4 pairs)" in lines[0]
    skipped = [int(row["skipped"]) for row in metrics(tmp_path / "run") if "skipped" in row]
    assert (len(skipped), skipped[1], skipped[3], skipped[5]) == (6, 1, 2, 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_broken_pairs(tmp_path: Path, workers: int) -> None:
    data = nyu_folder(tmp_path / "nyu", train=2)
    for number in range(2):
        damage(data, number)
    done = spd_train(*BASELINE, "--data", data, "--out", tmp_path / "run", "--workers", workers)
    assert done.exit_code == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: 20 pairs one after the other cannot be used, the last because ")
    assert str(data / "annotations/train/room_0000") in last


def test_data_on_disk_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nyu_folder(tmp_path / "here", train=3)
    out = ["--out", tmp_path / "run"]
    assert spd_train(*BASELINE, "--data", "here", *out, "--batch", 1, "--epochs", 1).exit_code == 0
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["settings"]["data"] == str(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert "here does not exist" in spd_train("--resume", *out).stderr
    assert spd_train("--resume", *out, "--data", "there").exit_code == 0
    assert "begun with data" in spd_train("--resume", *out, "--data", "rooms").stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--batch", "0"], 2, "batch is 0, expected at least 1"),
        (["--lr", "nan"], 2, "lr is nan, expected a positive number"),
        (["--size", "100x160"], 2, "multiples of 32"),
        (["--devices", "none"], 2, "'none' is neither a number from 1 on nor auto"),
        (["--network", "dpt"], 2, "'dpt' is not one of"),
        (["--no-pretrained", "--backbone-weights", "x.pth"], 2, "leave out one"),
        (["--accelerator", "cuda"], 1, "cannot train on cuda"),
        (["--data", "nowhere"], 1, "nowhere does not exist"),
        (["--init", "nowhere.pt"], 1, "nowhere.pt does not exist"),
        (["--resume"], 1, "there is nothing to resume"),
    ],
)
def test_refusals(options: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cuda" in options:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = spd_train("--preset", "atto", "--out", tmp_path / "run", *options)
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert not (tmp_path / "run/last.pt").exists()


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "timm", "lightning_fabric", "h5py"}
    code = f"import sys, spd.commands.train; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "[default: 0.0001]" in done.output
    assert "--max-steps N" in done.output
