"""The picture of a profile: its bars, read back pixel by pixel, and its labels' places."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.profile.machine import Machine
from engines.profile.picture import BACKGROUND, BAR_HEIGHT, BAR_WIDTH, COLOURS, COLUMN, MARGIN, TOP, draw, spread
from engines.profile.report import BlockProfile, GraphProfile, Report
from engines.profile.times import Settings
from spd.bundle import open_bundle


def block(name: str, share: float, over_floor: float | None) -> BlockProfile:
    return BlockProfile(name, 10 * share, share, 5, 1000, 100, None, 20.0, None, over_floor)


def pixels(report: Report) -> np.ndarray:
    return np.asarray(draw(report))


@pytest.fixture(scope="module")
def report(exported: Path) -> Report:
    encoder = GraphProfile("encoder", 0, 12.0, 10.0, (block("stem", 0.25, 2.0), block("neck", 0.75, 0.5)))
    decoder = GraphProfile("decoder", 64, 3.0, 2.0, (block("B1", 1.0, None),))
    settings = Settings("onnxruntime-cpu", "fp32", 64, 5)
    return Report(open_bundle(exported), settings, Machine(1e9, 1e9, "given"), (), (encoder, decoder))


def test_bars_are_cut_by_share_and_darkened_by_the_floor(report: Report) -> None:
    image = pixels(report)
    edge = TOP + BAR_HEIGHT // 4
    dark = [tuple(value * 11 // 20 for value in colour) for colour in COLOURS]
    right = MARGIN + BAR_WIDTH - 2
    # The stem takes a quarter of the height; its floor is half of its time, so half of its width is dark.
    for row, number in ((TOP + 2, 0), (edge - 2, 0), (edge + 2, 1), (TOP + BAR_HEIGHT - 2, 1)):
        assert tuple(image[row, MARGIN + 2]) == dark[number]
    assert tuple(image[edge - 2, MARGIN + BAR_WIDTH // 2 - 3]) == dark[0]
    assert tuple(image[edge - 2, MARGIN + BAR_WIDTH // 2 + 3]) == COLOURS[0]
    assert tuple(image[edge + 2, right]) == dark[1], "a block below its floor is dark throughout"
    assert {tuple(pixel) for pixel in image[TOP + 2 : TOP + BAR_HEIGHT - 2, MARGIN + COLUMN + 2]} == {COLOURS[0]}
    assert tuple(image[TOP + BAR_HEIGHT + 5, MARGIN + 2]) == BACKGROUND


def test_a_machine_that_is_not_known_leaves_the_explanation_out(report: Report) -> None:
    bottom = slice(TOP + BAR_HEIGHT + 10, None)
    assert (pixels(report)[bottom] != BACKGROUND).any()
    assert (pixels(dataclasses.replace(report, machine=None))[bottom] == BACKGROUND).all()


@given(st.lists(st.floats(0, 500), max_size=12).map(sorted))
def test_labels_stay_apart_in_order_and_inside(wanted: list[float]) -> None:
    placed = spread(wanted, 24, 0, 500)
    assert len(placed) == len(wanted)
    assert all(b - a >= 24 - 1e-9 for a, b in itertools.pairwise(placed))
    assert all(0 <= y <= 500 for y in placed)


def test_labels_that_do_not_collide_stay_where_they_are() -> None:
    assert spread([10.0, 100.0, 300.0], 24, 0, 500) == [10.0, 100.0, 300.0]
