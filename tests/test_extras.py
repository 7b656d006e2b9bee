"""What to install for a missing module is what the metadata says."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from spd.extras import BROUGHT_BY, how_to_install, pip_install

SETUP = Path(__file__).parents[1] / "setup.cfg"
DISTRIBUTIONS = {
    "PIL": "pillow",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "onnxruntime": "onnxruntime-gpu",
    "cuda": "cuda-core",
}
"""Those that are not called like their module."""


def required(extra: str | None) -> set[str]:
    """The distributions that the metadata lists for an extra."""
    config = configparser.ConfigParser()
    config.read(SETUP, encoding="utf-8")
    text = config["options"]["install_requires"] if extra is None else config["options.extras_require"][extra]
    return {re.split(r"[ \[<>=;]", line)[0] for line in text.splitlines() if line and not line.startswith("#")}


@pytest.mark.parametrize("extra", BROUGHT_BY)
def test_an_extra_brings_its_modules(extra: str | None) -> None:
    distributions = {DISTRIBUTIONS.get(module, module.replace("_", "-")) for module in BROUGHT_BY[extra]}
    assert distributions <= required(extra)
    assert extra is not None or required(extra) - distributions <= {"onnxruntime"}


def test_every_extra_for_users_is_listed() -> None:
    config = configparser.ConfigParser()
    config.read(SETUP, encoding="utf-8")
    assert set(config["options.extras_require"]) - {"dev"} == set(BROUGHT_BY) - {None}
    for extra in set(BROUGHT_BY) - {None}:
        modules = {DISTRIBUTIONS.get(module, module.replace("_", "-")) for module in BROUGHT_BY[extra]}
        assert required(extra) == modules


@pytest.mark.parametrize(
    ("module", "preferred", "command"),
    [
        ("torch.nn", None, "pip install 'spd-depth[export]'"),
        ("torch.nn", "train", "pip install 'spd-depth[train]'"),
        ("onnx", "profile", "pip install 'spd-depth[profile]'"),
        ("h5py", "export", "pip install 'spd-depth[train]'"),
        ("cuda.core", None, "pip install 'spd-depth[tensorrt]'"),
        ("PIL.Image", "export", "pip install spd-depth"),
        ("spd.nothing", None, None),
        ("export", None, None),
        ("", None, None),
    ],
)
def test_how_to_install(module: str, preferred: str | None, command: str | None) -> None:
    assert how_to_install(module, preferred) == command


def test_pip_install() -> None:
    assert pip_install(None) == "pip install spd-depth"
