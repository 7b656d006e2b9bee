"""Buckets of K and optimisation profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.profiles import buckets, graph_profiles, input_shapes
from spd.bundle import open_bundle
from spd.bundle.plans import PlanProfile
from spd.errors import InputError


@pytest.mark.parametrize(
    ("most", "edges", "expected"),
    [
        (4096, None, (64, 256, 1024)),
        (1024, None, (64, 256, 1024)),
        (512, None, (64, 256)),
        (64, None, (64,)),
        (63, None, (63,)),
        (1, None, (1,)),
        (512, (512,), (512,)),
        (512, (1, 2), (1, 2)),
        (4096, (64, 4096), (64, 4096)),
    ],
)
def test_buckets(most: int, edges: tuple[int, ...] | None, expected: tuple[int, ...]) -> None:
    assert buckets(most, edges) == expected


@pytest.mark.parametrize("edges", [(), (0,), (64, 64), (256, 64), (513,), (64, 1024)])
def test_buckets_that_do_not_fit_are_refused(edges: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="do not rise within 1 to 512, the bundle's limit of points"):
        buckets(512, edges)


def test_profiles_of_a_bundle(exported: Path) -> None:
    """Exactly one image, exactly as many points as are padded to; several images only where asked for."""
    manifest = open_bundle(exported).manifest
    single, several = PlanProfile((1, 1, 1), None), PlanProfile((1, 1, 3), None)
    assert graph_profiles("encoder", manifest) == (single,)
    assert graph_profiles("encoder", manifest, max_batch=3) == (single, several)
    for batch in (0, 9):
        with pytest.raises(InputError, match=f"max_batch is {batch}, expected 1 to 8"):
            graph_profiles("encoder", manifest, max_batch=batch)
    expected = tuple(PlanProfile((1, 1, 1), (points,) * 3) for points in (100, 300))
    assert graph_profiles("decoder", manifest, (100, 300), max_batch=3) == expected


def test_shapes_follow_the_contract(exported: Path) -> None:
    manifest = open_bundle(exported).manifest
    _, several = graph_profiles("encoder", manifest, max_batch=8)
    image = input_shapes(manifest.contract.encoder_inputs, several)
    assert image == {"image": ((1, 160, 192, 3), (1, 160, 192, 3), (8, 160, 192, 3))}
    shapes = input_shapes(manifest.contract.decoder_inputs, PlanProfile((1, 1, 1), (65, 256, 256)))
    assert shapes["points"] == ((1, 65, 2), (1, 256, 2), (1, 256, 2))
    # 160 / 4 by 192 / 4 cells in a ring of zeros.
    assert shapes["l1_map"][0][:2] == (1, 42 * 50)
    assert set(shapes) == {spec.name for spec in manifest.contract.decoder_inputs}
