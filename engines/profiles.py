"""Optimisation profiles from the contract: one image for the encoder, buckets of K for the decoder.

A profile that spans 1 to 1024 points is tuned for one of them and slow at the others, and its scratch memory is that
of the largest. So there is a profile for each K that the runtime pads to, and for nothing else; likewise for one image.
"""

from __future__ import annotations

from itertools import pairwise

from spd.bundle.contract import TensorSpec
from spd.bundle.manifest import Manifest
from spd.bundle.plans import PlanProfile
from spd.errors import InputError

DEFAULT_EDGES = (64, 256, 1024)
"""K of each bucket. More points are asked in chunks of the largest.

For `tiny` at 480x640 in float16 TensorRT for RTX needs 12, 20 and 55 MB of scratch memory for them, and 215 MB for
4,096. Every lane of the runtime holds the largest. The encoder needs 34 MB for one image, 310 MB for up to 8.
"""

Shape = tuple[int, ...]


def buckets(max_points: int, edges: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """K of each bucket, rising.

    Args:
        max_points: the bundle's limit of points per call.
        edges: what was asked for. By default `DEFAULT_EDGES`, as far as they are within the limit, or else the limit.

    Raises:
        InputError: there are none, they do not rise, or lie outside 1..max_points.
    """
    if edges is None:
        return tuple(edge for edge in DEFAULT_EDGES if edge <= max_points) or (max_points,)
    if not edges or edges[0] < 1 or edges[-1] > max_points or any(low >= high for low, high in pairwise(edges)):
        raise InputError(
            f"buckets {','.join(map(str, edges))} do not rise within 1 to {max_points}, the bundle's limit of points; "
            "give the largest K of each bucket, such as 64,256,1024"
        )
    return edges


def graph_profiles(
    graph: str, manifest: Manifest, edges: tuple[int, ...] | None = None, max_batch: int = 1
) -> tuple[PlanProfile, ...]:
    """The profiles of the `encoder` or the `decoder` of a bundle.

    Args:
        graph: encoder or decoder.
        manifest: the bundle's.
        edges: K of each bucket of the decoder, as in `buckets`.
        max_batch: most images in one call of the encoder. For more than one it gets a second profile, for 1 to as many,
            that SPD's own runtime does not use. The decoder always takes the cache of one image.

    Raises:
        InputError: the edges or `max_batch` are beyond the bundle's limits.
    """
    if graph == "decoder":
        return tuple(
            PlanProfile(batch=(1, 1, 1), points=(points,) * 3) for points in buckets(manifest.max_points, edges)
        )
    if not 1 <= max_batch <= manifest.max_batch:
        raise InputError(f"max_batch is {max_batch}, expected 1 to {manifest.max_batch}, the bundle's limit of images")
    single = PlanProfile(batch=(1, 1, 1), points=None)
    return (single,) if max_batch == 1 else (single, PlanProfile(batch=(1, 1, max_batch), points=None))


def input_shapes(inputs: tuple[TensorSpec, ...], profile: PlanProfile) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Smallest, best and largest shape of each graph input under a profile."""
    points = profile.points or (0, 0, 0)
    low, best, high = zip(profile.batch, points, strict=True)
    return {spec.name: (spec.resolved(*low), spec.resolved(*best), spec.resolved(*high)) for spec in inputs}
