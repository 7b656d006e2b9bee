"""What `spd-eval` refuses, and how it ends early."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from evaluation_support import StubModel

from spd.commands.evaluate import main
from spd.errors import BackendError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


REFUSED = {
    "no data": (("m.pt",), 2, "Missing option '--data'"),
    "no model": (("--data", "rooms"), 2, "Missing argument 'MODEL'"),
    "suffix": (("--out", "out.txt"), 2, "out.txt must end in .json or .csv"),
    "no suffix": (("--out", "out"), 2, "out must end in .json or .csv"),
    "folder": (("--out", "some.json"), 2, "some.json is a folder"),
    "out nowhere": (("--out", "none/out.json"), 2, "the folder of none/out.json does not exist"),
    "pictures nowhere": (("--pictures", "none/here"), 2, "the folder of none/here does not exist"),
    "pictures file": (("--pictures", "file"), 2, "file is a file, expected a folder"),
    "k word": (("--k", "1,x"), 2, "'1,x' is not a list of whole numbers"),
    "k zero": (("--k", "0"), 2, "'0' is not a list"),
    "k empty": (("--k", ""), 2, "'' is not a list"),
    "k huge": (("--k", "1000001"), 2, "'1000001' is not a list"),
    "k twice": (("--k", "4,4"), 2, "has a number twice"),
    "size": (("--size", "96"), 2, "'96' is not a size"),
    "images": (("--images", "0"), 2, "0 is not in the range"),
    "seed": (("--seed", "-1"), 2, "-1 is not in the range"),
    "dense points without dense": (("--no-dense", "--dense-points", "5"), 2, "leave out one"),
    "dense points before no dense": (("--dense-points", "all", "--no-dense"), 2, "leave out one"),
    "dense points word": (("--dense-points", "some"), 2, "'some' is neither a number of pixels from 1 on"),
    "dense points zero": (("--dense-points", "0"), 2, "'0' is neither"),
    "dense points half": (("--dense-points", "4096.5"), 2, "'4096.5' is neither"),
    "no threads": (("--threads", "0"), 2, "0 is not in the range"),
    "baseline with threads": (("--baseline", "depth-anything", "--threads", "2"), 2, "--threads is for models"),
    "baseline with a backend": (("--baseline", "depth-anything", "--backend", "torch"), 2, "--backend is for models"),
    "baseline with a size": (("--baseline", "depth-anything", "--size", "96x320"), 2, "--size is for models"),
    "baseline": (("--baseline", "other"), 2, "'other' is not 'depth-anything'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_opened(case: str, model: StubModel) -> None:
    Path("some.json").mkdir()
    Path("file").touch()
    arguments, code, text = REFUSED[case]
    if case not in ("no data", "no model"):
        arguments = ("m.pt", "--data", "rooms", *arguments)
    result = run(*arguments)
    assert (result.exit_code, text in result.stderr) == (code, True), result.output
    assert model.opened == []
    assert sorted(os.listdir()) == ["file", "some.json"]


def test_the_model_is_not_overwritten(model: StubModel) -> None:
    Path("m.json").touch()
    result = run("m.json", "--data", "rooms", "--out", "./m.json")
    assert "would overwrite an input" in result.stderr
    assert result.exit_code == 2


def test_a_bundle_has_its_own_size(model: StubModel) -> None:
    result = run("engines", "--data", "rooms", "--size", "96x320", "--pictures", "new")
    assert (result.exit_code, "a bundle has its own" in result.stderr) == (2, True)
    assert not Path("new").exists()


@pytest.mark.parametrize(("error", "code", "text"), [
    (BackendError("the backend\nbroke"), 1, "Error: the backend broke\n"), (KeyboardInterrupt(), 130, "Interrupted.\n")
])  # fmt: skip
def test_a_run_that_ends_early(error: BaseException, code: int, text: str, model: StubModel) -> None:
    Path("out.json").write_text("old")

    def change(depth: Any) -> Any:
        raise error

    model.change = change
    result = run("model.pt", "--data", "rooms", "--out", "out.json")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.endswith(text)
    assert "Traceback" not in result.stderr
    assert Path("out.json").read_text() == "old"
    assert model.opened[-1] == "closed"


def test_help_and_refusals_import_nothing_heavy() -> None:
    heavy = ("numpy", "rich", "torch", "PIL")
    code = f"import sys, spd.commands.evaluate; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to another process")
def test_ctrl_c(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "spd.commands.evaluate",
        "m.pt",
        "--data",
        "rooms",
        "--out",
        str(tmp_path / "out.json"),
    ]
    slow = (
        "import time, spd.evaluation.run as run\n"
        "run.open_pairs = lambda *_: (print('here', flush=True), time.sleep(60))\n"
        f"from spd.commands.evaluate import main; main({command[3:]!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "Interrupted.\n")
    assert not list(tmp_path.iterdir())
