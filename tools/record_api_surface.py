"""Records the API surface of an installed TensorRT: its classes, members, signatures and enum values, as JSON.

    python -m tools.record_api_surface --like tests/stand_ins/surface_11.4.0.106.json --out tests/stand_ins/

is the one command for a new release; the tests hold SPD and the stand-in to whatever `surface_*.json` lies there.
Nothing of TensorRT runs, so neither a GPU nor its libraries are needed: the bindings alone
(`pip download --no-deps tensorrt-cu13-bindings==VERSION`, unpacked onto PYTHONPATH) import over three empty libraries
`libnvinfer`, `libnvinfer_plugin` and `libnvonnxparser` that define the symbols which `nm -D --undefined-only
tensorrt.so` lists as `*_INTERNAL`, `get*` and `init*`.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import click

PACKAGES = ("tensorrt", "tensorrt_bindings")
"""Where the bindings are, in the order of trying: the full package, the bindings alone."""

OPERATORS = ("__init__", "__len__", "__getitem__", "__eq__")
"""Members with underscores that belong to the surface; the others come with every Python object."""


def record(module: ModuleType, only: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The surface of a module made with pybind11.

    Args:
        module: the imported bindings.
        only: names of classes and functions to keep; all if empty.

    Returns:
        `version`; `enums`: values by member; `classes`: each member with its signatures, "read-only" or "read-write"
        for a property, "value" for a constant or a nested class; `functions` with their signatures. Keys are sorted.
    """
    enums, classes, functions = {}, {}, {}
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or (only and name not in only):
            continue
        if isinstance(value, type):
            if _is_enum(value):
                enums[name] = _values(value)
            else:
                classes[name] = _members(value, module)
                nested = {inner: kind for inner, kind in vars(value).items() if isinstance(kind, type)}
                enums.update({f"{name}.{inner}": _values(kind) for inner, kind in nested.items() if _is_enum(kind)})
        elif callable(value):
            functions[name] = _signatures(name, value, module)
    version = getattr(module, "__version__", "unknown")
    return {"version": version, "enums": enums, "classes": classes, "functions": functions}


def _is_enum(kind: type) -> bool:
    return hasattr(kind, "__members__")


def _values(kind: Any) -> dict[str, int]:
    return {member: int(number) for member, number in sorted(kind.__members__.items())}


def _members(kind: type, module: ModuleType) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name in sorted(dir(kind)):
        if name.startswith("_") and name not in OPERATORS:
            continue
        value = getattr(kind, name)
        if isinstance(value, property):
            members[name] = "read-write" if value.fset else "read-only"
        elif name in OPERATORS and value is getattr(object, name, None):
            continue
        elif callable(value) and not isinstance(value, type):
            members[name] = _signatures(name, value, module)
        else:
            members[name] = "value"
    return members


def _signatures(name: str, function: Any, module: ModuleType) -> list[str]:
    """The signatures in a pybind11 docstring, one per overload, without the module's name before its classes."""
    found = re.findall(rf"^(?:\d+\. )?({re.escape(name)}\(.*\).*)$", function.__doc__ or "", re.MULTILINE)
    prefix = re.compile(rf"\b{re.escape(module.__name__)}(\.\w+)*?\.(?=[A-Z])")
    return [prefix.sub("", line) for line in found if line != f"{name}(*args, **kwargs)"]


def to_json(surface: dict[str, Any]) -> str:
    """The text of a surface file. A line for each class makes a new release a readable difference."""
    lines = ["{", f' "version": {json.dumps(surface["version"])},']
    for section in ("enums", "classes", "functions"):
        entries = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in surface[section].items()]
        lines += [f' "{section}": {{', ",\n".join(entries), " }" if section == "functions" else " },"]
    return "\n".join([*lines, "}"]) + "\n"


def names_in(surface: dict[str, Any]) -> frozenset[str]:
    """The top-level names that a surface holds, to record the same ones of another release."""
    names = (*surface["enums"], *surface["classes"], *surface["functions"])
    return frozenset(name for name in names if "." not in name)


def _bindings() -> ModuleType:
    for name in PACKAGES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise click.ClickException(f"neither {' nor '.join(PACKAGES)} can be imported; see --help")


@click.command(epilog="The module's docstring says how to get at the bindings without a GPU.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=".", help="Folder to write into.")
@click.option("--only", metavar="NAMES", default="", help="Classes and functions to keep, with commas; default all.")
@click.option("--like", type=click.Path(exists=True, path_type=Path), help="Surface file whose names are kept.")
def main(out: Path, only: str, like: Path | None) -> None:
    """Write `surface_VERSION.json`."""
    names = frozenset(filter(None, only.split(",")))
    if like is not None:
        names |= names_in(json.loads(like.read_text(encoding="utf-8")))
    surface = record(_bindings(), names)
    missing = sorted(names - names_in(surface))
    path = out / f"surface_{surface['version']}.json"
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(surface), encoding="utf-8")
    click.echo(f"{path}: {len(surface['classes'])} classes, {len(surface['enums'])} enums")
    if missing:
        click.echo(f"not in {surface['version']}: {', '.join(missing)}")


if __name__ == "__main__":
    main()
