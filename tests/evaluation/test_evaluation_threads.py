"""Points on several threads: the same depths in the same order, and one torch thread for each."""

import threading

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spd.evaluation.threads import points_on_threads


class Noted:
    """Depth is u + 1000 v; notes who asks for how many."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def encode(self, image: NDArray[np.uint8], /) -> "Noted":
        return self

    def depth(self, points: NDArray[np.float64], /) -> NDArray[np.float32]:
        self.asked.append((threading.current_thread().name, len(points), torch.get_num_threads()))
        return (points @ [1, 1000]).astype(np.float32)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine of two cores; the number of this process is put back afterwards by torch's own setting."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threading.current_thread().__setattr__("torch", count))


@pytest.mark.parametrize(
    ("count", "parts"), [(0, [0]), (1, [1]), (255, [255]), (256, [128, 128]), (5001, [2500, 2501])]
)
@pytest.mark.usefixtures("two_threads")
def test_depths_in_order(count: int, parts: list[int]) -> None:
    points = np.random.default_rng(0).uniform(0, 300, (count, 2))
    predictor = Noted()
    with points_on_threads(predictor) as spread:
        found = spread.encode(np.zeros((4, 4, 3), np.uint8)).depth(points)
    assert found.tolist() == (points @ [1, 1000]).astype(np.float32).tolist()
    assert sorted(number for _, number, _ in predictor.asked) == parts
    assert all(name.startswith("spd-eval") for name, _, _ in predictor.asked)


@pytest.mark.usefixtures("two_threads")
def test_each_thread_has_one_of_torch_and_errors_come_out() -> None:
    class Failing(Noted):
        def depth(self, points: NDArray[np.float64], /) -> NDArray[np.float32]:
            assert threading.current_thread().torch == 1  # type: ignore[attr-defined]
            raise KeyError("broken")

    with points_on_threads(Failing()) as spread, pytest.raises(KeyError, match="broken"):
        spread.encode(np.zeros((4, 4, 3), np.uint8)).depth(np.ones((300, 2)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("spd-eval")]
