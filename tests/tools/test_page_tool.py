"""The static site's files, with a stand-in for npm."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tools.page import PAGE, RUNTIME, main

NPM = """#!{python}
import shutil, sys
folder = sys.argv[sys.argv.index("--pack-destination") + 1]
shutil.copy({package!r}, folder)
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where commands are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def add_npm(commands: Path, script: str) -> None:
    (commands / "npm").write_text(script)
    (commands / "npm").chmod(0o755)


@pytest.fixture
def with_npm(commands: Path, tmp_path: Path) -> None:
    package = tmp_path / "onnxruntime-web.tgz"
    with tarfile.open(package, "w:gz") as archive:
        for name in RUNTIME:
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    add_npm(commands, NPM.format(python=sys.executable, package=str(package)))


def run(bundle: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, [str(bundle), "--out", str(out), *options])


@pytest.mark.usefixtures("with_npm")
def test_what_a_site_holds(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    for _ in range(2):  # a site is replaced
        done = run(exported, out)
        assert done.exit_code == 0, done.output
    static = out / "static"
    assert (out / "index.html").read_bytes() == (PAGE / "index.html").read_bytes()
    pages = {path.name for path in PAGE.iterdir()} - {"index.html"}
    assert {path.name for path in static.iterdir()} == pages | {"model", "ort"}
    assert "./browser.js" in (static / "engine.js").read_text()
    assert {path.name: path.read_text() for path in (static / "ort").iterdir()} == {Path(n).name: n for n in RUNTIME}
    info = json.loads((static / "model" / "info.json").read_text())
    assert (info["precision"], info["width"], info["height"], info["demo"]) == ("fp16", 192, 160, True)
    for name in (*info["graphs"].values(), "manifest.json"):
        assert (static / "model" / name).read_bytes() == (exported / name).read_bytes()
    assert run(exported, tmp_path / "exact", "--precision", "fp32").exit_code == 0
    assert (tmp_path / "exact" / "static" / "model" / "encoder.fp32.onnx").is_file()


def test_without_npm(exported: Path, tmp_path: Path, commands: Path) -> None:
    done = run(exported, tmp_path / "site")
    assert done.exit_code == 1
    (line,) = done.output.splitlines()
    assert "npm is missing" in line
    assert "install Node.js" in line
    assert not (tmp_path / "site").exists()


def test_npm_that_fails(exported: Path, tmp_path: Path, commands: Path) -> None:
    add_npm(commands, "#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    done = run(exported, tmp_path / "site")
    assert done.exit_code == 1
    (line,) = done.output.splitlines()
    assert "cannot fetch onnxruntime-web@" in line
    assert "ENOTFOUND" in line


@pytest.mark.usefixtures("with_npm")
def test_a_folder_with_something_else_is_left_alone(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "thesis.txt").write_text("years of work")
    done = run(exported, tmp_path / "keep")
    assert done.exit_code == 2
    assert "holds something else" in done.output
    assert (tmp_path / "keep" / "thesis.txt").read_text() == "years of work"


@pytest.mark.usefixtures("with_npm")
def test_a_precision_that_the_bundle_does_not_have(exported: Path, tmp_path: Path) -> None:
    done = run(exported, tmp_path / "site", "--precision", "int8")
    assert done.exit_code == 1
    assert "has no int8 graphs" in done.output
