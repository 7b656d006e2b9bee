"""Optimisation profiles from the contract: images per call for the encoder, buckets of K for the decoder.

A profile that spans 1 to 4096 points is tuned for one of them and slow at the others, so K is cut into buckets with a
profile each. The runtime pads K to the largest of its bucket, which is therefore what each profile is tuned for.
"""

from __future__ import annotations

from spd.bundle.contract import TensorSpec
from spd.bundle.manifest import Manifest
from spd.bundle.plans import PlanProfile
from spd.errors import InputError

DEFAULT_EDGES = (64, 256, 1024)
"""Largest K of every bucket but the last, which ends at the bundle's limit."""

Shape = tuple[int, ...]


def bucket_ranges(max_points: int, edges: tuple[int, ...] | None = None) -> tuple[tuple[int, int], ...]:
    """Cut 1..max_points into neighbouring buckets.

    Args:
        max_points: the bundle's limit of points per call.
        edges: largest K of each bucket, rising; the last bucket ends at `max_points` whether it is given or not. By
            default `DEFAULT_EDGES`, as far as they are below the limit.

    Returns:
        Smallest and largest K of each bucket, without gaps from 1 to max_points.

    Raises:
        InputError: the edges do not rise, or lie outside 1..max_points.
    """
    if edges is None:
        edges = tuple(edge for edge in DEFAULT_EDGES if edge < max_points)
    ends = edges if edges[-1:] == (max_points,) else (*edges, max_points)
    ranges = tuple(zip((1, *(end + 1 for end in ends[:-1])), ends, strict=True))
    if any(low > high for low, high in ranges):
        raise InputError(
            f"buckets {','.join(map(str, edges))} do not rise from 1 to the bundle's limit of {max_points} points; "
            "give the largest K of each bucket, such as 64,256,1024"
        )
    return ranges


def graph_profiles(graph: str, manifest: Manifest, edges: tuple[int, ...] | None = None) -> tuple[PlanProfile, ...]:
    """The profiles of the `encoder` or the `decoder` of a bundle.

    The encoder takes 1 to max_batch images and is tuned for one. The decoder takes the cache of one image: memory for
    every image more would be reserved in every context, and the runtime asks image by image.

    Raises:
        InputError: the edges do not rise, or lie outside the bundle's limit.
    """
    if graph == "encoder":
        return (PlanProfile(batch=(1, 1, manifest.max_batch), points=None),)
    ranges = bucket_ranges(manifest.max_points, edges)
    return tuple(PlanProfile(batch=(1, 1, 1), points=(low, high, high)) for low, high in ranges)


def input_shapes(inputs: tuple[TensorSpec, ...], profile: PlanProfile) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Smallest, best and largest shape of each graph input under a profile."""
    points = profile.points or (0, 0, 0)
    low, best, high = zip(profile.batch, points, strict=True)
    return {spec.name: (spec.resolved(*low), spec.resolved(*best), spec.resolved(*high)) for spec in inputs}
