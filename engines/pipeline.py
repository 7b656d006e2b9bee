"""From a bundle of graphs to a bundle with engines: build, inspect, prove, publish."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engines.builder import PlanOptions
from engines.executor import Executor
from engines.inspection import Inspection, check_precision, inspect_layers, island_paths
from engines.makers import PlanMaker, ProfileFacts, RtxMaker, TensorRTMaker
from engines.profiles import graph_profiles
from engines.progress import BuildState, watch
from engines.proof import Gate, prove, read_gate
from engines.publish import publish, read_report, staged_bundle
from spd.bundle import Bundle, open_bundle
from spd.bundle.comparison import Comparison
from spd.bundle.manifest import GATE, GRAPHS, Manifest
from spd.bundle.plans import PlanRecord, Target
from spd.cache_files import user_cache_folder
from spd.commands.progress import Phases
from spd.errors import BackendError, BundleError
from spd.files import write_atomically
from spd.runtime.tensorrt.cuda import Gpu, current_target
from spd.runtime.tensorrt.engine import Engine, Runtime
from spd.runtime.tensorrt.library import LIBRARIES, Library, plan_records
from spd.staging import staging

FILES = {"tensorrt": "{graph}.{precision}.engine", "rtx": "{graph}.{precision}.rtx.engine"}
"""Names of plans by flavour."""


@dataclass(frozen=True)
class BuildOptions:
    """Which engines to build, and how."""

    precisions: tuple[str, ...] = ()
    """fp32, fp16, bf16, int8-fp16, fp8; by default fp16, or fp32 in a bundle without it."""
    edges: tuple[int, ...] | None = None
    """K of each bucket; by default `profiles.DEFAULT_EDGES`."""
    max_batch: int = 1
    """Most images in one call of the encoder."""
    flavour: str = "tensorrt"
    """One of `spd.bundle.plans.FLAVOURS`."""
    compute_capabilities: tuple[str, ...] = ()
    """What TensorRT for RTX compiles for; by default `engines.rtx.PORTABLE`."""
    plan: PlanOptions = field(default_factory=PlanOptions)
    timing_cache: Path | None = field(default_factory=user_cache_folder)
    """Folder of TensorRT's timing caches; None to keep no timings between builds."""
    verify: bool = True
    """Publish only engines that pass the gate of the export, where a GPU can run them."""
    inspection: str | None = None
    """One of `engines.inspection.DEMANDS`: whether engines whose layers do not show their precision are reported or
    refused. By default they are reported where results are compared, and refused where nothing else proves them."""
    force: bool = False
    """Replace engines of the same flavour and precision."""
    verbose: bool = False
    """Show what TensorRT says."""


@dataclass(frozen=True)
class BuiltPlan:
    """One plan that was built and inspected."""

    record: PlanRecord
    inspection: Inspection
    profiles: tuple[ProfileFacts, ...]
    seconds: float
    """Time of the build."""


@dataclass(frozen=True)
class Built:
    """A bundle with its new engines."""

    path: Path
    manifest: Manifest
    library: Library
    plans: tuple[BuiltPlan, ...]
    proofs: tuple[Comparison, ...]
    """One for each precision; empty if the engines did not run."""
    not_run: str | None
    """Why they did not run."""


@dataclass(frozen=True)
class _Job:
    """What every step of one build needs."""

    bundle: Bundle
    options: BuildOptions
    maker: PlanMaker
    here: Target | None
    """The machine at hand, if the engines are to be proven on it."""
    folder: Path
    phases: Phases


def build_engines(path: Path, options: BuildOptions, phases: Phases) -> Built:
    """Build and inspect engines, prove them on the GPU at hand, and put them into the bundle.

    TensorRT needs a GPU. TensorRT for RTX builds without one, and then nothing is proven.
    Nothing in the bundle changes unless every step succeeds. Ctrl-C raises KeyboardInterrupt once TensorRT has stopped.

    Raises:
        BackendError: the library is missing or fails, TensorRT has no GPU, or a GPU has no fp8.
        BundleError: the bundle cannot be used, lacks a precision, or has such engines already.
        ExportError: TensorRT cannot build a graph, or the plan is not in the asked precision, or not shown to be.
        ParityError: the engines do not compute what the model computes.
        InputError: the buckets do not fit the bundle.
        OSError: a file cannot be written.
    """
    bundle = open_bundle(path)
    precisions = _wanted_precisions(bundle, options)
    # Before anything is built, which takes minutes with TensorRT.
    gates = {p: read_gate(bundle, p) for p in precisions} if options.verify and options.flavour == "tensorrt" else {}
    maker = _maker(options, phases)
    maker.check(precisions)
    phases.say(maker.title)
    not_run = None if options.verify else "--no-verify"
    here: Target | None = None
    if options.verify:
        try:
            here = maker.machine()
            gates = gates or {p: read_gate(bundle, p) for p in precisions}
        except BackendError as error:
            not_run = str(error)
    with staging(bundle.path, "spd-build") as folder:
        job = _Job(bundle, options, maker, here, folder, phases)
        built = {precision: tuple(_build(job, precision, graph) for graph in GRAPHS) for precision in precisions}
        plans = tuple(plan for pair in built.values() for plan in pair)
        proofs: dict[str, Comparison] = {}
        records = tuple(plan.record for plan in plans)
        if here is not None:
            staged = staged_bundle(bundle, folder, records)
            proofs = {p: _prove(staged, maker.library, here, p, gates[p], phases) for p in precisions}
            records = tuple(replace(record, proven=True) for record in records)
        report = {(options.flavour, p): _report_entry(maker.target, built[p], here, proofs.get(p)) for p in precisions}
        # Another build may have added engines of another precision meanwhile.
        manifest = publish(open_bundle(bundle.path), folder, records, report)
    return Built(bundle.path, manifest, maker.library, plans, tuple(proofs.values()), not_run)


def prove_engines(path: Path, flavour: str, precisions: tuple[str, ...], phases: Phases) -> tuple[Comparison, ...]:
    """Run the engines that a bundle has on the GPU at hand, hold them to the gate of the export, and record it.

    Args:
        path: a bundle, or a folder that holds one.
        flavour: one of `spd.bundle.plans.FLAVOURS`.
        precisions: which engines; by default all of the flavour.
        phases: is told what goes on.

    Raises:
        BackendError: there are no such engines, or they cannot run here.
        BundleError: the bundle cannot be used, or was never verified.
        ParityError: the engines do not compute what the model computes; the bundle stays as it is.
        OSError: a file cannot be written.
    """
    bundle, library = open_bundle(path), LIBRARIES[flavour]
    there = tuple(dict.fromkeys(r.precision for r in bundle.manifest.engines if r.flavour == flavour))
    if not there:
        plan_records(bundle, None, library)  # says so
    pairs = {precision: plan_records(bundle, precision, library) for precision in precisions or there}
    gates = {precision: read_gate(bundle, precision) for precision in pairs}
    report = read_report(bundle)
    here = current_target(library)
    phases.say(f"{library.name} {here.tensorrt} on {here.gpu}, compute capability {here.compute_capability}")
    proofs = {p: _prove(bundle, library, here, p, gate, phases) for p, gate in gates.items()}
    entries = {
        (flavour, p): {**report.get(flavour, {}).get(p, {}), **_proof_entry(here, proof)} for p, proof in proofs.items()
    }
    records = tuple(replace(record, proven=True) for pair in pairs.values() for record in pair.values())
    with staging(bundle.path, "spd-build") as folder:
        publish(open_bundle(bundle.path), folder, records, entries)
    return tuple(proofs.values())


def _maker(options: BuildOptions, phases: Phases) -> PlanMaker:
    show = phases.say if options.verbose else None
    if options.flavour == "rtx":
        return RtxMaker(options.plan, options.compute_capabilities, show)
    return TensorRTMaker(options.plan, options.timing_cache, phases.say, show)


def _wanted_precisions(bundle: Bundle, options: BuildOptions) -> tuple[str, ...]:
    """What to build, each once, checked against what is there."""
    available = bundle.manifest.precisions
    precisions = tuple(dict.fromkeys(options.precisions)) or (("fp16",) if "fp16" in available else ("fp32",))
    for precision in precisions:
        for graph in GRAPHS:
            bundle.graph(graph, precision)
            graph_profiles(graph, bundle.manifest, options.edges, options.max_batch)
    mine = [engine for engine in bundle.manifest.engines if engine.flavour == options.flavour]
    there = sorted({engine.precision for engine in mine if engine.precision in precisions})
    if there and not options.force:
        raise BundleError(
            f"{bundle.path} has {' and '.join(there)} engines of {LIBRARIES[options.flavour].name} already; give "
            "--force to build them again"
        )
    if len(mine) < len(bundle.manifest.engines) or {engine.precision for engine in mine} - {*precisions}:
        read_report(bundle)  # it will be kept in part, so a damaged one is refused now and not after the build
    return precisions


def _build(job: _Job, precision: str, graph: str) -> BuiltPlan:
    """Build one plan into the staging folder and judge what it became."""
    manifest, options = job.bundle.manifest, job.options
    profiles = graph_profiles(graph, manifest, options.edges, options.max_batch)
    inputs = manifest.contract.inputs(graph)
    source, state = job.bundle.graph(graph, precision), BuildState()
    begin = time.monotonic()
    made = watch(
        f"building {graph} {precision}", lambda: job.maker.make(source, inputs, profiles, state), state, job.phases
    )
    seconds = time.monotonic() - begin
    file = FILES[options.flavour].format(graph=graph, precision=precision)
    with write_atomically(job.folder / file) as out:
        out.write(made.plan)
    islands = island_paths(graph, manifest.config, manifest.float32_modules)
    inspection = inspect_layers(made.layers, precision, islands)
    demand = options.inspection or ("report" if job.here is not None else "require")
    doubt = check_precision(inspection, f"engine of the {graph}", demand)
    if doubt is not None:
        job.phases.say(f"Warning: {doubt}")
    record = PlanRecord(
        graph=graph,
        precision=precision,
        file=file,
        target=job.maker.target,
        hardware_compatibility=options.plan.hardware_compatibility,
        profiles=profiles,
        options={
            "strongly_typed": True,
            "workspace": options.plan.workspace,
            "optimization_level": options.plan.optimization_level,
        },
    )
    return BuiltPlan(record, inspection, made.profiles, seconds)


def _prove(bundle: Bundle, library: Library, here: Target, precision: str, gate: Gate, phases: Phases) -> Comparison:
    """Run the plans of a bundle as the runtime would load them, and compare."""
    records = plan_records(bundle, precision, library)
    gpu, runtime = Gpu(), Runtime(library)
    with phases(f"proving {precision}") as tick:
        executors: list[Executor] = []
        try:
            for graph in GRAPHS:
                executors.append(Executor(gpu, Engine(runtime, bundle, records[graph], here), precision))
            encoder, decoder = executors
            return prove(precision, encoder, decoder, gate, tick)
        finally:
            for executor in executors:
                executor.close()
            gpu.close()


def _report_entry(
    target: Any, plans: tuple[BuiltPlan, ...], here: Target | None, proof: Comparison | None
) -> dict[str, Any]:
    """The entry of one flavour and precision in `engines.json`."""
    graphs = {
        plan.record.graph: {
            "build_seconds": round(plan.seconds, 1),
            **plan.inspection.as_dict(),
            "profiles": [facts.as_dict() for facts in plan.profiles],
        }
        for plan in plans
    }
    proven = {"proof": None} if here is None or proof is None else _proof_entry(here, proof)
    return {"target": asdict(target), **graphs, **proven}


def _proof_entry(here: Target, proof: Comparison) -> dict[str, Any]:
    """What the entry says of a proof."""
    return {"proof": {"reference": GATE, "machine": asdict(here), **proof.as_dict()}}
