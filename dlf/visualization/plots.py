"""Pictures for notebooks and reports: the curves of a training run, and the drawing of a model.

Requirements:

* importing this module is cheap: the functions import matplotlib, grandalf and Keras when they need them;
* pyplot is not used, since it keeps a global list of open figures and looks for a window to draw in;
* in a notebook, a plot appears exactly once, wherever in the cell the function is called;
* a failed run can still be plotted: values that are not finite are left out, and the plot says how many;
* a file is written completely or not at all.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from dlf.utils.errors import InvalidArgumentError
from dlf.utils.files import whole_file
from dlf.visualization._model_drawing import draw_graph
from dlf.visualization._model_graph import model_graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ModelDrawing", "plot_history", "visualize_model"]


@dataclass(frozen=True, slots=True)
class ModelDrawing:
    """A drawing of a model: a notebook displays it, and `save` writes it to a file."""

    name: str
    cards: int
    width: int
    height: int
    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the drawing to a file.

        Args:
            path: The file, ending in `.svg`.

        Raises:
            InvalidArgumentError: The path has another ending.
            OutputError: The file cannot be written.
        """
        with whole_file(_checked(path, (".svg",))) as place:
            place.write_text(self.svg)


def visualize_model(model: Any, path: str | os.PathLike[str] | None = None) -> ModelDrawing:
    """Draws a Sequential or Functional Keras model as SVG, without Graphviz.

    A notebook displays the drawing if it is the last expression of a cell.

    Args:
        model: A built Keras model; a nested model is drawn as one card.
        path: Where to save the drawing as well, ending in `.svg`; by default it is not saved.

    Returns:
        The drawing; its attribute `svg` is the SVG text.

    Raises:
        InvalidArgumentError: The model has no graph or is not built, or the path does not end in `.svg`.
        BackendError: This release of Keras stores graphs in another way.
        OutputError: The file cannot be written.

    Example:
        >>> import keras
        >>> visualize_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="tiny"))
        ModelDrawing(name='tiny', cards=2, width=375, height=342)
    """
    target = None if path is None else _checked(path, (".svg",))
    graph = model_graph(model)
    root = draw_graph(graph)
    drawing = ModelDrawing(
        name=graph.name,
        cards=len(graph.nodes),
        width=int(root.attrib["width"]),
        height=int(root.attrib["height"]),
        svg=ET.tostring(root, encoding="unicode"),
    )
    if target is not None:
        drawing.save(target)
    return drawing


def plot_history(history: Any, path: str | os.PathLike[str] | None = None, *, title: str | None = None) -> Figure:
    """Plots the curves of a training run: one panel for the loss, one for each metric and one for the learning rate.

    The epoch with the lowest validation loss is marked in the panels of the loss and the metrics. In a notebook the
    plot is displayed at once.

    Args:
        history: What `fit` returned, or its attribute `history`: a mapping from the name of each metric to its values,
            one for each epoch. `val_...` is the same metric on the validation data.
        path: Where to save the plot as well, ending in `.png`, `.svg` or `.pdf`; by default it is not saved.
        title: A line above the panels.

    Returns:
        The Matplotlib figure, for further changes.

    Raises:
        InvalidArgumentError: The history is empty or not a history, or the path has another ending.
        OutputError: The file cannot be written.

    Example:
        >>> figure = plot_history({"loss": [0.9, 0.5, 0.4], "val_loss": [0.8, 0.6, 0.7]})
        >>> [panel.get_title() for panel in figure.axes]
        ['loss']
    """
    target = None if path is None else _checked(path, _PLOT_SUFFIXES)
    curves, epochs = _curves(history)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = sorted(
        dict.fromkeys(name.removeprefix("val_") for name in curves),
        key=lambda name: (name != "loss", name in _RATES),
    )
    columns = 2 if len(names) == _SQUARE else min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(5.0, 3.7 * columns), 0.6 + 2.9 * rows), layout="constrained")
    if title:
        figure.suptitle(title, fontsize="x-large")
    legend: dict[str, Any] = {}
    for place, name in enumerate(names, start=1):
        panel = figure.add_subplot(rows, columns, place)
        if name in _RATES:
            _plot_rate(panel, curves[name], epochs)
        else:
            legend |= _plot_metric(panel, name, curves, epochs)
        panel.set_title(name)
        panel.set_xlabel("epoch")
        panel.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=3, frameon=False)
    if target is not None:
        with whole_file(target) as unfinished:
            figure.savefig(unfinished, dpi=160)
    _show_in_notebook(figure)
    return figure


_PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_RATES = {"learning_rate", "lr"}
_SQUARE = 4
_FEW_EPOCHS = 20
_BLUE, _ORANGE, _GREY = "#2563eb", "#ea580c", "#64748b"


def _curves(history: Any) -> tuple[dict[str, list[float]], list[int]]:
    """Returns the values of each metric, and the numbers of the epochs, counted from 1."""
    metrics = getattr(history, "history", history)
    if not isinstance(metrics, Mapping):
        expected, advice = "what fit() returned, or its .history", "Pass on the value of model.fit(...)."
        raise InvalidArgumentError("history", expected=expected, received=history, advice=advice)
    curves = {name: [_number(name, value) for value in values] for name, values in metrics.items() if len(values)}
    if not curves:
        expected, advice = "at least one epoch", "A History is empty until fit() has run: train first."
        raise InvalidArgumentError("history", expected=expected, received=metrics, advice=advice)
    length = max(len(values) for values in curves.values())
    # A run that continues an earlier one (fit's initial_epoch) starts at a later number, as `History.epoch` tells.
    epochs = [epoch + 1 for epoch in getattr(history, "epoch", ())]
    return curves, epochs if len(epochs) == length else list(range(1, length + 1))


def _number(name: str, value: Any) -> float:
    """Returns the value of a metric as a number: the mean, if it has a value for each class, as `F1Score` has."""
    import numpy as np

    try:
        return float(np.mean(np.asarray(value, dtype=float)))
    except (TypeError, ValueError):
        expected, advice = "a number for each epoch", "Leave this entry out."
        raise InvalidArgumentError(f"history[{name!r}]", expected=expected, received=value, advice=advice) from None


def _validated(count: int, epochs: Sequence[int]) -> list[int]:
    """Returns the epochs after which there was a validation.

    Keras records only how many validations there were. `fit(validation_freq=n)` validates after every n-th epoch; of
    all n that give this count, the largest is assumed.
    """
    step = len(epochs) // max(count, 1)
    return list(epochs[step - 1 :: step])[:count]


def _plot_metric(
    panel: Axes, name: str, curves: Mapping[str, Sequence[float]], epochs: Sequence[int]
) -> dict[str, Any]:
    """Draws a metric's two curves and returns the entries for the legend."""
    legend: dict[str, Any] = {}
    training, validation = curves.get(name, ()), curves.get(f"val_{name}", ())
    if training:
        legend["training"] = _line(panel, _validated(len(training), epochs), training, "o-", _BLUE)
    if validation:
        legend["validation"] = _line(panel, _validated(len(validation), epochs), validation, "s--", _ORANGE)
    lost = sum(not math.isfinite(value) for value in (*training, *validation))
    if lost:
        note = f"{lost} value{'s' * (lost > 1)} not finite"
        panel.text(0.98, 0.97, note, transform=panel.transAxes, ha="right", va="top", color=_GREY, fontsize="small")

    losses = curves.get("val_loss", ())
    finite = [pair for pair in zip(losses, _validated(len(losses), epochs), strict=True) if math.isfinite(pair[0])]
    if finite and len(epochs) > 1:
        best = min(finite)[1]
        line = panel.axvline(best, color=_GREY, linewidth=1.2, linestyle=":")
        legend[f"lowest validation loss: epoch {best}"] = line
        at_best = dict(zip(_validated(len(validation), epochs), validation, strict=True)).get(best)
        if at_best is not None:
            panel.plot(best, at_best, "o", markersize=11, markerfacecolor="none", markeredgecolor=_GREY)
    return legend


def _plot_rate(panel: Axes, rates: Sequence[float], epochs: Sequence[int]) -> None:
    """Draws the learning rate, on a logarithmic axis unless it reaches zero."""
    _line(panel, _validated(len(rates), epochs), rates, "d-", _GREY)
    if min(rates) > 0:
        panel.set_yscale("log")


def _line(panel: Axes, epochs: Sequence[int], values: Sequence[float], style: str, colour: str) -> Any:
    finite = [value if math.isfinite(value) else math.nan for value in values]
    few = len(epochs) <= _FEW_EPOCHS
    (line,) = panel.plot(epochs, finite, style if few else style[1:], color=colour, linewidth=1.8, markersize=5)
    if len(epochs) == 1:
        panel.annotate(f"{values[0]:.4g}", (epochs[0], finite[0]), (9, 0), textcoords="offset points", va="center")
    return line


def _checked(path: str | os.PathLike[str], suffixes: Sequence[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        expected = f"a file name that ends in {' or '.join(suffixes)}"
        raise InvalidArgumentError(
            "path", expected=expected, received=str(path), advice=f"Try {target.stem}{suffixes[0]}."
        )
    return target


class _OnceInItsCell:
    """Displays a figure in a notebook, but skips the second display within the same cell."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.shown_in: int | None = None

    def __call__(self) -> None:
        cell = getattr(_notebook(), "execution_count", None)
        if cell is not None and self.shown_in == cell:
            self.shown_in = None
            return
        # Imported by name, so that mypy ignores it: IPython has no types, and may not be installed.
        notebook: Any = importlib.import_module("IPython.display")
        # Twice the resolution of a common screen, at the same size, so that it is sharp on high-resolution screens.
        picture = io.BytesIO()
        self.figure.savefig(picture, format="png", dpi=192)
        width = round(96 * self.figure.get_figwidth())
        notebook.display(notebook.Image(data=picture.getvalue(), format="png", width=width))
        self.shown_in = cell


def _notebook() -> Any:
    """Returns the IPython shell of the running notebook, or `None` in a script or a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def _show_in_notebook(figure: Figure) -> None:
    """Displays a figure now, and keeps the notebook from displaying it again if it is the cell's last expression."""
    if _notebook() is not None:
        show = _OnceInItsCell(figure)
        vars(figure)["_ipython_display_"] = show
        show()
