"""From a model to a published bundle: trace, check, write, verify, rename."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from export.graphs import GraphOptions, build_graphs
from export.operators import check_operators
from export.parity import ParityResult, verify
from export.publish import (
    check_target,
    file_records,
    tool_versions,
    write_graphs,
    write_json,
    write_manifest,
)
from export.reference import make_reference
from spd.bundle import GATE, PARITY, Manifest
from spd.bundle.contract import PRECISIONS
from spd.checkpoint import load_checkpoint, weights_sha256
from spd.commands.progress import Phases
from spd.config import PRESETS, preset_name
from spd.models import SPD, seeded
from spd.staging import staged


@dataclass(frozen=True)
class Options:
    """What a bundle shall be."""

    graphs: GraphOptions = field(default_factory=GraphOptions)
    precisions: tuple[str, ...] = ("fp32", "fp16")
    """fp32 is always written."""
    name: str | None = None
    """Name of the bundle's folder; by default <preset>-<height>x<width>."""
    force: bool = False
    """Replace a bundle of the same name."""
    verify: bool = True
    """Publish only graphs that pass the parity gate."""


@dataclass(frozen=True)
class Source:
    """A model and where it came from."""

    model: SPD
    checkpoint: str | None
    """File name of its checkpoint; None for untrained weights."""
    weights_sha256: str
    size: tuple[int, int] | None = None
    """Height and width in pixels of the images that it was trained on, if the checkpoint says."""
    note: str | None = None
    """Which of the checkpoint's weights were taken, if it has several and nobody chose."""


def load_source(
    checkpoint: Path | None, seeded_preset: str | None, preset: str | None, weights: str = "auto"
) -> Source:
    """Read a checkpoint, or make the untrained network of a preset.

    Args:
        checkpoint: file with the weights; None for untrained ones.
        seeded_preset: the preset of untrained weights.
        preset: the network of a checkpoint that does not say.
        weights: which of a checkpoint's weights, see `spd.checkpoint.load_checkpoint`.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    if checkpoint is None:
        assert seeded_preset is not None
        model = seeded(PRESETS[seeded_preset])
        return Source(model, None, weights_sha256(model.state_dict()))
    loaded = load_checkpoint(checkpoint, preset, weights=weights)
    assert isinstance(loaded.model, SPD)  # load_checkpoint refuses other networks unless they are asked for
    return Source(loaded.model, checkpoint.name, loaded.weights_sha256, loaded.size, loaded.note)


@dataclass(frozen=True)
class Exported:
    """A published bundle."""

    path: Path
    manifest: Manifest
    parity: tuple[ParityResult, ...]


def bundle_name(model: SPD, options: Options) -> str:
    """The folder's name: as asked for, or <preset>-<height>x<width>."""
    preset = preset_name(model.config) or "custom"
    return f"{preset}-{options.graphs.height}x{options.graphs.width}" if options.name is None else options.name


def export_bundle(source: Source, out: Path, options: Options, phases: Phases) -> Exported:
    """Export a model to `out/<name>/`; nothing is left there unless every step succeeds.

    Raises:
        ExportError: the target exists, or a graph cannot be written or is not what it must be.
        ParityError: a graph does not compute what the model computes.
        OSError: the folder cannot be written.
    """
    model = source.model
    name = bundle_name(model, options)
    target = check_target(out, name, options.force)
    asked, limits = options.graphs, options.graphs.limits
    precisions = [p for p in PRECISIONS if p == "fp32" or p in options.precisions]
    with staged(target) as folder:
        written = []
        for precision in precisions:
            with phases(f"tracing {precision}"):
                graphs = build_graphs(model, precision, asked)
                check_operators(graphs.encoder)
                check_operators(graphs.decoder)
                written.append(write_graphs(folder, precision, graphs))
        results = []
        if options.verify:
            with phases("running the literal model") as tick:
                reference = make_reference(model, asked.height, asked.width, limits.max_points, tick)
            for files in written:
                with phases(f"verifying {files.precision}") as tick:
                    results.append(verify(model, files, reference, limits.max_points, tick))
            reference.write(folder / GATE)
            write_json(folder / PARITY, {result.precision: result.as_dict() for result in results})
        with phases("publishing"):
            manifest = Manifest(
                name=name,
                config=model.config,
                preset=preset_name(model.config),
                height=asked.height,
                width=asked.width,
                max_points=limits.max_points,
                max_batch=limits.max_batch,
                opset=asked.opset,
                with_routes=asked.with_routes,
                verified=options.verify,
                trained=source.checkpoint is not None,
                checkpoint=source.checkpoint,
                weights_sha256=source.weights_sha256,
                graphs={f.precision: {"encoder": f.encoder.name, "decoder": f.decoder.name} for f in written},
                files=file_records(folder),
                tools=tool_versions(),
                float32_modules=asked.policy.float32_modules,
            )
            write_manifest(folder, manifest)
    return Exported(target, manifest, tuple(results))
