"""The work of `python -m tools.bench`: graphs, candidates, rounds, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.profile.run import inputs as make_inputs
from spd.bundle import Bundle, open_bundle
from spd.config import PRESETS, SPDConfig, preset_name
from spd.errors import InputError
from tools.bench.graphs import Wanted, prepare
from tools.bench.machine import BUSY, DISTURBED, DRIFT, OtherLoad, describe, load_average, now, pin, versions
from tools.bench.macs import macs_of_file
from tools.bench.measure import Candidate, Measured, Skipped, measure
from tools.bench.report import Report
from tools.bench.rows import SPARSE, Row, left_out_by_quick, matching, unavailable
from tools.bench.spread import Spread
from tools.bench.subject import ENCODE, Inputs
from tools.bench.subjects import MatrixProduct, dense_size, make_subject
from tools.bench.torch_subject import TorchLiteral
from tools.bench.worker import WorkerError

COUNTS = (1, 16, 64, 256, 1024, 4096)
QUICK_COUNTS = (1, 256, 1024)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What to measure."""

    preset: str
    """Network whose graphs are exported, if no bundle is given."""
    bundle: Path | None
    """A bundle to measure, or a folder that holds one."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths, pixels, if no bundle is given."""
    patterns: tuple[str, ...]
    """Rows to measure, as `tools.bench.rows.matching` takes them."""
    rounds: int
    threads: int | None
    """Cores and threads; None for all."""
    cache: Path
    """Folder that keeps exported graphs and compiled code."""
    quick: bool
    """Fewer rows and fewer K."""
    command: str
    """As it was typed."""


def benchmark(options: Options, say: Say) -> Report:
    """Measure, with progress told to `say`.

    Raises:
        SPDError: the bundle cannot be used, a pattern names no row, or nothing could be measured.
    """
    load = load_average()
    chosen = matching(options.patterns)
    bundle = None if options.bundle is None else open_bundle(options.bundle)
    threads = pin(options.threads)
    config = PRESETS[options.preset] if bundle is None else bundle.manifest.config
    sizes = options.sizes if bundle is None else ((bundle.manifest.height, bundle.manifest.width),)
    counts: tuple[int, ...] = QUICK_COUNTS if options.quick else COUNTS
    if bundle is not None:  # the backends' own interface does not cut into chunks
        counts = tuple(count for count in counts if count <= bundle.manifest.max_points)
    reasons = {
        row: "left out by --quick" if options.quick and left_out_by_quick(row) else unavailable(row) for row in chosen
    }
    skipped = [Skipped(str(row), "", reason) for row, reason in reasons.items() if reason is not None]
    rows = [row for row in chosen if reasons[row] is None]
    eight_bits = {row.network for row in rows if row.eight_bits}
    wanted = {
        (row, size): Wanted(row.network, config, *size, int8=row.network in eight_bits)
        for size in sizes
        for row in rows
        if bundle is None or row.network != "spd"
    }
    made = prepare(list(wanted.values()), options.cache, threads, say)
    context = _Context(bundle, {of: made[one] for of, one in wanted.items()}, threads, options.cache)
    measured: list[Measured] = []
    others = OtherLoad()
    for size in sizes:
        candidates, without = _candidates(rows, config, size, counts, context)
        done, failed = measure(candidates, options.rounds, say)
        measured += done
        skipped += [*without, *failed]
    if all(one.row.network == "matmul" for one in measured):
        raise InputError(f"none of the rows can run here: {'; '.join(f'{one.row}: {one.reason}' for one in skipped)}")
    about = {
        "preset": options.preset if bundle is None else bundle.manifest.name,
        "network": preset_name(config),
        **about_run(options, threads, load, others.share()),
    }
    said = (*notes(options, about["machine"], bundle), *_notes_of_measured(measured))
    return Report(tuple(measured), tuple(skipped), counts, about, said)


def about_run(options: Options, threads: int, load: float | None, others: float | None) -> dict[str, Any]:
    """Where, when and how something was measured, for JSON."""
    return {
        "date": now(),
        "command": options.command,
        "quick": options.quick,
        "rounds": options.rounds,
        "machine": describe(threads, load, others),
        "versions": versions(),
    }


def notes(options: Options, machine: Mapping[str, Any], bundle: Bundle | None) -> tuple[str, ...]:
    """What to know when reading a report; `machine` is from `describe`."""
    found = []
    load, others = machine["load_before"], machine["others"]
    if options.quick:
        found.append(f"--quick, a first look: fewer rows and K, rounds: {options.rounds}")
    if load is not None and load > BUSY:
        found.append(f"something else was running (load average {load:.1f} before the start): do not use these numbers")
    if others is not None and others > DISTURBED:
        found.append(f"something else took {others:.0%} of the processor meanwhile: do not use these numbers")
    if bundle is None:
        found.append("untrained weights, exported without verification; speed does not depend on them")
    return tuple(found)


def _notes_of_measured(measured: Sequence[Measured]) -> list[str]:
    """Sizes that dense networks take instead, and how much the machine's speed changed."""
    found = []
    for one in measured:
        size = one.of.height, one.of.width
        if one.row.network == "matmul":
            spread = Spread.of(one.turns[ENCODE])
            if spread.p90 > spread.p10 * (1 + DRIFT):
                drift = spread.p90 / spread.p10 - 1
                found.append(
                    f"the speed of the machine changed by {drift:.0%} at {one.of.size} ({one.row}, p10 to p90)"
                )
        elif one.row.network not in SPARSE and (taken := dense_size(one.row.network, *size)) != size:
            found.append("{} runs at {}x{} instead of {}x{}".format(one.row.network, *taken, *size))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Context:
    bundle: Bundle | None
    graphs: Mapping[tuple[Row, tuple[int, int]], Path | WorkerError]
    """Folders by row and size."""
    threads: int
    cache: Path


def _candidates(
    rows: Sequence[Row], config: SPDConfig, size: tuple[int, int], counts: tuple[int, ...], context: _Context
) -> tuple[list[Candidate], list[Skipped]]:
    """The rows that have their graphs, and before them the limits of the devices that they run on."""
    inputs = Inputs(*make_inputs(*size, max(counts)), context.threads)
    found, without = [], []
    for row in rows:
        folder: Path | WorkerError
        if row.network == "spd" and context.bundle is not None:
            folder = context.bundle.path
        else:
            folder = context.graphs[row, size]
        if isinstance(folder, WorkerError):
            without.append(Skipped(str(row), f"{size[0]}x{size[1]}", f"its graphs cannot be made: {folder}"))
            continue
        works = (ENCODE, *counts) if row.network in SPARSE else (ENCODE,)
        macs = macs_of_works(row.network, folder, works)
        if row.runtime.startswith("torch"):
            found.append(
                Candidate(row, *size, works, macs, TorchLiteral, (row, config, context.cache / "torch", inputs))
            )
        else:
            found.append(Candidate(row, *size, works, macs, make_subject, (row, folder, inputs)))
    limits = [
        Candidate(row, *size, (ENCODE,), {ENCODE: MatrixProduct.SIDE**3}, MatrixProduct, (row.backend, context.threads))
        for row in dict.fromkeys(candidate.row.limit for candidate in found)
        if unavailable(row) is None
    ]
    return [*limits, *found], without


def macs_of_works(network: str, folder: Path, works: Sequence[int]) -> dict[int, int]:
    """Multiply-accumulates of each work, counted on the float32 graphs in a folder of `prepare` or the export."""
    if network not in SPARSE:
        return {ENCODE: macs_of_file(folder / "dense.onnx")}
    encoder, decoder = folder / "encoder.onnx", folder / "decoder.onnx"
    if network == "spd":
        bundle = open_bundle(folder)
        encoder, decoder = bundle.graph("encoder", "fp32"), bundle.graph("decoder", "fp32")
    return {work: macs_of_file(encoder) if work == ENCODE else macs_of_file(decoder, points=work) for work in works}
