"""What the plots of every page look like; beside it, `page.css` is the style sheet of every page.

Requirements for a plot inside a page:

* colours are the page's own (CSS variables), so that they follow light, dark and print;
* text is text, in the page's font;
* it does not reach out of itself: no styles that would hold for the whole page, and ids of its own.
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
"""How alarming something is, for those who see no colours."""

COLOURS = 8
"""How many colours of curves `page.css` has."""

# Colours that stand for a variable of the page's CSS until the picture is drawn: Matplotlib takes only real ones.
INK, GRID, PAPER, BAD = "#fe0001", "#fe0002", "#fe0003", "#fe0004"
CURVES = [f"#fd00{number:02x}" for number in range(COLOURS)]
_VARIABLES = {INK: "--ink", GRID: "--rule", PAPER: "--paper", BAD: "--bad"}
_VARIABLES |= {colour: f"--curve-{number}" for number, colour in enumerate(CURVES)}


@contextmanager
def picture(name: str, title: str, size: tuple[float, float] = (6.0, 4.0)) -> Iterator[tuple[Axes, list[str]]]:
    """Gives axes to draw on, whose horizontal one counts something, and makes an SVG element of them.

    Args:
        name: What the ids in it begin with: no other picture of the page has it.
        title: What a screen reader says of it.
        size: Its width and height; only their ratio and the size of text in it matter inside a page.

    Yields:
        The axes, and a list that the SVG element is added to as the context ends.

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
    # All of it, not what is set here alone: a user's matplotlibrc is for the user's own figures.
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
    """Makes a file's SVG one for inside a page: no prologue, no fixed size, ids and colours of its own."""
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
