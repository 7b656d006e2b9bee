"""Who imports whom, what imports without the heavy packages, and that everything public says what it does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("spd", "export", "engines", "calib", "tools", "tests")
MAY_IMPORT = {"spd": set(), "export": {"spd"}, "engines": {"spd"}, "calib": {"spd", "export"}}
MAY_IMPORT_MORE = {"export/cli.py": {"engines"}}

HEAVY = (
    "torch", "torchvision", "timm", "onnx", "onnxscript", "safetensors", "tensorrt",
    "tensorrt_rtx", "transformers", "huggingface_hub", "lightning_fabric", "tensorboard", "h5py", "scipy",
    "matplotlib", "openvino", "starlette", "uvicorn", "prometheus_client", "python_multipart",
)  # fmt: skip
LIGHT = (
    "spd",
    "spd.runtime",
    "spd.bundle",
    "spd.errors",
    "spd.images",
    "spd.preprocess",
    "spd.bundle.contract",
    "spd.config",
    "spd.points",
    "spd.commands.infer.cli",
    "spd.commands.doctor",
    "spd.bundle.plans",
    "spd.runtime.available",
    "spd.commands.train",
    "spd.commands.evaluate",
    "spd.training.settings",
    "spd.data.sources",
    "spd.baselines.depth_anything",
    "spd.serve.cli",
)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every absolute import, also inside functions and by import_module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from ((node.lineno, arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def trespasses(source: str, where: str) -> list[str]:
    """Imports in the file `where` of folders that its own may not import."""
    folder = where.split("/", maxsplit=1)[0]
    allowed = {folder} | MAY_IMPORT[folder] | MAY_IMPORT_MORE.get(where, set())
    return [
        f"{where}:{line} imports {name}"
        for line, name in imported(ast.parse(source, where))
        if name.split(".")[0] in FOLDERS and name.split(".")[0] not in allowed
    ]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports(folder: str) -> None:
    paths = sources(folder)
    assert paths
    found = [
        line
        for path in paths
        for line in trespasses(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    ]
    assert not found


@pytest.mark.parametrize(
    ("where", "source", "refused"),
    [
        ("spd/a.py", "import export", True),
        ("spd/a.py", "def f():\n    from engines.build import plan", True),
        ("spd/a.py", "importlib.import_module('calib.images')", True),
        ("spd/a.py", "import spd.config\nfrom . import export\nimport exporter", False),
        ("export/graphs.py", "from spd import load", False),
        ("export/graphs.py", "from engines import build", True),
        ("export/cli.py", "from engines import build", False),
        ("export/cli.py", "import calib", True),
        ("engines/build.py", "import export.graphs", True),
        ("calib/ranges.py", "import export.graphs", False),
        ("calib/ranges.py", "import tools.bench", True),
    ],
)
def test_the_rule_itself(where: str, source: str, refused: bool) -> None:
    assert bool(trespasses(source, where)) == refused


WITHOUT_HEAVY = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
assert importlib.import_module({module!r}).__file__, "a folder without __init__.py"
"""


def import_alone(module: str) -> subprocess.CompletedProcess[str]:
    """Import one module in a Python that has none of the heavy packages."""
    code = WITHOUT_HEAVY.format(heavy=HEAVY, module=module)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", LIGHT)
def test_imports_without_heavy_packages(module: str) -> None:
    done = import_alone(module)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", [*HEAVY, "spd.models", "spd.checkpoint"])
def test_heavy_packages_are_really_absent(module: str) -> None:
    assert "is not installed here" in import_alone(module).stderr


def undocumented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of what is public and has no docstring: the module, its functions, its classes, their methods."""
    if not ast.get_docstring(tree):
        yield 1, "the module"
    bodies: list[ast.Module | ast.ClassDef] = [tree]
    while bodies:
        for node in bodies.pop().body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                if not ast.get_docstring(node) and "overload" not in map(ast.unparse, node.decorator_list):
                    yield node.lineno, node.name
                if isinstance(node, ast.ClassDef):
                    bodies.append(node)


def test_everything_public_is_documented() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sources(*(folder for folder in FOLDERS if folder != "tests"))
        for line, name in undocumented(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    ]
    assert not found


def test_what_counts_as_public() -> None:
    methods = ("f(self)", "_g(self)", "__len__(self)")
    source = "class A:\n" + "".join(f"  def {method}: pass\n" for method in methods)
    source += "  @overload\n  def h(self): pass\ndef _h(): pass\n"
    assert [name for _, name in undocumented(ast.parse(source))] == ["the module", "A", "f"]
