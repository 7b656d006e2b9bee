"""Bundles with TensorRT engines, built by the stand-in: what several tests of the runtime share."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stand_ins.cuda_core import streams

import spd
from engines.builder import PlanBuilder, PlanOptions, tensorrt_compiler
from engines.profiles import graph_profiles
from engines.progress import BuildState
from engines.rtx import rtx_compiler
from spd.bundle import GRAPHS, MANIFEST, FileRecord, open_bundle
from spd.bundle.plans import PlanRecord, RtxTarget
from spd.runtime import Model
from spd.runtime.tensorrt.cuda import current_target

EDGES = (4, 16, 48)
"""Small buckets, so that all of them and more than the largest are quick."""


def add_engines(
    folder: Path,
    precision: str = "fp32",
    edges: tuple[int, ...] = EDGES,
    max_batch: int = 1,
    capabilities: tuple[str, ...] = (),
) -> Path:
    """Build the engines of a precision into a bundle.

    Args:
        folder: the bundle.
        precision: fp32, fp16 or bf16.
        edges: the largest K of the decoder's buckets.
        max_batch: images that an encoder takes at once.
        capabilities: builds with TensorRT for RTX, for these; without any, with TensorRT.
    """
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    compiler = rtx_compiler(*capabilities) if capabilities else tensorrt_compiler()
    target = RtxTarget(compiler.trt.__version__, capabilities) if capabilities else current_target()
    builder = PlanBuilder(PlanOptions(), None, compiler=compiler)
    records, files = list(manifest.engines), dict(manifest.files)
    for graph in GRAPHS:
        inputs = manifest.contract.inputs(graph)
        profiles = graph_profiles(graph, manifest, edges, max_batch)
        plan = folder / f"{graph}.{precision}{'.rtx' if capabilities else ''}.engine"
        plan.write_bytes(builder.build(bundle.graph(graph, precision), inputs, profiles, BuildState()))
        files[plan.name] = FileRecord.of(plan)
        records.append(PlanRecord(graph, precision, plan.name, target, "none", profiles, {}, proven=True))
    manifest = dataclasses.replace(manifest, engines=tuple(records), files=files)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def replace_records(folder: Path, *records: PlanRecord) -> None:
    """Let a bundle's manifest say something else of its plans."""
    manifest = dataclasses.replace(open_bundle(folder).manifest, engines=records)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Replace a file of a bundle, and its sha256 in the manifest."""
    (folder / name).unlink()  # it may be a link to another bundle's
    (folder / name).write_bytes(data)
    manifest = open_bundle(folder).manifest
    files = {**manifest.files, name: FileRecord.of(folder / name)}
    (folder / MANIFEST).write_text(dataclasses.replace(manifest, files=files).to_json(), encoding="utf-8")


@contextmanager
def only_loaded(folder: Path, machine: Any) -> Iterator[Model]:
    """The model of a bundle, after which nothing is left on the device."""
    with nothing_left(machine):
        with spd.load(folder, backend="tensorrt") as model:
            yield model
        del model
        gc.collect()


@contextmanager
def nothing_left(machine: Any) -> Iterator[None]:
    """Everything that was taken from the device in the block is given back at its end."""
    yield
    events = machine.counts.events
    left = {name: events[name] for name in ("live_contexts", "live_graphs", "live_engines")}
    assert {"buffers": machine.live_buffers, **left} == dict.fromkeys(("buffers", *left), 0)


def nothing_pending(machine: Any) -> bool:
    """Whether all work is done, so that staging buffers can be written to."""
    return not any(stream._timeline.queue for stream in streams(machine).values())
