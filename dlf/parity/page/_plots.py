"""The plots of the page of `dlf parity`, as SVG to stand inside it: errors against depth, and the trajectory.

Requirements:

* those on a plot in `dlf.visualization.html.style`;
* no text comes from the report: names are in the page's legend;
* where there is nothing finite to show, there is no plot rather than an empty one;
* a thousand layers still fit into one picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dlf.visualization.html.style import BAD, COLOURS, CURVES, GRID, INK, PAPER, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MARKS", "plot_depth", "plot_distance"]

MARKS = "osD^v"
"""The markers of the curves; the template of the page draws them in its legend."""

_LOWEST = 0.01
"""Noise floors that smaller errors are drawn at: to the eye, these are the same."""
_MANY = 60
"""The number of points beyond which markers would hide a curve."""


def plot_depth(
    curves: Mapping[int, Sequence[float | None]], wrong: Sequence[tuple[int, float | None]], lines: Sequence[float]
) -> str:
    """Draws the worst error of each call, in noise floors, against its place in the order of computing.

    Args:
        curves: The errors of each call, by the number of the backend; None where nothing was measured.
        wrong: Places and errors of the calls that diverged; an error of None is put at the top.
        lines: The thresholds, which are drawn as lines.

    Returns:
        The SVG element, or an empty string.

    Example:
        >>> plot_depth({0: [1.0, 2.0]}, [], [30.0])[:4]
        '<svg'
    """
    values = [value for curve in curves.values() for value in curve if value is not None]
    if not values and not wrong:
        return ""
    top = max([*values, *(value for _, value in wrong if value is not None), lines[-1]]) * 3
    count = max(map(len, curves.values()), default=1)
    with picture("depth", "Error of each layer in noise floors, a curve for each backend", (9.0, 4.0)) as (panel, out):
        for line in lines:
            panel.axhline(line, color=INK, linewidth=1.2, linestyle=(0, (6, 4)), zorder=2)
            panel.annotate(
                f"{line:g}", (1, line), xycoords=("axes fraction", "data"), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=11,
            )  # fmt: skip
        for number, curve in curves.items():
            points = [(place + 1, max(value, _LOWEST)) for place, value in enumerate(curve) if value is not None]
            _curve(panel, number, points, count)
        if wrong:
            places = [place + 1 for place, _ in wrong]
            heights = [top / 2 if value is None else max(value, _LOWEST) for _, value in wrong]
            panel.plot(
                places, heights, linestyle="", marker="X", markersize=13, color=BAD, markeredgecolor=PAPER, zorder=20
            )
        panel.set_yscale("log")
        panel.set_ylim(min([*(max(value, _LOWEST) for value in values), 0.5]) / 2, top)
        panel.set_xlim(0.5 - 0.01 * count, count + 0.5 + 0.01 * count)
        panel.set_xlabel("layer, in the order of computing")
        panel.set_ylabel("noise floors")
        _plain_powers(panel)
    return "".join(out)


def plot_distance(curves: Mapping[int, Sequence[float | None]], envelope: Sequence[float | None]) -> str:
    """Draws how far each backend is from the truth after each step, and how far rounding may take it.

    Args:
        curves: The distances after each step, by the number of the backend.
        envelope: The largest distance of the perturbed runs after each step.

    Returns:
        The SVG element, or an empty string.

    Example:
        >>> plot_distance({0: [1e-7, 2e-7]}, [2e-7, 4e-7])[:4]
        '<svg'
    """
    drawn = {number: _positive(curve) for number, curve in curves.items()}
    edge = _positive(envelope)
    values = [value for points in [*drawn.values(), edge] for _, value in points]
    if not values:
        return ""
    low, high = min(values) / 3, max(values) * 3
    with picture("distance", "Distance from the truth after each step, a curve for each backend") as (panel, out):
        if edge:
            steps, heights = zip(*edge, strict=True)
            panel.fill_between(steps, [low] * len(steps), heights, color=GRID, alpha=0.6, linewidth=0, zorder=1)
            panel.plot(steps, heights, color=INK, linewidth=1.5, linestyle=(0, (6, 4)), zorder=2)
        for number, points in drawn.items():
            _curve(panel, number, points, len(curves[number]))
        panel.set_yscale("log")
        panel.set_ylim(low, high)
        panel.set_xlabel("after step")
        panel.set_ylabel("distance from the truth")
        _plain_powers(panel)
    return "".join(out)


def _positive(curve: Sequence[float | None]) -> list[tuple[int, float]]:
    """Steps, counted from 1, and their values, as far as a logarithmic axis can show them."""
    return [(step + 1, value) for step, value in enumerate(curve) if value and math.isfinite(value)]


def _curve(panel: Axes, number: int, points: Sequence[tuple[int, float]], count: int) -> None:
    colour, mark = CURVES[number % COLOURS], MARKS[number % len(MARKS)]
    panel.plot(
        [place for place, _ in points],
        [value for _, value in points],
        color=colour,
        linewidth=2 if count <= _MANY else 1,
        marker=mark if count <= _MANY or len(points) == 1 else "",
        markersize=8,
        markerfacecolor=PAPER,
        markeredgecolor=colour,
        markeredgewidth=2,
        zorder=5 + number,
    )


def _plain_powers(panel: Axes) -> None:
    """Labels powers of ten as `1e-07` and `100`: superscripts are separate texts, which other fonts pull apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.yaxis.set_major_locator(LogLocator(numticks=8))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())
