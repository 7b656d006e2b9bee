"""How cost and memory grow with K, with the image and with the batch, for SPD alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import spd
from engines.profile.run import inputs as make_inputs
from spd.bundle import Bundle, open_bundle
from spd.config import PRESETS
from spd.errors import InputError
from spd.runtime.backend import cache_nbytes
from tools.bench.graphs import Wanted, prepare
from tools.bench.growth_report import Growth, GrowthReport, Line
from tools.bench.machine import OtherLoad, load_average, pin
from tools.bench.macs import macs_of_file
from tools.bench.measure import Candidate, Measured, Skipped, measure
from tools.bench.rows import Row
from tools.bench.run import Options, about_run, notes
from tools.bench.spread import Spread
from tools.bench.subject import ENCODE, Inputs, Subject
from tools.bench.subjects import OnnxRuntime
from tools.bench.worker import WorkerError

COUNTS, QUICK_COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536), (1, 256, 4096, 16384)
SIZES, QUICK_SIZES = ((192, 256), (384, 512), (480, 640), (768, 1024), (960, 1280)), ((192, 256), (480, 640))
BATCHES, QUICK_BATCHES = (1, 2, 4, 8), (1, 2)
BASE = (480, 640)
"""Size at which K and the batch grow."""

POINTS = 256
"""K while something else grows."""

Say = Callable[[str], None]


class PublicScene(Subject):
    """`spd.load`, `encode` and `scene.depth` as an application calls them, in chunks beyond the bundle's limit."""

    def __init__(self, path: Path, image: NDArray[np.uint8], points: NDArray[np.float32], threads: int) -> None:
        """Load a bundle for an image [H, W, 3] and points (u, v) [K, 2] of it, for the largest K."""
        self._model = spd.load(path, threads=threads)
        self._image, self._points = image, points
        self._scene: spd.Scene | None = None
        manifest = self._model.manifest
        assert manifest is not None
        self.scene_mb = cache_nbytes(manifest.contract, self._model.precision) / 1e6

    def encode(self) -> None:
        """As in `Subject`."""
        self._scene = self._model.encode(self._image)

    def decode(self, count: int) -> NDArray[np.float32]:
        """As in `Subject`."""
        assert self._scene is not None
        return self._scene.depth(self._points[:count])[None]


@dataclass(frozen=True)
class _Context:
    options: Options
    threads: int
    say: Say
    skipped: list[Skipped]

    def measure(self, candidates: list[Candidate]) -> list[Measured]:
        done, failed = measure(candidates, self.options.rounds, self.say)
        self.skipped.extend(failed)
        return done


def grow(options: Options, say: Say) -> GrowthReport:
    """Measure all three.

    Raises:
        SPDError: the bundle cannot be used, or none can be made.
    """
    load, others = load_average(), OtherLoad()
    given = None if options.bundle is None else open_bundle(options.bundle)
    threads = pin(options.threads)
    context = _Context(options, threads, say, [])
    bundles = _open_bundles(context) if given is None else {(given.manifest.height, given.manifest.width): given}
    if not bundles:
        raise InputError(f"no bundle can be made: {context.skipped[0].reason}")
    base = bundles.get(BASE) or next(iter(bundles.values()))
    parts = [_measure_points(context, base), _measure_batches(context, base)]
    if given is None:
        parts.insert(1, _measure_sizes(context, list(bundles.values())))
    preset = options.preset if given is None else given.manifest.name
    about = {"preset": preset, **about_run(options, threads, load, others.share())}
    return GrowthReport(tuple(parts), tuple(context.skipped), about, notes(options, about["machine"], given))


def _open_bundles(context: _Context) -> dict[tuple[int, int], Bundle]:
    """Untrained bundles of all sizes."""
    options = context.options
    wanted = {size: Wanted("spd", PRESETS[options.preset], *size) for size in options.sizes}
    made = prepare(list(wanted.values()), options.cache, context.threads, context.say)
    found = {}
    for size, one in wanted.items():
        folder = made[one]
        if isinstance(folder, WorkerError):
            context.skipped.append(Skipped("spd", f"{size[0]}x{size[1]}", str(folder)))
        else:
            found[size] = open_bundle(folder)
    return found


def _public_candidate(context: _Context, bundle: Bundle, works: tuple[int, ...]) -> Candidate:
    height, width = bundle.manifest.height, bundle.manifest.width
    image, points = make_inputs(height, width, max(works))
    # In a large image float32 rounds a point near the edge to outside.
    inside = np.minimum(points[0], np.array([width, height], dtype=np.float32) - 0.5)
    args = (bundle.path, image[0], inside, context.threads)
    return Candidate(
        Row("spd", "scene.depth"), height, width, works, _macs_by_work(bundle, works, 1), PublicScene, args
    )


def _macs_by_work(bundle: Bundle, works: Iterable[int], batch: int) -> dict[int, int]:
    encoder, decoder = (bundle.graph(graph, "fp32") for graph in ("encoder", "decoder"))
    return {k: macs_of_file(encoder, batch) if k == ENCODE else macs_of_file(decoder, batch, k) for k in works}


def _measure_points(context: _Context, bundle: Bundle) -> Growth:
    counts = QUICK_COUNTS if context.options.quick else COUNTS
    done = context.measure([_public_candidate(context, bundle, (ENCODE, *counts))])
    lines = [_make_line(str(count), count, one, count) for one in done for count in counts]
    limit = bundle.manifest.max_points
    size = f"{bundle.manifest.height}x{bundle.manifest.width}"
    return Growth("K", f"Points, {size}, scene.depth in calls of up to {limit}", tuple(lines))


def _measure_sizes(context: _Context, bundles: list[Bundle]) -> Growth:
    done = context.measure([_public_candidate(context, bundle, (ENCODE, POINTS)) for bundle in bundles])
    lines = [_make_line(one.of.size, one.of.height * one.of.width / 1e6, one, POINTS) for one in done]
    title = f"Image size, model.encode and scene.depth of K = {POINTS}; exponents over the number of pixels"
    return Growth("size", title, tuple(sorted(lines, key=lambda line: line.amount)))


def _measure_batches(context: _Context, bundle: Bundle) -> Growth:
    manifest, found = bundle.manifest, []
    files = {graph: bundle.graph(graph, "fp32") for graph in ("encoder", "decoder")}
    for batch in QUICK_BATCHES if context.options.quick else BATCHES:
        if batch > manifest.max_batch:
            break
        image, points = make_inputs(manifest.height, manifest.width, POINTS)
        inputs = Inputs(np.repeat(image, batch, axis=0), np.repeat(points, batch, axis=0), context.threads)
        works = (ENCODE, POINTS)
        row = Row("spd", f"onnxruntime-cpu, B = {batch}")
        macs = _macs_by_work(bundle, works, batch)
        args = ("onnxruntime-cpu", files, inputs.image, inputs)  # `spd.Model` takes one image
        found.append(Candidate(row, manifest.height, manifest.width, works, macs, OnnxRuntime, args, batch))
    lines = [_make_line(str(one.of.batch), one.of.batch, one, POINTS) for one in context.measure(found)]
    title = f"Batch, {manifest.height}x{manifest.width}, the graphs on ONNX Runtime's CPU provider, K = {POINTS} each"
    return Growth("batch", title, tuple(lines))


def _make_line(at: str, amount: float, measured: Measured, points: int) -> Line:
    return Line(
        at=at,
        amount=amount,
        encode_ms=Spread.of(measured.turns[ENCODE]),
        decode_ms=Spread.of(measured.turns[points]),
        points=points,
        encode_gmac=measured.of.macs[ENCODE] / 1e9,
        peak_mb=measured.peak_mb[points],
        scene_mb=measured.scene_mb or 0.0,
    )
