"""Draws the two plots of a page as inline SVG: the losses, and their differences from a reference.

Requirements:

* the requirements of `dlf.visualization.html.style` for a plot inside a page;
* no text in a plot comes from the report: the names are in the page's legend;
* overlapping curves can be told apart: each has markers of its own shape, at steps of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlf.visualization.html.style import COLOURS, CURVES, PAPER, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MARKS", "differences", "plot_differences", "plot_losses", "steps_together"]

MARKS = "osD^vXP*p"
"""The markers of the curves. There are more markers than colours, so curves of the same colour differ in markers."""
_MARKS_ON_A_CURVE = 6
_MOST_LOSSES, _MOST_DIFFERENCES = 1000, 40
"""The most points of a curve; in a longer training, each point stands for several steps. Differences get fewer points
since they jump at every step."""
_DASHES = 9.0
"""The length of a dash and the gap after it, in line widths."""
_STEEP = 10.0
"""The ratio of the largest loss to the smallest above which the axis is logarithmic."""


def differences(losses: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Returns the distance of each loss from the reference's loss, in float32 ULPs (units in the last place) of that.

    Example:
        >>> differences([1.0, 2.0], [1.0, 2.0 + 2**-22])
        [0.0, 1.0]
    """
    count = min(len(losses), len(reference))
    mine, theirs = (np.asarray(each[:count], np.float64) for each in (losses, reference))
    with np.errstate(invalid="ignore", over="ignore"):
        found: list[float] = (np.abs(mine - theirs) / np.spacing(np.abs(theirs).astype(np.float32))).tolist()
    return found


def plot_losses(curves: Mapping[int, Sequence[float]]) -> str:
    """Draws the losses.

    Args:
        curves: The losses of each curve, by its number, which decides its colour and its markers.

    Returns:
        The SVG element.

    Example:
        >>> plot_losses({0: [2.0, 1.0]})[:4]
        '<svg'
    """
    finite = [value for values in curves.values() for value in values if math.isfinite(value)]
    with picture("loss", "The loss at each step, a curve for each path") as (panel, out):
        _draw(
            panel, {number: _thinned(values, _MOST_LOSSES, np.mean) for number, values in curves.items()}, dashed=True
        )
        if finite and min(finite) > 0 and max(finite) > _STEEP * min(finite):
            _logarithmic(panel)
        panel.set_xlabel("step")
        panel.set_ylabel("loss")
    return "".join(out)


def plot_differences(curves: Mapping[int, Sequence[float]]) -> str:
    """Draws the results of `differences`, on an axis that is linear from 0 to 1 and logarithmic above.

    Args:
        curves: The differences of each curve, by its number, which decides its colour and its markers.

    Returns:
        The SVG element.

    Example:
        >>> plot_differences({1: [0.0, 2.0, 10.0]})[:4]
        '<svg'
    """
    with picture("difference", "How far each loss is from the reference's, at each step") as (panel, out):
        _draw(panel, {number: _thinned(values, _MOST_DIFFERENCES, np.max) for number, values in curves.items()})
        panel.set_yscale("symlog", linthresh=1.0, linscale=0.5)
        largest = max((value for values in curves.values() for value in values if math.isfinite(value)), default=1.0)
        decades = math.ceil(math.log10(max(largest, 10.0)))
        steps = (1, 2, 5) if decades <= 2 else (1,)  # noqa: PLR2004 - so many labels fit.
        ticks = [0, *(step * 10**decade for decade in range(decades) for step in steps), 10**decades]
        panel.set_yticks(ticks, [f"{tick:,}" if tick < 10**5 else f"1e{round(math.log10(tick))}" for tick in ticks])
        panel.minorticks_off()
        panel.set_ylim(-0.15, 1.2 * min(tick for tick in ticks if tick >= min(max(largest, 1.0), ticks[-1])))
        panel.set_xlabel("step")
        panel.set_ylabel("float32 last places")
    return "".join(out)


def _draw(panel: Axes, curves: Mapping[int, tuple[Sequence[float], Sequence[float]]], *, dashed: bool = False) -> None:
    for place, (number, (steps, values)) in enumerate(curves.items()):
        apart = max(len(values) / _MARKS_ON_A_CURVE, 1.0)
        # Each curve starts its markers a little later than the one before, so that none hides another's.
        first = int(apart * place / len(curves))
        colour = CURVES[number % COLOURS]
        panel.plot(
            steps,
            [value if math.isfinite(value) else math.nan for value in values],
            marker=MARKS[number % len(MARKS)],
            markevery=(min(first, max(len(values) - 1, 0)), max(round(apart), 1)),
            color=colour,
            # The first curve is solid, and each later one has shorter dashes, so that all overlapping curves are seen.
            linestyle=(0, (_DASHES * (1 - place / len(curves)), _DASHES * place / len(curves)))
            if place and dashed
            else "-",
            linewidth=2.5,
            markersize=8,
            markerfacecolor=PAPER,
            markeredgecolor=colour,
            markeredgewidth=2,
            zorder=3 + place,
        )
    longest = max((steps[-1] for steps, values in curves.values() if len(values)), default=1)
    panel.set_xlim(-0.02 * max(longest, 1), 1.03 * max(longest, 1))


def _logarithmic(panel: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    panel.set_yscale("log")
    low, high = panel.get_ylim()
    few = math.log10(high / low) > 4  # noqa: PLR2004 - more decades than that leave no room for labels between.
    panel.yaxis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5), numticks=20))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_formatter(NullFormatter())


def steps_together(count: int) -> int:
    """Returns how many of `count` steps each point of `plot_differences` combines, as their largest difference.

    Example:
        >>> steps_together(40), steps_together(200)
        (1, 5)
    """
    return max(math.ceil(count / _MOST_DIFFERENCES), 1)


def _thinned(values: Sequence[float], most: int, summary: Any) -> tuple[list[float], list[float]]:
    """Returns steps and values, at most `most` of each: a long training is divided into bins, with a value for each."""
    width = max(math.ceil(len(values) / most), 1)
    starts = range(0, len(values), width)
    return list(starts), [float(summary(values[start : start + width])) for start in starts]
