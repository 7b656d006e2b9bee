"""The look of plots: contrast on any page, readable sizes, and nothing of pyplot's global state."""

import io
import subprocess
import sys

import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from plot_support import overlaps, texts

from spd.utils.plots import COLOURS, DPI, WIDTH, figure, grouped_numbers, open_frame, write_png


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
def test_contrast_on_light_and_dark(colour: str) -> None:
    assert 1.05 / (luminance(colour) + 0.05) >= 3
    assert (luminance(colour) + 0.05) / 0.05 >= 3


def test_a_png_of_readable_text_and_whole_numbers() -> None:
    made, (left, right) = figure(2.0, columns=2)
    left.plot([0.5, 4096], [1, 2])
    left.set_xscale("log", base=4)
    left.set_xticks([0.5, 64, 4096])
    left.xaxis.set_major_formatter(grouped_numbers())
    open_frame(left, "x")
    shown = [text.get_text() for text in texts(made)]
    assert {"0.5", "64", "4,096"} <= set(shown)
    # Inches of the picture are 100 pixels of a README: 10 points are 14 pixels.
    assert min(text.get_fontsize() for text in texts(made)) >= 10
    assert overlaps(made) == []
    file = io.BytesIO()
    write_png(made, file)
    with Image.open(file) as picture:
        assert (picture.format, picture.size) == ("PNG", (round(WIDTH * DPI), 2 * DPI))
    assert right.spines["top"].get_visible()
    assert not left.spines["top"].get_visible()


def test_characters_without_a_glyph_are_no_warning() -> None:
    made, (axes,) = figure(2.0)
    axes.set_title("日本")
    write_png(made, io.BytesIO())


def test_pyplot_is_not_imported() -> None:
    code = "import sys, io; from spd.utils.plots import *; write_png(figure(2.0)[0], io.BytesIO()); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('matplotlib.pyplot' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import spd.utils.plots"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("SPDError: pictures and plots need matplotlib: pip install matplotlib\n")
