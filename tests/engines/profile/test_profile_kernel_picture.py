"""The picture of compiled kernels: its bars, its labels and its caption."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.axes import Axes
from plot_support import cut_off, overlaps

from engines.profile.blocks import BLOCKS
from engines.profile.compiled import KernelCount
from engines.profile.kernel_picture import ALL, MOVING, draw
from engines.profile.predicted import DATA_SHEETS


def graph(name: str, points: int, blocks: dict[str, KernelCount], ms: float) -> Any:
    """What is drawn of a graph."""
    counts = blocks.values()
    total = KernelCount(sum(c.kernels for c in counts), sum(c.bytes for c in counts), 0, 0)
    times = {sheet.name: ms for sheet in DATA_SHEETS}
    return SimpleNamespace(graph=name, points=points, total=total, by_block=lambda: blocks, predicted_ms=lambda: times)


def report(*graphs: Any) -> Any:
    manifest = SimpleNamespace(name="atto $a$ with a long name", height=480, width=640)
    return SimpleNamespace(
        bundle=SimpleNamespace(manifest=manifest),
        precision="fp16",
        compute_capability="12.0",
        compiler="TensorRT for RTX 1.7.1.116",
        graphs=graphs,
    )


ENCODER = graph("encoder", 0, {"stem": KernelCount(3, 2_500_000, 1, 500_000), "neck": KernelCount(9, 10**9, 0, 0)}, 1.5)
DECODER = graph("decoder", 4096, {"B1": KernelCount(20, 4_000_000, 20, 4_000_000)}, 12.25)


def bars(axes: Axes) -> dict[str, list[float]]:
    return {str(bar.get_label()): [patch.get_width() for patch in bar] for bar in axes.containers}


def test_bars_are_kernels_and_megabytes() -> None:
    kernels, other_kernels, megabytes, other_megabytes = draw(report(ENCODER, DECODER)).axes
    assert bars(kernels) == {ALL: [3, 9], MOVING: [1, 0]}
    assert bars(megabytes) == {ALL: [2.5, 1000], MOVING: [0.5, 0]}
    assert bars(other_kernels) == {ALL: [20], MOVING: [20]}
    assert bars(other_megabytes) == {ALL: [4], MOVING: [4]}
    assert [label.get_text() for label in kernels.get_yticklabels()] == ["stem", "neck"]
    assert kernels.yaxis_inverted(), "in the order of execution from top to bottom"
    assert [text.get_text() for text in megabytes.texts] == ["2.5", "1,000"]
    assert kernels.get_title() == "encoder: 12 kernels"
    assert other_kernels.get_title() == "decoder, K = 4,096: 20 kernels"
    assert megabytes.get_title() == "1,002 MB moved"
    assert "[MB]" in megabytes.get_xlabel()


def test_the_caption_says_that_times_are_predicted() -> None:
    (legend,) = draw(report(ENCODER, DECODER)).legends
    first, encoder, decoder = legend.get_title().get_text().splitlines()
    assert first == "Predicted from data sheets, not measured [ms]"
    assert encoder.startswith("encoder: RTX 3060 1.50, ")
    assert decoder.endswith("RTX 5090 12.25")
    assert encoder.count(",") == len(DATA_SHEETS) - 1


@pytest.mark.parametrize("scale", [1, 1000])
def test_kernel_labels_do_not_collide(scale: int) -> None:
    graphs = [
        graph(
            name,
            points,
            {block: KernelCount(5 * (i + 1), 1234 * scale * (i + 1), i, 1000) for i, block in enumerate(BLOCKS[name])},
            1234.5,
        )
        for name, points in (("encoder", 0), ("decoder", 4096))
    ]
    made = draw(report(*graphs))
    assert overlaps(made) == []
    assert cut_off(made) == []
