"""The picture of a profile: its bars and its labels."""

from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.axes import Axes
from plot_support import cut_off, overlaps

from engines.profile.blocks import BLOCKS
from engines.profile.picture import EXPLAINED, MEASURED, draw
from engines.profile.report import BlockProfile, GraphProfile


def block(name: str, ms: float, share: float, floor_ms: float | None) -> BlockProfile:
    over = None if floor_ms is None else ms / floor_ms
    return BlockProfile(name, ms, share, 5, 1000, 100, None, 20.0, floor_ms, over)


def report(*graphs: GraphProfile) -> Any:
    """What is drawn of a report."""
    settings = SimpleNamespace(backend="onnxruntime-cpu", precision="fp32")
    manifest = SimpleNamespace(name="atto $a$", height=160, width=192)
    return SimpleNamespace(settings=settings, bundle=SimpleNamespace(manifest=manifest), graphs=graphs)


ENCODER = GraphProfile("encoder", 0, 12.0, 10.0, (block("stem", 2.5, 0.25, 1.25), block("neck", 7.5, 0.75, 15.0)))
DECODER = GraphProfile("decoder", 4096, 3.0, 2.0, (block("B1", 2.0, 1.0, 0.5),))


def bars(axes: Axes) -> dict[str, list[float]]:
    return {str(bar.get_label()): [patch.get_width() for patch in bar] for bar in axes.containers}


def test_bars_are_times_and_their_floors() -> None:
    encoder, decoder = draw(report(ENCODER, DECODER)).axes
    # A block below its floor is explained throughout.
    assert bars(encoder) == {MEASURED: [2.5, 7.5], EXPLAINED: [1.25, 7.5]}
    assert bars(decoder) == {MEASURED: [2.0], EXPLAINED: [0.5]}
    assert [label.get_text() for label in encoder.get_yticklabels()] == ["stem", "neck"]
    assert encoder.yaxis_inverted(), "in the order of execution from top to bottom"
    assert [text.get_text() for text in encoder.texts] == ["2.5 ms, 25%", "7.5 ms, 75%"]
    assert (encoder.get_title(), decoder.get_title()) == ("encoder: 10 ms", "decoder, K = 4,096: 2 ms")
    assert "[ms]" in encoder.get_xlabel()


def test_a_machine_that_is_not_known_leaves_the_explanation_out() -> None:
    made = draw(report(GraphProfile("decoder", 64, 3.0, 2.0, (block("B1", 2.0, 1.0, None),))))
    assert bars(made.axes[0]) == {MEASURED: [2.0]}
    assert [text.get_text() for text in made.legends[0].get_texts()] == [MEASURED]


@pytest.mark.parametrize("longest", [0.001, 1.0, 12345.0])
def test_labels_do_not_collide(longest: float) -> None:
    graphs = []
    for graph, points in (("encoder", 0), ("decoder", 4096)):
        blocks = [block(name, longest / (i + 1), 0.1, longest / 100) for i, name in enumerate(BLOCKS[graph])]
        graphs.append(GraphProfile(graph, points, 2 * longest, longest, tuple(blocks)))
    made = draw(report(*graphs))
    assert overlaps(made) == []
    assert cut_off(made) == []
