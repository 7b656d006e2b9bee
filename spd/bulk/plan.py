"""What a job has to do and what is done: a photo belongs to one part, and a part is done when its file is there.

The plan is kept beside the results, so a job that is begun again asks for the same parts. A worker of a killed job that
still writes its part writes what the next job would: no photo is lost, and none is there twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
from pyarrow import parquet

from spd.bulk.places import Place, parquet_bytes
from spd.errors import InputError

PLAN = "_plan.parquet"
"""A name that Parquet's readers pass over."""
_META = b"spd.job"


@dataclass(frozen=True)
class Job:
    """What must stay the same from one start of a job to the next."""

    bundle: str
    """sha256 of the bundle's manifest."""
    points: str
    """As in --points."""


@dataclass(frozen=True)
class Part:
    """Photos whose depths are in one file."""

    index: int
    photos: tuple[str, ...]

    @property
    def file(self) -> str:
        """Its name in the folder of results."""
        return f"part-{self.index:08d}.parquet"


def make_plan(out: Place, job: Job, photos: Sequence[str], size: int) -> list[Part]:
    """The parts of a job, as the folder's plan has them; photos that are new come in new parts, and it is written.

    Args:
        out: folder of results; made if it does not exist.
        job: compared with the one that the folder was begun with.
        photos: names of photos.
        size: most photos in a new part.

    Raises:
        InputError: the folder was begun for another bundle or other points, or holds something else.
        OSError: the plan cannot be written.
    """
    parts = _read_plan(out, job)
    known = {photo for part in parts for photo in part.photos}
    new = [photo for photo in photos if photo not in known]
    starts = range(0, len(new), size)
    parts += [Part(len(parts) + i, tuple(new[start : start + size])) for i, start in enumerate(starts)]
    if new:
        out.make_folder()
        rows = [(part.index, photo) for part in parts for photo in part.photos]
        table = pa.table({"part": [part for part, _ in rows], "image": [photo for _, photo in rows]})
        (out / PLAN).write(parquet_bytes(table.replace_schema_metadata({_META: json.dumps(asdict(job))})))
    return parts


def _read_plan(out: Place, job: Job) -> list[Part]:
    place = out / PLAN
    if not place.exists:
        found = next(out.files(), None)
        if found is not None:
            raise InputError(f"{out.name} holds other files ({found.name}); give a new or empty folder")
        return []
    system, path = place.opened()
    table = parquet.read_table(path, filesystem=system)
    begun = Job(**json.loads(table.schema.metadata[_META]))
    for what, before, now in (("bundle", begun.bundle, job.bundle), ("points", begun.points, job.points)):
        if before != now:
            raise InputError(f"{out.name} was begun with {what} {before}, not {now}; give another --out")
    photos: dict[int, list[str]] = {}
    for part, photo in zip(table["part"].to_pylist(), table["image"].to_pylist(), strict=True):
        photos.setdefault(part, []).append(photo)
    return [Part(index, tuple(names)) for index, names in photos.items()]


def parts_to_do(out: Place, parts: Sequence[Part]) -> list[Part]:
    """Those whose file is not there."""
    done = {file.name.rpartition("/")[2] for file in out.files()}
    return [part for part in parts if part.file not in done]
