"""What a plot shows, read from its artists rather than from its pixels."""

import itertools

from matplotlib.figure import Figure
from matplotlib.text import Text


def texts(made: Figure) -> list[Text]:
    """All texts that are seen, after the layout is made."""
    made.draw_without_rendering()
    # Ticks beyond the ends of an axis have texts that are not drawn.
    ticks = {
        label: min(ends) <= tick.get_loc() <= max(ends)
        for axes in made.axes
        for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim()))
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
    }
    return [text for text in made.findobj(Text) if text.get_text() and text.get_visible() and ticks.get(text, True)]


def overlaps(made: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes overlap."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(made)]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.padded(-0.5).overlaps(other)]


def cut_off(made: Figure) -> list[str]:
    """Texts that are partly outside the figure."""
    whole = made.bbox
    inside = {
        text: whole.x0 <= box.x0 and whole.y0 <= box.y0 and box.x1 <= whole.x1 and box.y1 <= whole.y1
        for text in texts(made)
        for box in [text.get_window_extent()]
    }
    return [text.get_text() for text, fits in inside.items() if not fits]
