"""Buckets of K and optimisation profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.profiles import bucket_ranges, graph_profiles, input_shapes
from spd.bundle import open_bundle
from spd.bundle.plans import PlanProfile
from spd.errors import InputError


@pytest.mark.parametrize(
    ("most", "edges", "expected"),
    [
        (4096, None, ((1, 64), (65, 256), (257, 1024), (1025, 4096))),
        (512, None, ((1, 64), (65, 256), (257, 512))),
        (64, None, ((1, 64),)),
        (1, None, ((1, 1),)),
        (512, (512,), ((1, 512),)),
        (512, (1, 2), ((1, 1), (2, 2), (3, 512))),
        (512, (), ((1, 512),)),
    ],
)
def test_buckets(most: int, edges: tuple[int, ...] | None, expected: tuple[tuple[int, int], ...]) -> None:
    assert bucket_ranges(most, edges) == expected


@pytest.mark.parametrize("most", [1, 2, 63, 64, 65, 1000, 4096])
def test_every_k_is_in_exactly_one_bucket(most: int) -> None:
    ranges = bucket_ranges(most)
    assert [k for low, high in ranges for k in range(low, high + 1)] == list(range(1, most + 1))


@pytest.mark.parametrize("edges", [(0,), (64, 64), (256, 64), (513,), (64, 1024)])
def test_buckets_that_do_not_fit_are_refused(edges: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="do not rise from 1 to the bundle's limit of 512 points"):
        bucket_ranges(512, edges)


def test_profiles_of_a_bundle(exported: Path) -> None:
    manifest = open_bundle(exported).manifest
    assert graph_profiles("encoder", manifest) == (PlanProfile((1, 1, 8), None),)
    assert graph_profiles("decoder", manifest, (100,)) == (
        PlanProfile((1, 1, 1), (1, 100, 100)),
        PlanProfile((1, 1, 1), (101, 512, 512)),
    )


def test_shapes_follow_the_contract(exported: Path) -> None:
    manifest = open_bundle(exported).manifest
    (profile,) = graph_profiles("encoder", manifest)
    image = input_shapes(manifest.contract.encoder_inputs, profile)
    assert image == {"image": ((1, 160, 192, 3), (1, 160, 192, 3), (8, 160, 192, 3))}
    shapes = input_shapes(manifest.contract.decoder_inputs, PlanProfile((1, 1, 1), (65, 256, 256)))
    assert shapes["points"] == ((1, 65, 2), (1, 256, 2), (1, 256, 2))
    # 160 / 4 by 192 / 4 cells in a ring of zeros.
    assert shapes["l1_map"][0][:2] == (1, 42 * 50)
    assert set(shapes) == {spec.name for spec in manifest.contract.decoder_inputs}
