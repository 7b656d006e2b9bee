"""Real inputs for Polygraphy: `polygraphy run BUNDLE/decoder.fp32.onnx ... --data-loader-script THIS`.

Polygraphy makes up random tensors otherwise: a cache that no encoder gives, and points that all lie in one corner. This
runs the bundle's encoder on an image and spreads points over it. `spd-profile BUNDLE --polygraphy` prints whole lines.

| variable | meaning | by default |
|---|---|---|
| `SPD_MODEL` | the graph that Polygraphy runs, in its bundle | the first `.onnx` file on Polygraphy's command line |
| `SPD_IMAGE` | a photo | a rendered room |
| `SPD_POINTS` | K, points per call | 256, or the bundle's limit |
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd.bundle import Bundle, open_bundle
from spd.bundle.gate import check_images
from spd.errors import BundleError, InputError, SPDError
from spd.images import read_image
from spd.preprocess import Letterbox

DEFAULT_POINTS = 256

Feed = dict[str, NDArray[Any]]


def load_data() -> Iterator[Feed]:
    """Yield the inputs of the graph once: the image, or the cache and float32 `points` [1, K, 2], (u, v) in pixels.

    Ends the process with one line on stderr if there is no bundle around the graph, or an input cannot be used.
    """
    try:
        yield feed(model_path(sys.argv), os.environ)
    except (SPDError, OSError) as error:
        raise SystemExit(f"Error: {error}") from error


def model_path(arguments: list[str]) -> Path:
    """The graph that Polygraphy was asked to run.

    Raises:
        InputError: neither `SPD_MODEL` nor the command line names one.
    """
    named = os.environ.get("SPD_MODEL") or next((word for word in arguments if word.endswith(".onnx")), None)
    if named is None:
        raise InputError(
            "no graph: set SPD_MODEL to the encoder or decoder of a bundle, such as engines/x/decoder.fp32.onnx"
        )
    return Path(named)


def feed(model: Path, settings: os._Environ[str] | dict[str, str]) -> Feed:
    """The inputs of one graph of a bundle.

    Args:
        model: its path.
        settings: `SPD_IMAGE` and `SPD_POINTS`, as above.

    Raises:
        BundleError: there is no bundle around the graph, or it is not one of it.
        ImageError: the image cannot be read.
        InputError: K is not a number that the bundle takes, or the graph is bfloat16, which numpy does not have.
    """
    bundle = open_bundle(model.parent)
    graph, precision = _graph_and_precision(bundle, model.name)
    manifest = bundle.manifest
    height, width = manifest.height, manifest.width
    image = check_images(height, width)[:1]
    if settings.get("SPD_IMAGE"):
        photo = read_image(Path(settings["SPD_IMAGE"]))
        image = Letterbox.fit(*photo.size, width, height).apply(photo)[None]
    if graph == "encoder":
        return {"image": image}
    count = _point_count(settings.get("SPD_POINTS"), manifest.max_points)
    points = np.random.default_rng(0).uniform((0, 0), (width, height), size=(1, count, 2))
    return {**_encoder_outputs(bundle, precision, image), "points": points.astype(np.float32)}


def _graph_and_precision(bundle: Bundle, name: str) -> tuple[str, str]:
    """Graph and precision of a file of a bundle."""
    for precision, files in bundle.manifest.graphs.items():
        for graph, file in files.items():
            if file == name:
                if precision == "bf16":
                    raise InputError(f"{name} is bfloat16, which numpy does not have; take its fp32 or fp16 graph")
                return graph, precision
    raise BundleError(
        f"{name} is no graph of {bundle.path}; expected encoder or decoder of {bundle.manifest.precisions}"
    )


def _point_count(text: str | None, limit: int) -> int:
    if not text:
        return min(DEFAULT_POINTS, limit)
    if not text.isdecimal() or not 1 <= int(text) <= limit:
        raise InputError(f"SPD_POINTS is {text!r}, expected a number from 1 to the bundle's {limit}")
    return int(text)


def _encoder_outputs(bundle: Bundle, precision: str, image: NDArray[np.uint8]) -> Feed:
    """The encoder's outputs by name, as ONNX Runtime computes them on the CPU."""
    import onnxruntime  # after what can be refused

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    encoder = onnxruntime.InferenceSession(
        str(bundle.graph("encoder", precision)), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in encoder.get_outputs()]
    return dict(zip(names, encoder.run(None, {"image": image}), strict=True))
