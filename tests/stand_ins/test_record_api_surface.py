"""The recorder of API surfaces, on a module that documents itself as pybind11's do."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from stand_ins.trt_enums import SURFACES
from tools.record_api_surface import main, names_in, record, to_json


class Flag(IntEnum):
    FP16 = 0
    TF32 = 6


class Config:
    """Made to look like a class of the bindings."""

    LIMIT = 8

    def __init__(self) -> None:
        """__init__(self: fake_bindings.core.Config) -> None"""

    def set_flag(self) -> None:
        """set_flag(self: fake_bindings.core.Config, flag: fake_bindings.core.Flag = <Flag.TF32: 6>) -> None

        Sets a flag.
        """

    def shape(self) -> None:
        """shape(*args, **kwargs)
        Overloaded function.

        1. shape(self: fake_bindings.core.Config) -> tuple
        2. shape(self: fake_bindings.core.Config, axis: typing.SupportsInt) -> int
        """

    level = property(lambda self: 3)
    _secret = 1

    @property
    def name(self) -> str:
        return ""

    @name.setter
    def name(self, value: str) -> None:
        raise NotImplementedError


def bindings() -> ModuleType:
    module: Any = ModuleType("fake_bindings")
    module.__version__, module.Config, module.Flag = "12.0", Config, Flag
    Config.shape.__doc__ = "\n".join(line.strip() for line in (Config.shape.__doc__ or "").splitlines())
    made: ModuleType = module
    return made


def test_it_records_what_the_docstrings_say() -> None:
    surface = record(bindings())
    assert surface["version"] == "12.0"
    assert surface["enums"] == {"Flag": {"FP16": 0, "TF32": 6}}
    assert surface["classes"] == {
        "Config": {
            "LIMIT": "value",
            "__init__": ["__init__(self: Config) -> None"],
            "level": "read-only",
            "name": "read-write",
            "set_flag": ["set_flag(self: Config, flag: Flag = <Flag.TF32: 6>) -> None"],
            "shape": ["shape(self: Config) -> tuple", "shape(self: Config, axis: typing.SupportsInt) -> int"],
        }
    }
    assert record(bindings(), frozenset({"Flag"}))["classes"] == {}


def test_a_new_release_is_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", bindings())
    old = tmp_path / "old.json"
    old.write_text(to_json({"version": "11", "enums": {"Flag": {}}, "classes": {"Gone": {}}, "functions": {}}))
    result = CliRunner().invoke(main, ["--like", str(old), "--out", str(tmp_path)])
    assert result.output.splitlines()[1:] == ["not in 12.0: Gone"]
    made = json.loads((tmp_path / "surface_12.0.json").read_text())
    assert names_in(made) == {"Flag"}


def test_without_bindings_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert "neither tensorrt nor tensorrt_bindings can be imported" in result.output


@pytest.mark.parametrize("path", SURFACES.values(), ids=SURFACES)
def test_recorded_files_are_as_the_recorder_writes_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert to_json(json.loads(text)) == text
    assert len(text) < 60_000
