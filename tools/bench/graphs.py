"""The graphs that are compared, made once and kept in a folder until what they are made from changes.

Everything heavy happens in processes of its own: the benchmark's stays small.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spd.config import SPDConfig, preset_name
from spd.runtime.available import unavailable
from spd.runtime.devices import cuda_missing
from spd.runtime.machine import package_versions
from spd.staging import staged
from tools.bench.worker import Worker, WorkerError

ROOT = Path(__file__).parents[2]

SOURCES = {
    "spd": ("export/*.py", "spd/*.py", "spd/models/*.py"),
    "literal": ("spd/*.py", "spd/models/*.py", "tools/bench/literal.py"),
    "dav2s": ("spd/baselines/*.py", "tools/bench/dense.py"),
}
"""What decides about the graphs of a network."""

AT_ONCE = 4
"""Exports at the same time: each takes 2 GB of memory."""

_PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnx-ir", "transformers", "tensorrt")


@dataclass(frozen=True)
class Wanted:
    """Graphs of a network for one size."""

    network: str
    """spd, literal or dav2s."""
    config: SPDConfig
    height: int
    """Pixels."""
    width: int
    """Pixels."""

    def folder(self, cache: Path) -> Path:
        """Where they are, or will be."""
        name = "dav2s" if self.network == "dav2s" else f"{self.network}-{preset_name(self.config) or 'custom'}"
        config = None if self.network == "dav2s" else self.config
        # A bundle gets float16 graphs and engines where there is a GPU.
        made_with = config, cuda_missing() is None, package_versions(_PACKAGES)
        digest = hashlib.sha256(repr(made_with).encode())
        for pattern in SOURCES[self.network]:
            for source in sorted(ROOT.glob(pattern)):
                digest.update(source.read_bytes())
        return cache / f"{name}-{self.height}x{self.width}" / digest.hexdigest()[:16]


def prepare(
    wanted: Sequence[Wanted], cache: Path, at_once: int, say: Callable[[str], None]
) -> dict[Wanted, Path | WorkerError]:
    """Make the graphs that are not there yet.

    Args:
        wanted: all that will be asked for.
        cache: folder that keeps them; older ones of the same network and size are removed.
        at_once: how many may be made at the same time, each on one core; at most `AT_ONCE`.
        say: is told what is made.

    Returns:
        The folder of each, or why there is none.
    """
    found: dict[Wanted, Path | WorkerError] = {}
    missing = []
    for one in dict.fromkeys(wanted):
        folder = found[one] = one.folder(cache)
        if not folder.is_dir():
            missing.append(one)
    at_once = min(at_once, AT_ONCE)
    for start in range(0, len(missing), at_once):
        batch = missing[start : start + at_once]
        for one in batch:
            kind = "untrained and unverified, for timing only" if one.network == "spd" else "random weights"
            say(f"exporting {one.network} for {one.height}x{one.width} into {cache} ({kind}); kept for the next run")
        workers: list[Worker] = []
        try:
            for one in batch:
                workers.append(Worker(make_graphs, one, one.folder(cache)))
            for one, worker in zip(batch, workers, strict=True):
                try:
                    worker.made()
                except WorkerError as error:
                    found[one] = error
        finally:
            for worker in workers:
                worker.close()
    return found


def make_graphs(wanted: Wanted, folder: Path) -> None:
    """Export one network to a folder that appears only when it is complete; the work of a `Worker`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.iterdir():
        shutil.rmtree(old, ignore_errors=True)
    if wanted.network == "spd":
        _export_bundle(wanted, folder)
        return
    with staged(folder) as unfinished:
        if wanted.network == "literal":
            from tools.bench.literal import export_literal

            export_literal(wanted.config, wanted.height, wanted.width, unfinished)
        else:
            from tools.bench.dense import export_dense

            export_dense(wanted.height, wanted.width, unfinished / "dense.onnx")


def _export_bundle(wanted: Wanted, folder: Path) -> None:
    """As `spd-export --seed-checkpoint PRESET --no-verify` does it, with engines where TensorRT and a GPU are."""
    from rich.console import Console

    from engines.pipeline import BuildOptions, build_engines
    from export.graphs import GraphOptions
    from export.pipeline import Options, Source, export_bundle
    from spd.checkpoint import weights_sha256
    from spd.commands.progress import Phases
    from spd.models import seeded

    precisions = ("fp32",) if cuda_missing() else ("fp32", "fp16")
    options = Options(GraphOptions(wanted.height, wanted.width), precisions, folder.name, verify=False)
    model, phases = seeded(wanted.config), Phases(Console(file=sys.stderr))
    export_bundle(Source(model, None, weights_sha256(model.state_dict())), folder.parent, options, phases)
    if unavailable("tensorrt") is None:
        build_engines(folder, BuildOptions(("fp16",)), phases)
