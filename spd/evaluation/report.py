"""The result of an evaluation as JSON, as CSV, and as a table for people.

JSON is one object with these keys; later versions may add keys, `format_version` counts other changes.

| key | value |
|---|---|
| `format`, `format_version` | "spd-eval", 1 |
| `version` | of spd |
| `model`, `weights_sha256` | name of the bundle or file; hash from the bundle's manifest, null where there is none |
| `backend`, `precision` | what ran it; a baseline is its own backend |
| `size` | HEIGHTxWIDTH of the encoder's image in pixels; null for a baseline |
| `data` | data set, layout and split |
| `images`, `skipped` | how many images the means are over, and how many pairs could not be used |
| `seed` | of the points |
| `dense_points` | random valid pixels per image of the row "dense"; null where all valid ones were asked |
| `median_scale` | whether predictions were scaled to the median of the truth, image by image |
| `cropped` | images of which only the Eigen crop counted |
| `not_finite` | predictions that were NaN or infinite |
| `by_k` | "1", "64", ..., "dense" to {`abs_rel`, `rmse` (metres), `delta1`, `delta2`, `delta3` (shares 0..1)} |

CSV has a line for each of `by_k`: the column `k`, the five metrics, and the other keys, the same in each line:
files can be joined. Numbers are not rounded.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spd.evaluation.protocol import DENSE, Evaluation, Settings
from spd.utils.metrics import NAMES
from spd.version import __version__

if TYPE_CHECKING:
    from rich.table import Table

FORMAT, FORMAT_VERSION = "spd-eval", 1

HEADINGS = ("AbsRel", "RMSE [m]", "δ < 1.25", "δ < 1.25²", "δ < 1.25³")
"""What the table calls the metrics."""


@dataclass(frozen=True)
class Subject:
    """What was evaluated; the fields are the keys above."""

    model: str
    weights_sha256: str | None
    backend: str
    precision: str
    size: str | None


def document(evaluation: Evaluation, settings: Settings, subject: Subject, data: str) -> dict[str, Any]:
    """The keys listed above; `data` is the title of the pairs."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        **asdict(subject),
        "data": data,
        "images": evaluation.images,
        "skipped": len(evaluation.skipped),
        "seed": settings.seed,
        "dense_points": settings.dense_points,
        "median_scale": settings.median_scale,
        "cropped": evaluation.cropped,
        "not_finite": evaluation.not_finite,
        "by_k": {label: asdict(metrics) for label, metrics in evaluation.by_k.items()},
    }


def to_json(found: dict[str, Any]) -> bytes:
    """A document as one JSON object."""
    return f"{json.dumps(found, indent=2, allow_nan=False)}\n".encode()


def to_csv(found: dict[str, Any]) -> bytes:
    """A document as a header and a line per row; what is null in JSON is an empty cell, true and false are words."""
    other = {key: value for key, value in found.items() if key != "by_k"}
    cells = [json.dumps(value) if isinstance(value, bool) else value for value in other.values()]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["k", *NAMES, *other])
    for label, metrics in found["by_k"].items():
        writer.writerow([label, *(metrics[name] for name in NAMES), *cells])
    return file.getvalue().encode("utf-8", "surrogateescape")  # file names need not be UTF-8


WRITERS: dict[str, Callable[[dict[str, Any]], bytes]] = {".json": to_json, ".csv": to_csv}
"""What writes a file with this suffix."""


def title(found: dict[str, Any]) -> str:
    """One line: what was evaluated."""
    size = "" if found["size"] is None else f" {found['size']}"
    return f"{found['model']}{size} {found['precision']} on {found['backend']}"


def table(found: dict[str, Any]) -> Table:
    """A document as the paper's table: a row per K, deltas in percent. A sampled row "dense" names its size."""
    from rich.table import Table  # 60 ms that files do not need

    result = Table()
    for heading in ("K", *HEADINGS):
        result.add_column(heading, justify="right")
    for label, metrics in found["by_k"].items():
        texts = (f"{metrics[n]:.2%}" if n.startswith("delta") else f"{metrics[n]:.4f}" for n in NAMES)
        most = found["dense_points"]
        result.add_row(f"{DENSE}: {most:,}" if label == DENSE and most else label, *texts)
    return result


def facts(found: dict[str, Any]) -> str:
    """One line: what the numbers of the table are of."""
    images = found["images"]
    parts = [f"{found['data']}: {images} image{'s' * (images != 1)}, seed {found['seed']}"]
    if found["skipped"]:
        parts.append(f"{found['skipped']} skipped")
    if found["cropped"]:
        parts.append("Eigen crop" if found["cropped"] == images else f"Eigen crop on {found['cropped']} of them")
    if DENSE in found["by_k"]:
        most = found["dense_points"]
        parts.append("dense: " + ("all" if most is None else f"up to {most:,} random") + " valid pixels per image")
    if found["median_scale"]:
        parts.append("predictions scaled to the median of the truth")
    return "; ".join(parts)
