"""The graphs that are compared, made once and kept in a folder until what they are made from changes.

Everything heavy happens in processes of its own: the benchmark's stays small.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spd.config import SPDConfig, preset_name
from spd.runtime.available import unavailable
from spd.runtime.devices import cuda_missing
from spd.runtime.machine import package_versions
from spd.staging import staged
from tools.bench.rows import SPARSE
from tools.bench.worker import Worker, WorkerError

ROOT = Path(__file__).parents[2]

SOURCES = {
    "spd": ("export/*.py", "spd/*.py", "spd/bundle/*.py", "spd/models/*.py"),
    "literal": ("spd/*.py", "spd/models/*.py", "tools/bench/literal.py", "tools/bench/tracing.py"),
}
"""What decides about the graphs of a network."""

DENSE_SOURCES = ("spd/baselines/*.py", "tools/bench/dense.py", "tools/bench/tracing.py", "export/quantise.py")
"""The same for all dense networks."""

AT_ONCE = 4
"""Exports at the same time: each takes 2 GB of memory."""

CALIBRATION_IMAGES = 2
"""Images of noise that 8-bit graphs are calibrated on. Speed does not depend on the scales; 16 rooms take minutes."""

_PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnx-ir", "transformers", "tensorrt", "ultralytics")


@dataclass(frozen=True)
class Wanted:
    """Graphs of a network for one size."""

    network: str
    """One of `tools.bench.rows.NETWORKS` that is not the matrix product."""
    config: SPDConfig
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    int8: bool = False
    """Whether 8-bit graphs are wanted beside the others."""

    def folder(self, cache: Path) -> Path:
        """Where they are, or will be."""
        ours = self.network in SPARSE
        name = f"{self.network}-{preset_name(self.config) or 'custom'}" if ours else self.network
        # A bundle gets float16 graphs and engines where there is a GPU.
        made_with = self.config if ours else None, cuda_missing() is None, package_versions(_PACKAGES)
        digest = hashlib.sha256(repr(made_with).encode())
        for pattern in SOURCES.get(self.network, DENSE_SOURCES):
            for source in sorted(ROOT.glob(pattern)):
                digest.update(source.read_bytes())
        size = f"{self.height}x{self.width}{'-int8' if self.int8 else ''}"
        return cache / f"{name}-{size}" / digest.hexdigest()[:16]


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
    at_once, done, begin = min(at_once, AT_ONCE), 0, time.monotonic()
    for start in range(0, len(missing), at_once):
        batch = missing[start : start + at_once]
        for one in batch:
            kind = "untrained and unverified, for timing only" if one.network == "spd" else "random weights"
            bits = " and in 8 bits, for minutes," if one.int8 else ""
            say(
                f"exporting {one.network} for {one.height}x{one.width}{bits} into {cache} ({kind}); "
                "kept for the next run"
            )
        workers: list[Worker] = []
        try:
            for one in batch:
                workers.append(Worker(make_graphs, one, one.folder(cache)))
            for one, worker in zip(batch, workers, strict=True):
                outcome = "exported"
                try:
                    worker.made()
                except WorkerError as error:
                    found[one], outcome = error, "could not export"
                done += 1
                say(f"{outcome} {one.network}: {done} of {len(missing)} after {time.monotonic() - begin:.0f} s")
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

            export_dense(wanted.network, wanted.height, wanted.width, unfinished, wanted.int8)


def _export_bundle(wanted: Wanted, folder: Path) -> None:
    """As `spd-export --seed-checkpoint PRESET --no-verify` does it, with engines where TensorRT and a GPU are."""
    from rich.console import Console

    from engines.pipeline import BuildOptions, build_engines
    from export.graphs import GraphOptions
    from export.pipeline import Options, Source, export_bundle
    from spd.checkpoint import weights_sha256
    from spd.commands.progress import Phases
    from spd.models import seeded

    precisions = ("fp32", *(() if cuda_missing() else ("fp16",)), *(("int8",) if wanted.int8 else ()))
    model, phases = seeded(wanted.config), Phases(Console(file=sys.stderr))
    with tempfile.TemporaryDirectory(prefix="spd-bench.") as images:
        if wanted.int8:
            _write_noise(Path(images), wanted.height, wanted.width)
        graphs = GraphOptions(wanted.height, wanted.width)
        options = Options(graphs, precisions, folder.name, verify=False, images=Path(images))
        export_bundle(Source(model, None, weights_sha256(model.state_dict())), folder.parent, options, phases)
    if unavailable("tensorrt") is None:
        build_engines(folder, BuildOptions(("fp16",)), phases)


def _write_noise(folder: Path, height: int, width: int) -> None:
    """Write `CALIBRATION_IMAGES` images."""
    import numpy as np
    from PIL import Image

    for i in range(CALIBRATION_IMAGES):
        noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
