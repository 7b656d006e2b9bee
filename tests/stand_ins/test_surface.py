"""SPD uses nothing of TensorRT and CUDA that the real bindings lack, and the stand-ins offer nothing that they lack."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rtx_support import needs_rtx

from stand_ins import cuda_bindings, fake_cuda
from stand_ins.fake_tensorrt import classes, tensorrt_module
from stand_ins.trt_enums import RTX, SURFACES, surface

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("spd", "engines", "export", "calib") for path in sorted((ROOT / folder).rglob("*.py"))]

TENSORRT_NAMES = ("trt", "_trt")
"""What variables and attributes that hold the module are called."""
CUDA_NAMES = {"_core": "cuda.core", "core": "cuda.core", "_runtime": "cuda.bindings.runtime"}

MODULE_CONSTANTS = ("__version__",)
OPERATORS = ("__len__", "__getitem__", "__eq__")


def users(text: str) -> list[Path]:
    """Sources that mention a module."""
    return [path for path in SOURCES if re.search(text, path.read_text(encoding="utf-8"))]


def chains(path: Path, roots: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Attributes that are taken of a module: `self._trt.BuilderFlag.TF32` gives ("BuilderFlag", "TF32")."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        inner: ast.expr | ast.AST = node
        while isinstance(inner, ast.Attribute):
            if inner.attr in roots and names:
                break
            names.insert(0, inner.attr)
            inner = inner.value
        at_root = isinstance(inner, ast.Attribute) or (isinstance(inner, ast.Name) and inner.id in roots)
        if names and at_root:
            yield tuple(names)


def offered(version: str, chain: tuple[str, ...]) -> bool:
    """Whether a version has a name, and the member that is taken of it."""
    recorded = surface(version)
    name, *rest = chain
    if name in MODULE_CONSTANTS or name in recorded["functions"]:
        return True
    if name in recorded["enums"]:
        return not rest or rest[0] in recorded["enums"][name] or rest[0] in ("__members__",)
    return name in recorded["classes"] and (not rest or rest[0] in recorded["classes"][name] or rest[0] == "__init__")


@pytest.mark.parametrize("version", SURFACES)
def test_what_spd_takes_of_tensorrt_exists(version: str) -> None:
    used = {(path.name, chain) for path in users("tensorrt") for chain in chains(path, TENSORRT_NAMES)}
    missing = sorted(f"{file}: {'.'.join(chain)}" for file, chain in used if not offered(version, chain))
    assert missing == []
    assert len(used) > 10, "the engines use TensorRT, so this looks in the wrong place"


def test_members_that_one_version_lacks_are_not_used() -> None:
    everywhere = set.intersection(*({m for c in surface(v)["classes"].values() for m in c} for v in SURFACES))
    somewhere = set.union(*({m for c in surface(v)["classes"].values() for m in c} for v in SURFACES))
    gone = somewhere - everywhere
    assert "device_memory_size" in gone
    used = {
        f"{path.name}: {node.attr}"
        for path in users("tensorrt")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in gone
    }
    assert sorted(used) == []


def test_what_spd_takes_of_cuda_exists() -> None:
    missing = []
    for path in users(r"cuda\.(core|bindings)"):
        for variable, module in CUDA_NAMES.items():
            for chain in chains(path, (variable,)):
                if not hasattr(importlib.import_module(module), chain[0]):
                    missing.append(f"{path.name}: {module}.{chain[0]}")
    assert missing == []


@pytest.mark.parametrize("version", [*SURFACES, pytest.param(RTX, marks=needs_rtx)])
def test_the_stand_in_offers_nothing_that_tensorrt_lacks(version: str) -> None:
    recorded, wrong = surface(version), []
    module = tensorrt_module(version)
    known = {*recorded["classes"], *recorded["enums"]}
    wrong += [name for name in vars(module) if not name.startswith("_") and name not in known]
    for kind in classes(version):
        members = recorded["classes"][kind.__name__]
        for name, value in _public(kind):
            problem = "is not there" if name not in members else _compare(value, members[name])
            if problem:
                wrong.append(f"{kind.__name__}.{name} {problem}")
    assert wrong == []


@pytest.mark.parametrize("version", [*SURFACES, pytest.param(RTX, marks=needs_rtx)])
def test_enumerations_are_those_of_the_version(version: str) -> None:
    module = tensorrt_module(version)
    for name, values in surface(version)["enums"].items():
        kind: Any = module
        for part in name.split("."):
            kind = getattr(kind, part)
        assert {member: int(value) for member, value in kind.__members__.items()} == values


def _public(kind: type) -> Iterator[tuple[str, Any]]:
    """Members that a stand-in's class offers, with those of its bases and its writable attributes."""
    inherited = [base for base in kind.__mro__ if base.__module__.startswith("stand_ins")]
    for base in inherited:
        for name, value in vars(base).items():
            if (not name.startswith("_") or name in OPERATORS) and getattr(value, "__name__", "") != "_refuse":
                yield name, value
        for name in inspect.get_annotations(base):
            if not name.startswith("_"):
                yield name, "attribute"
    if "__init__" in vars(kind):
        yield "__init__", vars(kind)["__init__"]


def _compare(value: Any, recorded: Any) -> str | None:
    """What does not fit between a stand-in's member and the recorded one."""
    kind = _kind(value)
    if kind != "method" or not isinstance(recorded, list):
        fits = recorded == kind or (kind == "read-only" and recorded == "read-write")
        return None if fits else f"is a {kind} here and {recorded} there"
    here = list(inspect.signature(value).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in here):  # as NoConstructor's
        return "has a constructor there" if recorded else None
    theirs = [_parameters(signature) for signature in recorded]
    required = sum(parameter.default is parameter.empty for parameter in here)
    names = [parameter.name for parameter in here]
    calls = [names[:count] for count in range(required, len(names) + 1)]
    fits = all(any(_takes(overload, call) for overload in theirs) for call in calls)
    return None if fits else f"takes {names} here and {theirs} there"


def _kind(value: Any) -> str:
    if isinstance(value, property):
        return "read-write" if value.fset else "read-only"
    if value == "attribute":
        return "read-write"
    return "method" if callable(value) and not isinstance(value, type) else "value"


def _takes(overload: list[tuple[str, bool]], call: list[str]) -> bool:
    """Whether an overload takes these arguments by name and in this order, and needs no more."""
    names = [name for name, _ in overload]
    return names[: len(call)] == call and all(optional for _, optional in overload[len(call) :])


def _parameters(signature: str) -> list[tuple[str, bool]]:
    """Names of the parameters in a recorded signature without self, and which are optional."""
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    found, depth, start = [], 0, 0
    for index, character in enumerate(inside + ","):
        depth += (character in "[(<") - (character in "])>")
        if character == "," and depth == 0:
            found.append(inside[start:index].strip())
            start = index + 1
    return [(text.split(":")[0], "=" in text) for text in found if text and not text.startswith("self:")]


def real(name: str) -> ModuleType:
    """A module of the installed cuda-core or cuda-bindings."""
    return importlib.import_module(name)


@pytest.mark.parametrize(
    ("module", "kinds"), [("cuda.core", fake_cuda.CORE), ("cuda.core.graph", fake_cuda.GRAPH)], ids=("core", "graph")
)
def test_the_stand_in_offers_nothing_that_cuda_core_lacks(module: str, kinds: tuple[type, ...]) -> None:
    wrong = []
    for kind in kinds:
        genuine = getattr(real(module), kind.__name__)
        for name, value in _public(kind):
            if name.startswith("__"):
                continue
            if not hasattr(genuine, name):
                wrong.append(f"{kind.__name__}.{name} is not there")
            elif inspect.isfunction(value) or isinstance(value, staticmethod):
                problem = _differs(getattr(kind, name), getattr(genuine, name))
                wrong += [f"{kind.__name__}.{name} {problem}"] if problem else []
    assert wrong == []


def _differs(here: Any, there: Any) -> str | None:
    """What does not fit between a stand-in's method and the real one."""
    ours, theirs = (
        [p for p in inspect.signature(function).parameters.values() if p.name != "self"] for function in (here, there)
    )
    for parameter, genuine in zip(ours, theirs, strict=False):
        same = parameter.name == genuine.name and (parameter.kind == genuine.kind)
        if not same or (parameter.default is not parameter.empty and genuine.default is genuine.empty):
            return f"takes {parameter} here and {genuine} there"
    return None if len(ours) <= len(theirs) else f"takes {len(ours)} here and {len(theirs)} there"


@pytest.mark.parametrize("name", [kind.__name__ for kind in fake_cuda.CORE if "Resource" in kind.__name__])
def test_constructors_are_those_of_cuda_core(name: str) -> None:
    # Compiled classes do not show the parameters of their constructors; the type stubs beside them do.
    genuine, kind = getattr(real("cuda.core"), name), getattr(fake_cuda.modules()["cuda.core"], name)
    stubs = Path(inspect.getfile(genuine)).parent / f"{genuine.__module__.rpartition('.')[2]}.pyi"
    classes = (
        [node for node in ast.parse(stubs.read_text()).body if getattr(node, "name", "") == name]
        if stubs.exists()
        else []
    )
    constructors = [
        n for c in classes if isinstance(c, ast.ClassDef) for n in c.body if getattr(n, "name", "") == "__init__"
    ]
    if not constructors:
        assert "__init__" not in vars(kind) or name.endswith("Options")
        return
    theirs = [argument.arg for argument in constructors[0].args.args]  # type: ignore[attr-defined]
    assert list(inspect.signature(kind.__init__).parameters) == theirs


@pytest.mark.parametrize(
    ("module", "offers"),
    [("cuda.bindings.runtime", cuda_bindings.RUNTIME), ("cuda.bindings.driver", cuda_bindings.DRIVER)],
    ids=("runtime", "driver"),
)
def test_the_stand_in_offers_nothing_that_cuda_bindings_lack(module: str, offers: tuple[Any, ...]) -> None:
    for thing in offers:
        genuine = getattr(real(module), thing.__name__)
        if isinstance(thing, type):
            ours = {name: int(value) for name, value in thing.__members__.items()}  # type: ignore[attr-defined]
            assert ours == {name: int(getattr(genuine, name)) for name in ours}
        else:
            assert list(inspect.signature(thing).parameters) == list(inspect.signature(genuine).parameters)


def test_this_test_finds_what_it_looks_for(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        "class A:\n    def f(self):\n        return self._trt.BuilderFlag.FP16, trt.Logger(), other.Nothing\n"
    )
    found = set(chains(source, TENSORRT_NAMES))
    assert found >= {("BuilderFlag", "FP16"), ("Logger",)}
    assert not any("Nothing" in chain for chain in found)
    assert [offered(version, ("BuilderFlag", "FP16")) for version in sorted(SURFACES)] == [True, False]
    assert _parameters("f(self: A, x: list[B, C] = <D.E: 0>, y: int) -> tuple[bool, int]") == [
        ("x", True),
        ("y", False),
    ]
    assert _compare(lambda self, stream: None, ["f(self: A, stream_handle: int) -> bool"]) is not None
    assert _compare(property(lambda self: None, lambda self, value: None), "read-only") is not None
