"""What each process of the cluster does: load the bundle once, then answer parts and write their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from spd.bulk.places import Place, parquet_bytes
from spd.bulk.plan import Part
from spd.commands.infer.pipeline import encoded_ahead
from spd.errors import InputError, SPDError
from spd.images import read_image
from spd.images.sources import MAX_BYTES
from spd.points import Pattern, PointTable
from spd.preprocess import inside
from spd.runtime import Model, load

SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "u": pa.list_(pa.float32()),
        "v": pa.list_(pa.float32()),
        "depth": pa.list_(pa.float32()),
        "error": pa.string(),
        "bundle": pa.dictionary(pa.int32(), pa.string()),
    }
)
"""A row for each photo: its points in pixels, its depths in metres (null outside the photo), what went wrong or null,
and the sha256 of the bundle's manifest."""


@dataclass(frozen=True)
class Work:
    """What a worker is told."""

    engines: str
    """Path of the bundle, on every machine."""
    backend: str
    precision: str | None
    threads: int | None
    points: PointTable | Pattern
    bundle: str
    """sha256 of its manifest."""
    out: Place


class Worker:
    """Answers parts. Ray makes one in each process."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._model: Model | SPDError
        try:
            self._model = load(Path(work.engines), work.backend, precision=work.precision, threads=work.threads)
        except SPDError as error:  # raised here, Ray would start it again and again
            self._model = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write a part.

        Args:
            row: `part`, its number, and `photos`, their names.

        Returns:
            `photos`, how many it has; `errors`, a line for each that could not be used; `fault`, why no part can be
            written, or nothing.
        """
        part = Part(int(row["part"]), tuple(row["photos"]))
        place = self._work.out / part.file
        if isinstance(self._model, SPDError):
            return _report(fault=str(self._model))
        try:
            rows = list(self._rows(part.photos, self._model))
            place.write(parquet_bytes(pa.Table.from_pylist(rows, SCHEMA)))
        except SPDError as error:
            return _report(fault=str(error))
        except OSError as error:
            return _report(fault=f"{place.name} cannot be written: {error.strerror or error}")
        return _report(len(rows), [row["error"] for row in rows if row["error"]])

    def _rows(self, photos: tuple[str, ...], model: Model) -> Iterator[dict[str, Any]]:
        for name, encoded in zip(photos, encoded_ahead(photos, self._read, lambda: nullcontext(model)), strict=True):
            row: dict[str, Any] = {"image": name, "error": None, "bundle": self._work.bundle}
            problem, points = encoded.question
            if encoded.scene is None:
                row["error"] = problem
            else:
                with encoded.scene as scene:
                    depth = scene.depth(points, outside="nan")
                    within = inside(points, scene.width, scene.height)
                depths = [metres if here else None for metres, here in zip(depth.tolist(), within, strict=True)]
                row |= {"u": points[:, 0], "v": points[:, 1], "depth": depths}
                if outside := len(points) - np.count_nonzero(within):
                    row["error"] = f"{name}: {outside} of {len(points)} points are outside the photo"
            yield row

    def _read(self, name: str) -> tuple[tuple[str, Any], Image.Image | None]:
        """A photo's points, [K, 2], and its pixels; a problem if it cannot be used."""
        place, source = Place(name), self._work.points
        try:
            image = read_image(Path(name) if place.is_local else place.read(MAX_BYTES), name)
        except InputError as error:
            return (str(error), np.empty((0, 2), np.float32)), None
        except (SPDError, MemoryError) as error:
            return (f"{name}: {error}", np.empty((0, 2), np.float32)), None
        table = source.table(*image.size) if isinstance(source, Pattern) else source
        return ("", table.points), image


def _report(photos: int = 0, errors: list[str] | None = None, fault: str = "") -> dict[str, Any]:
    return {"photos": photos, "errors": errors or [], "fault": fault}
