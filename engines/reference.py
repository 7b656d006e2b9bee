"""What a plan is compared with: the bundle's float32 graphs in ONNX Runtime, which the export proved (parity.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd.bundle import Bundle
from spd.bundle.gate import CHUNK, REFERENCE_POINTS, Tolerance, check_images, check_points
from spd.bundle.manifest import PARITY
from spd.errors import BundleError


@dataclass(frozen=True)
class Gate:
    """What the export held the graphs of one precision to, and where."""

    tolerance: Tolerance
    cases: tuple[tuple[int, int], ...]
    """Images and points per image of every case."""
    undecided: tuple[tuple[int, int], ...] = ()
    """Image and index of the points that are not compared, see `spd.bundle.gate.UNDECIDED`."""


@dataclass(frozen=True)
class Reference:
    """Images, points on each, and their depth."""

    images: NDArray[np.uint8]
    """[2, H, W, 3], those of `spd.bundle.gate.check_images`."""
    points: NDArray[np.float32]
    """[2, N, 2], (u, v) in pixels: inside, in corners, on borders, outside, twice the same."""
    depth: NDArray[np.float32]
    """[2, N], metres."""


def read_gate(bundle: Bundle, precision: str) -> Gate:
    """The tolerances and cases of the export, from `parity.json`.

    Raises:
        BundleError: the bundle was never verified, or the file cannot be read.
    """
    if not bundle.manifest.verified or PARITY not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path} was exported with --no-verify, so there is nothing to hold its engines to; export it again "
            "without, or build with --no-verify"
        )
    path = bundle.file(PARITY)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[precision]
        tolerance = found["tolerance"]
        cases = {(int(case["batch"]), int(case["points"])) for case in found["cases"]}
        undecided = tuple((int(image), int(point)) for image, point in found["undecided"])
        return Gate(Tolerance(float(tolerance["max"]), float(tolerance["mean"])), tuple(sorted(cases)), undecided)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} has no tolerance and cases for {precision}; export the bundle again") from error


def make_reference(bundle: Bundle) -> Reference:
    """Run the float32 graphs on the CPU.

    Raises:
        BundleError: a graph is missing or changed.
    """
    import onnxruntime  # 0.1 s that a build without proof does not need

    height, width = bundle.manifest.height, bundle.manifest.width
    encoder, decoder = (
        onnxruntime.InferenceSession(str(bundle.graph(graph, "fp32")), providers=["CPUExecutionProvider"])
        for graph in ("encoder", "decoder")
    )
    images = check_images(height, width)
    count = min(bundle.manifest.max_points, REFERENCE_POINTS)
    points = np.stack([check_points(height, width, count, seed) for seed in range(len(images))])
    names = [output.name for output in encoder.get_outputs()]
    depth = []
    for image, of_image in zip(images, points, strict=True):
        cache = dict(zip(names, encoder.run(None, {"image": image[None]}), strict=True))
        chunks = [
            decoder.run(["depth"], {**cache, "points": of_image[None, start : start + CHUNK]})[0][0]
            for start in range(0, count, CHUNK)
        ]
        depth.append(np.concatenate(chunks))
    return Reference(images, points, np.stack(depth))
