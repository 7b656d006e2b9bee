"""Every preset as it is deployed: what it computes, and that it passes the gate and compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from export_support import EXACT, EXACT_GPU, HEIGHT, WIDTH, relative
from rich.console import Console

from engines.inspection import inspect_layers, island_paths
from engines.profile.compiled import compile_bundle
from export.decoder import DeployedDecoder
from export.encoder import DeployedEncoder
from spd.bundle import open_bundle
from spd.bundle.contract import cache_tensors
from spd.bundle.gate import check_points
from spd.commands.progress import Phases
from spd.config import PRESETS
from spd.models import seeded

ROOT = Path(__file__).parents[2]
COMPUTE, POINTS = "8.9", 256


@pytest.mark.parametrize("preset", ["femto", "pico", "nano"])
def test_the_deployed_forms_are_the_literal_one_whatever_the_widths(preset: str) -> None:
    """In float64. The other tests of the rewrites do it for atto, layer by layer."""
    model = seeded(PRESETS[preset]).double().requires_grad_(False)
    image = torch.randint(0, 256, (1, 128, 160, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    points = torch.from_numpy(check_points(128, 160, 12, seed=1)[None]).double()
    want = model(image.permute(0, 3, 1, 2).double() / 255, points)
    assert want.std() > 0.01, "all depths are alike: the comparison says nothing"
    for form in (EXACT, EXACT_GPU):
        cache = DeployedEncoder(model, form)(image)
        assert [tuple(x.shape) for x in cache] == [s.resolved(1) for s in cache_tensors(model.config, 128, 160)]
        (depth,) = DeployedDecoder(model, 128, 160, form)(*cache, points)
        assert relative(depth, want) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes_the_gate_and_compiles(preset: str, tmp_path: Path) -> None:
    size = ["--size", f"{HEIGHT}x{WIDTH}", "--max-points", str(POINTS), "--precision", "fp16"]
    command = [sys.executable, "-m", "export.cli", "--seed-checkpoint", preset, "--out", str(tmp_path), *size]
    done = subprocess.run([*command, "--build", "no"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / f"{preset}-{HEIGHT}x{WIDTH}"
    manifest = open_bundle(folder).manifest
    assert (manifest.preset, manifest.config, manifest.verified) == (preset, PRESETS[preset], True)
    assert manifest.precisions == ("fp32", "fp16")
    weights = sum(parameter.numel() for parameter in seeded(manifest.config).parameters())
    nbytes = {name: record.bytes for name, record in manifest.files.items()}
    fp32, fp16 = (sum(nbytes[name] for name in manifest.graphs[precision].values()) for precision in ("fp32", "fp16"))
    assert fp32 == pytest.approx(4 * weights, rel=0.15)
    assert fp16 == pytest.approx(2 * weights, rel=0.15)

    if find_spec("tensorrt_rtx") is None:
        pytest.skip("the gate is passed; TensorRT for RTX, to compile the graphs, is not installed")
    with open(os.devnull, "w") as nowhere:
        compiled = compile_bundle(folder, "fp16", POINTS, Phases(Console(file=nowhere)), COMPUTE)
    for graph in compiled.graphs:
        inspection = inspect_layers(graph.compiled.kernels, "fp16", island_paths(graph.graph, manifest.config))
        assert (inspection.verdict, inspection.unknown) == ("proven", ())
        assert graph.total_cost.macs > 0
        assert 50 < graph.total.kernels < 200
