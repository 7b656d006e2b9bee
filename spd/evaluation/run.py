"""The work of `spd-eval`: load, judge, write files, print the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from spd.commands.cli import note, write_stdout
from spd.commands.places import check_file, check_folder
from spd.commands.progress import Phases
from spd.data.sources import ROOMS, open_pairs
from spd.evaluation.protocol import Evaluation, Judged, Predictor, Settings, evaluate
from spd.evaluation.report import WRITERS, Subject, document, facts, table, title
from spd.files import CHECKPOINT_SUFFIXES, checkpoint_suffix, write_atomically
from spd.runtime import load
from spd.runtime.devices import cuda_missing

DEFAULT_ROOMS = 100
"""Rooms that are taken unless `--images` says otherwise; there is no end of them."""

SKIPPED_SHOWN = 3
"""Pairs that could not be used and are named; the others are counted."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    model: str
    """A bundle, a folder that holds one, a checkpoint, or what the baseline calls its weights."""
    data: str
    """`rooms`, or a path."""
    images: int | None
    """Only the first so many pairs."""
    ks: tuple[int, ...]
    dense: bool
    dense_points: int | None
    """Pixels per image of the row "dense"; None is all."""
    seed: int
    median_scale: bool
    backend: str
    precision: str | None
    threads: int | None
    """On the CPU; None is all cores."""
    size: tuple[int, int] | None
    """Height and width for a checkpoint, pixels."""
    weights: str
    """Which of a checkpoint, one of `CHECKPOINT_WEIGHTS`."""
    baseline: str | None
    out: Path | None
    """File with a suffix of `report.WRITERS`."""
    pictures: Path | None
    """Folder for a PNG per image."""


def run(request: Request) -> None:
    """Evaluate; files are written, then the table is printed.

    Raises:
        SPDError: the model or the data cannot be used.
        click.UsageError: the request contradicts itself, or its results have no place to go.
        OSError: a result cannot be written.
    """
    if request.out is not None:
        check_file(request.out, "--out", WRITERS, [Path(request.model)])
    if request.pictures is not None:
        check_folder(request.pictures, "--pictures")
        from spd.evaluation.picture import draw  # what it needs may be missing: known before anything is loaded
        from spd.utils.plots import write_png
    pairs = open_pairs(request.data, "test")
    if pairs.description:
        note(pairs.description)
    limit = request.images or (DEFAULT_ROOMS if request.data == ROOMS else len(pairs))
    settings = Settings(
        request.ks,
        request.dense,
        request.dense_points,
        request.seed,
        eigen_crop=request.data != ROOMS,
        median_scale=request.median_scale,
    )
    phases = Phases(Console(stderr=True))
    with ExitStack() as loaded:
        with phases(f"loading {request.model}"):
            predictor, subject = loaded.enter_context(_predictor(request))
        if request.pictures is not None:
            request.pictures.mkdir(exist_ok=True)
        with phases("evaluating", total=min(limit, len(pairs)), unit="images") as phase:
            phase(0)
            done = count(1)

            def watch(judged: Judged | None) -> None:
                if judged is not None and request.pictures is not None:
                    with write_atomically(request.pictures / f"{judged.index:05d}.png") as file:
                        write_png(draw(judged), file)
                phase(next(done))

            evaluation = evaluate(predictor, pairs, settings, limit=limit, watch=watch)
    found = document(evaluation, settings, subject, pairs.title)
    if request.out is not None:
        data = WRITERS[request.out.suffix.lower()](found)
        with write_atomically(request.out) as out:
            out.write(data)
    _print(found, evaluation)


def _print(found: dict[str, Any], evaluation: Evaluation) -> None:
    """The table on stdout, and on stderr what was not as it should be."""
    if evaluation.skipped:
        more = len(evaluation.skipped) - SKIPPED_SHOWN
        others = f"; and {more} more" if more > 0 else ""
        shown = "; ".join(evaluation.skipped[:SKIPPED_SHOWN])
        note(f"Skipped {len(evaluation.skipped)} that could not be used: {shown}{others}.")
    if evaluation.not_finite:
        note(f"{evaluation.not_finite} predictions were NaN or infinite; NaN counted as the lowest depth.")
    console = Console()
    with console.capture() as capture:
        console.print(title(found), markup=False, highlight=False, soft_wrap=True)
        console.print(table(found))
        console.print(facts(found), markup=False, highlight=False, soft_wrap=True)
    write_stdout(capture.get().encode(console.encoding, "replace"))


@contextmanager
def _predictor(request: Request) -> Iterator[tuple[Predictor, Subject]]:
    """What is evaluated, and what the report calls it."""
    name = Path(request.model).name
    if request.baseline is not None:
        from spd.baselines.depth_anything import load_depth_anything  # only this baseline's business

        network = load_depth_anything(request.model)
        if network.relative and not request.median_scale:
            message = f"{request.model} does not predict metres, but depth up to a scale of each image's own"
            raise click.UsageError(f"{message}; add --median-scale")
        yield network, Subject(name, None, request.baseline, "fp32", None)
        return
    path = Path(request.model)
    if checkpoint_suffix(path) is None:
        for option, default in (("size", None), ("weights", "auto")):
            if getattr(request, option) != default:
                suffixes = ", ".join(CHECKPOINT_SUFFIXES)
                raise click.UsageError(f"--{option} is for checkpoints ({suffixes}); a bundle has its own")
    with load(
        path,
        backend=request.backend,
        precision=request.precision,
        size=request.size,
        weights=request.weights,
        threads=request.threads,
    ) as model:
        sha256 = None
        if model.manifest is None:
            for line in model.notes:
                note(f"Note: {line}.")
        else:
            name, sha256 = model.manifest.name, model.manifest.weights_sha256
            if not model.manifest.trained:
                note("Note: the weights of this bundle are random, not trained.")
        height, width = model.size
        subject = Subject(name, sha256, model.backend, model.precision, f"{height}x{width}")
        if model.backend != "torch" or cuda_missing() is None:
            yield model, subject
            return
        from spd.evaluation.threads import points_on_threads  # torch

        with points_on_threads(model) as spread:
            yield spread, subject
