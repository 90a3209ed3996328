"""The style of the plots on all pages; `page.css`, in the same folder, is the style sheet of all pages.

Requirements for a plot inside a page:

* its colours are CSS variables of the page, so that they adapt to light mode, dark mode and print;
* its text is SVG text, in the page's font;
* it does not affect the rest of the page: it has no style sheet, and its ids are unique.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BAD", "COLOURS", "CURVES", "GRID", "INK", "PAPER", "SIGNS", "picture"]

SIGNS = {"bad": "✗", "warn": "!", "mild": "~", "good": "✓", "": "·"}
"""A sign for each level of severity, for readers who cannot see the colours."""

COLOURS = 8
"""The number of curve colours in `page.css`."""

# Placeholders for the page's CSS variables, which replace them in the finished SVG: Matplotlib needs real colours.
INK, GRID, PAPER, BAD = "#fe0001", "#fe0002", "#fe0003", "#fe0004"
CURVES = [f"#fd00{number:02x}" for number in range(COLOURS)]
_VARIABLES = {INK: "--ink", GRID: "--rule", PAPER: "--paper", BAD: "--bad"}
_VARIABLES |= {colour: f"--curve-{number}" for number, colour in enumerate(CURVES)}


@contextmanager
def picture(name: str, title: str, size: tuple[float, float] = (6.0, 4.0)) -> Iterator[tuple[Axes, list[str]]]:
    """Yields Matplotlib axes to draw on, with integer ticks on the x axis, and converts the figure to an SVG element.

    Args:
        name: A prefix for the ids in the SVG, unique within the page.
        title: The description for screen readers.
        size: Its width and height in inches; inside a page, only their ratio and the relative size of text matter.

    Yields:
        The axes, and a list to which the SVG element is appended when the context ends.

    Example:
        >>> with picture("loss", "The loss at each step") as (panel, out):
        ...     _ = panel.plot([2.0, 1.0], color=CURVES[0])
        >>> out[0][:4], "stroke: var(--curve-0)" in out[0]
        ('<svg', True)
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 13,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "text.color": INK,
        "grid.color": GRID,
        "axes.unicode_minus": True,
    }
    out: list[str] = []
    # All of Matplotlib's defaults are restored here: a user's matplotlibrc is for the user's own figures.
    with mpl.rc_context(mpl.rcParamsDefault | settings):
        figure = Figure(figsize=size, layout="constrained")
        panel = figure.add_subplot()
        panel.grid(linewidth=1)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        yield panel, out
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    out.append(_for_page(file.getvalue(), name, title))


def _for_page(svg: str, name: str, title: str) -> str:
    """Makes SVG inline: removes the prologue, fixed size and styles, and replaces ids and placeholder colours."""
    svg = svg[svg.index("<svg") :]
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None  # noqa: S101 - Matplotlib always writes it.
    rest = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\1{name}-", rest)
    rest = re.sub(r"<style.*?</style>", "", rest, flags=re.DOTALL)  # It would hold for the whole page.
    rest = re.sub(r"font-family: [^;]*;", "", rest)
    for colour, variable in _VARIABLES.items():
        rest = rest.replace(colour, f"var({variable})")
    return f'<svg {box[0]} role="img" aria-label="{title}">{rest.strip()}'
