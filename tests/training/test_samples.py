"""Which samples come when, what is in them, and what happens to broken pairs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from training_support import PLAIN, SMALL, Pictures, shown

from spd.data.pairs import Pair
from spd.data.rooms import RoomPairs
from spd.errors import DataError
from spd.preprocess import Letterbox
from spd.training.samples import TRIES, Numbers, Samples, epoch_length
from spd.training.settings import EPOCH_OF_ROOMS


def numbers(length: int, batch: int, steps: int, *, step: int = 0, rank: int = 0, world: int = 1) -> list[list[int]]:
    """The sample numbers of some steps of a process."""
    endless = iter(Numbers(length, replace(SMALL, batch=batch, seed=5), step, rank, world))
    return list(itertools.islice(endless, steps))


lengths, few = st.integers(1, 40), st.integers(1, 5)


@settings(deadline=None)
@given(lengths, few, st.integers(1, 4))
def test_each_epoch_every_pair_comes_once(length: int, batch: int, epochs: int) -> None:
    flat = list(itertools.chain(*numbers(length, batch, -(-length * epochs // batch))))[: length * epochs]
    assert sorted(flat) == list(range(length * epochs))  # which also says that epochs do not mix
    assert all(number // length == position // length for position, number in enumerate(flat))


@settings(deadline=None)
@given(lengths, few, st.integers(0, 30))
def test_resuming_is_the_rest_of_the_sequence(length: int, batch: int, step: int) -> None:
    assert numbers(length, batch, 4, step=step) == numbers(length, batch, step + 4)[step:]


@settings(deadline=None)
@given(lengths, few, few, st.integers(0, 10))
def test_processes_share_the_batch_of_one(length: int, batch: int, world: int, step: int) -> None:
    shares = [numbers(length, batch, 3, step=step, rank=rank, world=world) for rank in range(world)]
    together = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert together == numbers(length, batch * world, 3, step=step)


def test_orders_differ_between_epochs_and_seeds() -> None:
    first, second = (np.array(part) for part in np.split(np.array(numbers(30, 30, 2)), 2))
    assert (first != second - 30).any()
    other = next(iter(Numbers(30, replace(SMALL, seed=6), 0, 0, 1)))
    assert other != numbers(30, SMALL.batch, 1)[0]


def test_rooms_never_come_twice() -> None:
    rooms = RoomPairs(64, 96)
    assert epoch_length(rooms, SMALL) == EPOCH_OF_ROOMS
    assert epoch_length(rooms, replace(SMALL, overfit=3)) == 3
    ran = numbers(EPOCH_OF_ROOMS, 5, 1)[0]
    later = numbers(EPOCH_OF_ROOMS, 5, 1, step=EPOCH_OF_ROOMS)[0]  # five epochs on
    assert max(ran) < EPOCH_OF_ROOMS <= 5 * EPOCH_OF_ROOMS <= min(later)


def seen_rooms(seed: int, monkeypatch: pytest.MonkeyPatch, *, train: bool) -> list[int]:
    """Which rooms six samples are, from the sixth on."""
    seen: list[int] = []

    def noted(self: RoomPairs, index: int) -> Pair:
        seen.append(index)
        return Pair(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.float32), "")

    monkeypatch.setattr(RoomPairs, "__getitem__", noted)
    samples = Samples(RoomPairs(64, 96), replace(SMALL, seed=seed), train=train)
    samples.batch(range(5, 11))
    return seen


def test_a_run_of_another_seed_sees_other_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one that begins with the weights of another learns from new ones; validation is always the same."""
    runs = [seen_rooms(seed, monkeypatch, train=True) for seed in range(20)]
    for seen in runs:
        assert seen == list(range(seen[0], seen[0] + 6))
    apart = np.diff(sorted(seen[0] for seen in runs))
    assert apart.min() > 10 * EPOCH_OF_ROOMS
    assert seen_rooms(3, monkeypatch, train=True) == runs[3]
    for seed in (3, 4):
        assert seen_rooms(seed, monkeypatch, train=False) == list(range(5, 11))


def test_rooms_of_a_shape_of_their_own_are_padded_as_the_runtime_pads_photos() -> None:
    given = replace(SMALL, height=192, width=256, batch=8, points=400)
    rooms = RoomPairs(192, 256, varied=True)
    samples = Samples(rooms, given, train=True)
    batch = samples.batch(range(8))
    assert not isinstance(batch, DataError)
    shapes = set()
    for number in range(8):
        pair = rooms[samples.first + number]
        height, width = pair.depth.shape
        shapes.add((height, width))
        box = Letterbox.fit(width, height, 256, 192)
        assert (batch["image"][number].permute(1, 2, 0).numpy() == box.apply(Image.fromarray(pair.image))).all()
        columns, rows = np.floor(box.to_image(batch["points"][number].numpy())).astype(int).T
        assert (batch["depth"][number].numpy() == pair.depth[rows, columns]).all()
    assert len(shapes) > 2


def test_augmentation_differs_between_epochs_and_is_for_training_only() -> None:
    samples = Samples(Pictures(4), SMALL, train=True)
    first, later = samples[1], samples[5]
    assert not torch.equal(first["image"], later["image"])
    assert not torch.equal(first["points"], later["points"])
    for settings_ in (PLAIN, replace(SMALL, overfit=2)):
        samples = Samples(Pictures(4), settings_, train=True)
        assert torch.equal(samples[1]["image"], samples[5]["image"])
        assert not torch.equal(samples[1]["points"], samples[5]["points"])
    check = Samples(Pictures(4), SMALL, train=False)
    assert shown(check[1]) == [1]
    assert torch.equal(check[1]["points"], check[1]["points"])


def test_a_broken_pair_is_replaced_by_any_other() -> None:
    sample = Samples(Pictures(4, broken=(1, 2)), PLAIN, train=True)[1]
    assert shown(sample)[0] in (0, 3)
    assert sample["skipped"][0] == "depth_1.png is cut off; copy it again"
    assert {*sample["skipped"]} <= {f"depth_{number}.png is cut off; copy it again" for number in (1, 2)}
    batch = Samples(Pictures(4, broken=(1, 2)), PLAIN, train=True).batch(range(4))
    assert not isinstance(batch, DataError)
    assert {*shown(batch)} <= {0, 3}
    assert len(shown(batch)) == 4
    assert len(batch["skipped"]) >= 2


def test_a_folder_of_broken_pairs_is_got_over() -> None:
    """More in a row than may fail one after the other."""
    pairs = Pictures(4 * TRIES, broken=tuple(range(2 * TRIES)))
    numbers = [shown(Samples(pairs, PLAIN, train=True)[number])[0] for number in range(2 * TRIES)]
    assert min(numbers) >= 2 * TRIES
    assert len({*numbers}) > TRIES / 2  # and not by one and the same pair


class Framed(Pictures):
    """Pictures of the camera's size, 1 m deep in the Eigen crop, 3 m around it, and 20 m in a corner of the crop."""

    def __getitem__(self, index: int) -> Pair:
        depth = np.full((480, 640), 3, np.float32)
        depth[45:471, 41:601] = 1
        depth[45:145, 41:141] = 20
        return Pair(np.zeros((480, 640, 3), np.uint8), depth, str(index))


def test_validation_is_by_the_paper_s_protocol() -> None:
    """Queries lie in the Eigen crop, at depths of less than 10 m; those of training anywhere."""
    given = replace(PLAIN, points=500)
    assert (Samples(Framed(1), given, train=False)[0]["depth"] == 1).all()
    assert {*Samples(Framed(1), given, train=True)[0]["depth"].flatten().tolist()} == {1, 3, 20}
    uncropped = Framed(1)
    uncropped.rendered = True  # type: ignore[misc]
    assert {*Samples(uncropped, given, train=False)[0]["depth"].flatten().tolist()} == {1, 3}


def test_depth_that_is_cropped_away_is_a_broken_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    class Corner(Pictures):
        def __getitem__(self, index: int) -> Pair:
            pair = super().__getitem__(index)
            pair.depth[:] = 0
            return pair

    with pytest.raises(DataError, match="has no depth left after resizing and cropping"):
        Samples(Corner(2), SMALL, train=True)[0]


def test_edges_are_for_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def sampled(depth: object, count: int, rng: object, *, edge_share: float) -> tuple[np.ndarray, np.ndarray]:
        shares.append(edge_share)
        return np.zeros((count, 2), np.float32), np.ones(count, np.float32)

    monkeypatch.setattr("spd.training.samples.sample_queries", sampled)
    for train in (True, False):
        Samples(Pictures(2), replace(SMALL, edge_share=0.3), train=train)[0]
    assert shares == [0.3, 0.0]
