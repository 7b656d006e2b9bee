"""Running a job on Ray Data, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import ray
from ray.data import ActorPoolStrategy, DataContext

from spd.bulk.listing import list_photos
from spd.bulk.places import Place
from spd.bulk.plan import Job, Part, make_plan, parts_to_do
from spd.bulk.request import Request
from spd.bulk.worker import Work, Worker
from spd.bundle import open_bundle
from spd.bundle.manifest import MANIFEST, FileRecord
from spd.commands.progress import Phases
from spd.errors import BackendError, PointsError
from spd.points import PointTable, read_points


def run_job(request: Request, phases: Phases) -> None:
    """Answer all photos that have no answer yet.

    Raises:
        SPDError: the photos cannot be listed, the points or the bundle cannot be used, the folder of results is that of
            another job, or a result cannot be written.
        OSError: the plan cannot be written.
    """
    points = read_points(request.points)
    if isinstance(points, PointTable) and points.images() is not None:
        raise PointsError(f"{request.points} has a column image; here all points are asked of every photo")
    bundle = open_bundle(request.engines)
    digest = FileRecord.of(bundle.path / MANIFEST).sha256
    out = Place(request.out)
    with phases("listing photos"):
        parts = make_plan(out, Job(digest, request.points), list_photos(request.photos), request.part)
        to_do = parts_to_do(out, parts)
    photos = sum(len(part.photos) for part in to_do)
    if before := sum(len(part.photos) for part in parts) - photos:
        phases.say(f"{before} photos are done already")
    if not to_do:
        return
    engines = str(bundle.path.absolute())
    work = Work(engines, request.backend, request.precision, request.threads, points, digest, out)
    with phases("starting Ray"):
        _start(request.address)
    try:
        with phases("depths", total=photos, unit="photos") as phase:
            done = errors = 0
            for row in _results(request, work, to_do):
                if row["fault"]:
                    raise BackendError(row["fault"])
                done, errors = done + row["photos"], errors + len(row["errors"])
                for error in row["errors"]:
                    phases.say(error)
                phase(done, f"{errors} with an error" if errors else "")
    finally:
        ray.shutdown()
    phases.say(f"{done} photos in {phases.seconds:.0f} s, {errors} with an error: {request.out}")


def _start(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    context = DataContext.get_current()
    context.enable_progress_bars = False  # there is one of our own
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _results(request: Request, work: Work, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    """What `Worker` says of each part, as they are done."""
    rows = [{"part": part.index, "photos": list(part.photos)} for part in parts]
    # A block for each part: whoever is free takes the next one.
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        cast(Any, Worker),  # Ray's types know functions only
        fn_constructor_args=(work,),
        compute=ActorPoolStrategy(size=min(request.workers or _workers(request), len(parts))),
        num_cpus=1,
        num_gpus=request.num_gpus or None,
    )
    yield from data.iter_rows()


def _workers(request: Request) -> int:
    """How many workers there is room for."""
    if request.num_gpus:
        gpus: float = ray.cluster_resources().get("GPU", 0)
        return max(1, int(gpus / request.num_gpus))
    return max(1, len([node for node in ray.nodes() if node["Alive"]]))
