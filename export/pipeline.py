"""From a model to a published bundle: trace, check, write, verify, rename."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from export.accuracy import GateRooms, QuantisedResult, measure_quantised
from export.calibration import calibration_set
from export.graphs import GraphOptions, build_graphs, check_policy_fits
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
from export.quantise import float_modules, quantise
from export.reference import make_reference
from export.runners import GraphFiles
from spd.bundle import GATE, PARITY, Manifest
from spd.bundle.contract import PRECISIONS, QUANTISED
from spd.checkpoint import load_checkpoint, weights_sha256
from spd.commands.progress import Phases
from spd.config import PRESETS, preset_name
from spd.errors import ParityError
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
    images: Path | None = None
    """Folder of the photos that 8-bit graphs are calibrated on; None for rendered rooms."""


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
    parity: tuple[ParityResult | QuantisedResult, ...]
    skipped: tuple[str, ...] = ()
    """Why photos were left out of the calibration, a message each."""


def bundle_name(model: SPD, options: Options) -> str:
    """The folder's name: as asked for, or <preset>-<height>x<width>."""
    preset = preset_name(model.config) or "custom"
    return f"{preset}-{options.graphs.height}x{options.graphs.width}" if options.name is None else options.name


def export_bundle(source: Source, out: Path, options: Options, phases: Phases) -> Exported:
    """Export a model to `out/<name>/`; nothing is left there unless every step succeeds.

    Raises:
        ExportError: the target exists, the policy does not fit, or a graph cannot be written or is not what it must be.
        ImageError: the folder of photos holds none that can be read.
        ParityError: a graph does not compute what the model computes.
        OSError: the folder cannot be written.
    """
    model = source.model
    name = bundle_name(model, options)
    target = check_target(out, name, options.force)
    asked, limits = options.graphs, options.graphs.limits
    check_policy_fits(model, asked)
    precisions = [p for p in PRECISIONS if p == "fp32" or p in options.precisions]
    calibration = None
    if set(precisions) & QUANTISED.keys():
        with phases("reading photos" if options.images else "rendering rooms to calibrate on") as tick:
            calibration = calibration_set(options.images, asked.height, asked.width, limits.max_points, tick)
    with staged(target) as folder, tempfile.TemporaryDirectory(prefix="spd-export.") as scratch:
        written: dict[str, GraphFiles] = {}
        for precision in precisions:
            if precision not in QUANTISED:
                with phases(f"tracing {precision}"):
                    graphs = build_graphs(model, precision, asked)
            else:
                assert calibration is not None
                base = _unquantised_files(model, precision, asked, Path(scratch), phases)
                with phases(f"quantising {precision}") as tick:
                    graphs = quantise(base, precision, calibration, float_modules(model.config, asked.policy), tick)
            if precision != "int8":  # which TensorRT does not take
                check_operators(graphs.encoder)
                check_operators(graphs.decoder)
            written[precision] = write_graphs(folder, precision, graphs)
        results: list[ParityResult | QuantisedResult] = []
        if options.verify:
            results = _verify(source, written, asked, folder, phases)
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
                graphs={p: {"encoder": f.encoder.name, "decoder": f.decoder.name} for p, f in written.items()},
                files=file_records(folder),
                tools=tool_versions(),
                calibration=None if calibration is None else calibration.record,
                float32_modules=asked.policy.float32_modules,
            )
            write_manifest(folder, manifest)
    return Exported(target, manifest, tuple(results), () if calibration is None else calibration.skipped)


def _unquantised_files(model: SPD, precision: str, asked: GraphOptions, scratch: Path, phases: Phases) -> GraphFiles:
    """The graphs that those of an 8-bit precision are made from: unlike the bundle's, all with constant weights."""
    base = QUANTISED[precision]
    files = GraphFiles.within(scratch, base)
    if not files.encoder.exists():
        with phases(f"tracing {base} to quantise"):
            write_graphs(scratch, base, build_graphs(model, precision, asked))
    return files


def _verify(
    source: Source, written: dict[str, GraphFiles], asked: GraphOptions, folder: Path, phases: Phases
) -> list[ParityResult | QuantisedResult]:
    """Hold all graphs to the gate, and write what proves them."""
    model, max_points = source.model, asked.limits.max_points
    results: list[ParityResult | QuantisedResult] = []
    with phases("running the literal model") as tick:
        reference = make_reference(model, asked.height, asked.width, max_points, tick)
    for precision in [p for p in written if p not in QUANTISED]:
        with phases(f"verifying {precision}") as tick:
            results.append(verify(model, written[precision], reference, max_points, tick))
    if quantised := [p for p in written if p in QUANTISED]:
        with phases("running fp32 on rooms") as tick:
            rooms = GateRooms(written["fp32"], asked.height, asked.width, tick)
        for precision in quantised:
            with phases(f"verifying {precision}") as tick:
                trained = source.checkpoint is not None
                result = measure_quantised(written[precision], rooms, reference, max_points, trained, tick)
            if not result.passed:
                raise ParityError(
                    f"{precision} graphs are too far from the float32 ones: {result.difference}; no bundle was written "
                    f"(try other --images, or export without --precision {precision})"
                )
            results.append(result)
    reference.write(folder / GATE)
    write_json(folder / PARITY, {result.precision: result.as_dict() for result in results})
    return results
