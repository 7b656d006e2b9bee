"""From a bundle of graphs to a bundle with engines: build, inspect, prove, publish."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engines.builder import PlanBuilder, PlanOptions
from engines.executor import Executor
from engines.inspection import Inspection, check_precision, inspect_layers, island_paths
from engines.inspector import plan_layers
from engines.layers import Layer
from engines.profiles import graph_profiles
from engines.progress import BuildState, watch
from engines.proof import Gate, prove, read_gate
from engines.publish import publish, read_report, staged_bundle
from engines.timing_cache import TimingCache, default_folder
from spd.bundle import Bundle, open_bundle
from spd.bundle.comparison import Comparison
from spd.bundle.manifest import GATE, GRAPHS, Manifest
from spd.bundle.plans import PlanRecord, Target
from spd.commands.progress import Phases
from spd.errors import BundleError
from spd.files import write_atomically
from spd.runtime.tensorrt.cuda import Gpu, current_target
from spd.runtime.tensorrt.engine import Engine, Runtime
from spd.staging import staging


@dataclass(frozen=True)
class BuildOptions:
    """Which engines to build, and how."""

    precisions: tuple[str, ...] = ()
    """fp32, fp16, bf16; by default fp16, or fp32 in a bundle without it."""
    edges: tuple[int, ...] | None = None
    """Largest K of each bucket; by default `profiles.DEFAULT_EDGES`."""
    plan: PlanOptions = field(default_factory=PlanOptions)
    timing_cache: Path | None = field(default_factory=default_folder)
    """Folder of the timing caches; None to keep no timings between builds."""
    verify: bool = True
    """Publish only engines that pass the gate of the export."""
    inspection: str | None = None
    """One of `engines.inspection.DEMANDS`: whether engines whose layers do not show their precision are reported or
    refused. By default they are reported where results are compared, and refused where nothing else proves them."""
    force: bool = False
    """Replace engines of the same precision."""
    verbose: bool = False
    """Show what TensorRT says."""


@dataclass(frozen=True)
class BuiltPlan:
    """One plan that was built and inspected."""

    record: PlanRecord
    inspection: Inspection
    seconds: float
    """Time of the build."""


@dataclass(frozen=True)
class Built:
    """A bundle with its new engines."""

    path: Path
    manifest: Manifest
    plans: tuple[BuiltPlan, ...]
    proofs: tuple[Comparison, ...]
    """One for each precision; empty without verification."""


@dataclass(frozen=True)
class _Job:
    """What every step of one build needs."""

    bundle: Bundle
    options: BuildOptions
    target: Target
    folder: Path
    builder: PlanBuilder
    phases: Phases


def build_engines(path: Path, options: BuildOptions, phases: Phases) -> Built:
    """Build, inspect and prove engines for the GPU at hand and put them into the bundle.

    Nothing in the bundle changes unless every step succeeds. Ctrl-C raises KeyboardInterrupt once TensorRT has stopped.

    Raises:
        BackendError: TensorRT or a GPU is missing, or fails.
        BundleError: the bundle cannot be used, lacks a precision, or has such engines already.
        ExportError: TensorRT cannot build a graph, or the plan is not in the asked precision, or not shown to be.
        ParityError: the engines do not compute what the model computes.
        InputError: the buckets do not fit the bundle.
        OSError: a file cannot be written.
    """
    bundle = open_bundle(path)
    precisions = _wanted_precisions(bundle, options)
    gates = {precision: read_gate(bundle, precision) for precision in precisions} if options.verify else {}
    target = current_target()

    phases.say(f"TensorRT {target.tensorrt} on {target.gpu}, compute capability {target.compute_capability}")
    cache = TimingCache(options.timing_cache, target, phases.say)
    builder = PlanBuilder(options.plan, cache, phases.say if options.verbose else None)
    with staging(bundle.path, "spd-build") as folder:
        job = _Job(bundle, options, target, folder, builder, phases)
        built = {precision: tuple(_build(job, precision, graph) for graph in GRAPHS) for precision in precisions}
        plans = tuple(plan for pair in built.values() for plan in pair)
        proofs: tuple[Comparison, ...] = ()
        if options.verify:
            proofs = tuple(_prove(job, p, built[p], gates[p]) for p in precisions)
        records = tuple(plan.record for plan in plans)
        proved = {proof.precision: proof for proof in proofs}
        report = {p: _report_entry(target, built[p], proved.get(p)) for p in precisions}
        # Another build may have added engines of another precision meanwhile.
        manifest = publish(open_bundle(bundle.path), folder, records, report)
    return Built(bundle.path, manifest, plans, proofs)


def _wanted_precisions(bundle: Bundle, options: BuildOptions) -> tuple[str, ...]:
    """What to build, each once, checked against what is there."""
    available = bundle.manifest.precisions
    precisions = tuple(dict.fromkeys(options.precisions)) or (("fp16",) if "fp16" in available else ("fp32",))
    for precision in precisions:
        for graph in GRAPHS:
            bundle.graph(graph, precision)
            graph_profiles(graph, bundle.manifest, options.edges)
    there = sorted({e.precision for e in bundle.manifest.engines if e.precision in precisions})
    if there and not options.force:
        raise BundleError(f"{bundle.path} has {' and '.join(there)} engines already; give --force to build them again")
    if any(engine.precision not in precisions for engine in bundle.manifest.engines):
        read_report(bundle)  # it will be kept in part, so a damaged one is refused now and not after the build
    return precisions


def _build(job: _Job, precision: str, graph: str) -> BuiltPlan:
    """Build one plan into the staging folder and read back what it became."""
    manifest, options = job.bundle.manifest, job.options
    profiles = graph_profiles(graph, manifest, options.edges)
    tensors = manifest.contract
    inputs = tensors.encoder_inputs if graph == "encoder" else tensors.decoder_inputs
    source, state = job.bundle.graph(graph, precision), BuildState()
    begin = time.monotonic()
    plan = watch(
        f"building {graph} {precision}",
        lambda: job.builder.build(source, inputs, profiles, state),
        state,
        job.phases,
    )
    seconds = time.monotonic() - begin
    file = f"{graph}.{precision}.engine"
    with write_atomically(job.folder / file) as out:
        out.write(plan)
    islands = island_paths(graph, manifest.config, manifest.float32_modules)
    inspection = inspect_layers(_layers_of_serialized(plan, file), precision, islands)
    demand = options.inspection or ("report" if options.verify else "require")
    doubt = check_precision(inspection, f"engine of the {graph}", demand)
    if doubt is not None:
        job.phases.say(f"Warning: {doubt}")
    record = PlanRecord(
        graph=graph,
        precision=precision,
        file=file,
        target=job.target,
        hardware_compatibility=options.plan.hardware_compatibility,
        profiles=profiles,
        options={
            "strongly_typed": True,
            "workspace": options.plan.workspace,
            "optimization_level": options.plan.optimization_level,
            "verified": options.verify,
        },
    )
    return BuiltPlan(record, inspection, seconds)


def _layers_of_serialized(plan: bytes, file: str) -> tuple[Layer, ...]:
    """The layers of a serialized plan."""
    runtime = Runtime()
    engine = runtime.deserialise(plan)
    if engine is None:
        raise runtime.error("deserialize_cuda_engine", file)
    return plan_layers(runtime, engine, file)


def _prove(job: _Job, precision: str, plans: tuple[BuiltPlan, ...], gate: Gate) -> Comparison:
    """Run the staged plans as the runtime would load them, and compare."""
    bundle = staged_bundle(job.bundle, job.folder, tuple(plan.record for plan in plans))
    gpu, runtime = Gpu(), Runtime()
    with job.phases(f"proving {precision}") as tick:
        executors: list[Executor] = []
        try:
            for plan in plans:
                executors.append(Executor(gpu, Engine(runtime, bundle, plan.record, job.target), precision))
            encoder, decoder = executors
            return prove(precision, encoder, decoder, gate, tick)
        finally:
            for executor in executors:
                executor.close()
            gpu.close()


def _report_entry(target: Target, plans: tuple[BuiltPlan, ...], proof: Comparison | None) -> dict[str, Any]:
    """The entry of one precision in `engines.json`."""
    return {
        "target": asdict(target),
        **{plan.record.graph: {"build_seconds": round(plan.seconds, 1), **plan.inspection.as_dict()} for plan in plans},
        "proof": None if proof is None else {"reference": GATE, **proof.as_dict()},
    }
