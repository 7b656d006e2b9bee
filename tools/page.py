"""The page of spd-serve without a server: `python -m tools.page engines/demo --out site`.

The static site holds the page, one precision of a bundle's graphs, and the files of onnxruntime-web that run them in
the visitor's browser. Any web server can hand it out, such as `python -m http.server --directory site`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import click

import spd.serve
from spd.bundle import Bundle, open_bundle
from spd.commands.cli import Command, note
from spd.commands.places import check_folder
from spd.errors import SPDError, one_line
from spd.serve.service import is_demo
from spd.staging import staged
from spd.version import __version__

PAGE = Path(spd.serve.__file__).parent / "page"
PACKAGE = "onnxruntime-web@1.30.0"
RUNTIME = (
    "dist/ort.wasm.min.mjs",
    "dist/ort-wasm-simd-threaded.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
    "package.json",
)
"""What the page needs of the package; the last names its licence."""
PRECISIONS = ("fp16", "fp32", "int8")
"""Those that onnxruntime-web runs, in the order in which one is taken: fp16 is half the download of fp32."""
ENGINE = 'export { Engine } from "./browser.js";\n'


@click.command(cls=Command)
@click.argument("engines", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the site; replaced if it exists."
)
@click.option("--precision", type=click.Choice(PRECISIONS), help="Which graphs.  [default: fp16, or else fp32]")
def main(engines: Path, out: Path, precision: str | None) -> None:
    """Write a static site that runs the bundle ENGINES in the visitor's browser."""
    check_folder(out, "--out")
    if out.exists() and any(out.iterdir()) and not (out / "static" / "engine.js").is_file():
        raise click.BadParameter(f"{out} holds something else; choose a new folder", param_hint="--out")
    bundle = open_bundle(engines)
    precision = precision or next((one for one in PRECISIONS if one in bundle.manifest.precisions), "fp32")
    with staged(out) as site:
        shutil.copytree(PAGE, site / "static")
        (site / "static" / "index.html").rename(site / "index.html")
        (site / "static" / "engine.js").write_text(ENGINE, encoding="utf-8")
        copy_model(bundle, precision, site / "static" / "model")
        fetch_runtime(site / "static" / "ort")
        size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    note(f"{out}: {size / 1e6:.1f} MB. Try it with: python -m http.server --directory {out}")


def copy_model(bundle: Bundle, precision: str, folder: Path) -> None:
    """Copy the graphs of a precision and the manifest, and write what the page reads of it: `info.json`.

    Raises:
        BundleError: the bundle does not have the precision, or is damaged.
    """
    folder.mkdir()
    manifest = bundle.manifest
    graphs = {name: bundle.graph(name, precision).name for name in ("encoder", "decoder")}
    for file in (*graphs.values(), "manifest.json"):
        shutil.copyfile(bundle.path / file, folder / file)
    info: dict[str, Any] = {
        "name": manifest.name,
        "preset": manifest.preset,
        "height": manifest.height,
        "width": manifest.width,
        "backend": "onnxruntime-web",
        "precision": precision,
        "demo": is_demo(manifest),
        "version": __version__,
        "graphs": graphs,
    }
    (folder / "info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def npm() -> str | None:
    """Path of npm, if it is installed."""
    return shutil.which("npm")


def fetch_runtime(folder: Path) -> None:
    """Take the built files of onnxruntime-web from npm.

    Raises:
        SPDError: npm is not installed, or cannot fetch the package.
    """
    command = npm()
    if command is None:
        raise SPDError(f"npm is missing, which fetches {PACKAGE}; install Node.js, for example: apt install npm")
    folder.mkdir()
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [command, "pack", PACKAGE, "--silent", "--pack-destination", place],
            capture_output=True,
            text=True,
            check=False,
        )
        packed = next(Path(place).glob("*.tgz"), None)
        if done.returncode or packed is None:
            said = one_line(RuntimeError(done.stderr or done.stdout), whole=True)
            raise SPDError(f"npm cannot fetch {PACKAGE}: {said}")
        with tarfile.open(packed) as archive:
            for name in RUNTIME:
                member = archive.extractfile(f"package/{name}")
                assert member is not None
                (folder / Path(name).name).write_bytes(member.read())


if __name__ == "__main__":
    main()
