"""Draws a model's graph as SVG: a card for each call of a layer, and arrows for the tensors between them.

Requirements:

* the requirements of `graph_layout`, which places the cards, and of `svg`, which writes the text;
* the picture looks the same on a light page, on a dark page and after conversion for print: it has its own background,
  and uses neither style sheets nor markers, which would affect other pictures on the same page.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from dlf.visualization.graph_layout import CARD_WIDTH, lay_out
from dlf.visualization.svg import add_element, add_rectangle, add_span, add_text, add_title, shorten, text_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlf.visualization._model_graph import GraphNode, ModelGraph, Shape

__all__ = ["draw_graph"]

_MARGIN = 28
_MOST_SHAPES = 3
_FEW_FAMILIES = 2

_SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_PAGE, _CARD, _LINE, _INK, _MUTED, _ARROW = "#f6f7f9", "#ffffff", "#d5dae1", "#17202c", "#5b6675", "#8792a2"

_FAMILIES = {
    "input": ("input", "#475569"),
    "core": ("core", "#2563eb"),
    "convolutional": ("convolution", "#0f766e"),
    "pooling": ("pooling", "#0369a1"),
    "reshaping": ("reshaping", "#0e8fb3"),
    "normalization": ("normalisation", "#b45309"),
    "activations": ("activation", "#a16207"),
    "regularization": ("regularisation", "#be123c"),
    "rnn": ("recurrent", "#7c3aed"),
    "attention": ("attention", "#a21caf"),
    "merging": ("merge", "#15803d"),
    "preprocessing": ("preprocessing", "#4d7c0f"),
    "model": ("nested model", "#1e3a8a"),
    "op": ("operation", "#64748b"),
    "custom": ("custom", "#78350f"),
}


def draw_graph(graph: ModelGraph) -> ET.Element:
    """Draws a model's graph.

    Args:
        graph: What `dlf.visualization._model_graph.model_graph` returned.

    Returns:
        The `svg` element. Each card is a group with the attribute `data-node`, and each arrow is a group with the
        attributes `data-source` and `data-target`.

    Example:
        >>> from dlf.visualization._model_graph import ModelGraph
        >>> draw_graph(ModelGraph("empty", "Functional", (), (), (), (), 0, 0)).tag
        'svg'
    """
    heights = [_card_height(node) for node in graph.nodes]
    # Several tensors between the same two calls (the states of a recurrent layer) are one arrow.
    arrows: dict[tuple[int, int], list[str]] = {}
    for edge in graph.edges:
        shape = str(graph.nodes[edge.source].output_shapes[edge.source_output])
        arrows.setdefault((edge.source, edge.target), []).append(shape)
    layout = lay_out(heights, list(arrows))
    name = shorten(graph.name, 420, 20)
    counts = f"{graph.parameters:,} parameters"
    if graph.parameters:
        counts += f" · {graph.trainable_parameters:,} trainable · {graph.non_trainable_parameters:,} non-trainable"
    title_width = text_width(name, 20) + 12 + text_width(graph.class_name, 13)
    inner_width = max(layout.width, title_width, text_width(counts, 13))
    legend = _legend({_FAMILIES.get(node.family, _FAMILIES["custom"]) for node in graph.nodes}, inner_width)
    top = _MARGIN + 60 + (20 * len(legend) + 12 if legend else 0)
    width, height = inner_width + 2 * _MARGIN, top + layout.height + _MARGIN

    svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
    svg.attrib.update({"width": f"{width:.0f}", "height": f"{height:.0f}", "viewBox": f"0 0 {width:.0f} {height:.0f}"})
    svg.set("font-family", _SANS)
    add_title(svg, f"{graph.name}: {counts}")
    add_rectangle(svg, (0.5, 0.5, width - 1, height - 1), 14, fill=_PAGE, stroke=_LINE)
    heading = add_text(svg, (_MARGIN, _MARGIN + 18), name, 20, fill=_INK, font_weight="700")
    add_span(heading, graph.class_name, gap=12, size=13, fill=_MUTED, font_weight="400")
    add_text(svg, (_MARGIN, _MARGIN + 42), counts, 13, fill=_MUTED)
    for row, entries in enumerate(legend):
        for x, family, colour in entries:
            y = _MARGIN + 60 + 20 * row
            add_rectangle(svg, (_MARGIN + x, y, 11, 11), 3, fill=colour)
            add_text(svg, (_MARGIN + x + 17, y + 10), family, 12, fill=_MUTED)

    drawing = add_element(svg, "g", transform=f"translate({(width - layout.width) / 2:.1f} {top:.0f})")
    for (source, target), shapes in arrows.items():
        group = add_element(drawing, "g", data_source=str(source), data_target=str(target))
        add_title(group, f"{graph.nodes[source].name} → {graph.nodes[target].name}: {', '.join(shapes)}")
        add_element(group, "path", d=layout.way(source, target), fill="none", stroke=_ARROW, stroke_width="1.6")
        add_element(group, "path", d=layout.head(target), fill=_ARROW)
    outputs = {index for index, _ in graph.outputs}
    for node in graph.nodes:
        _card(drawing, node, *layout.top_centre[node.index], is_output=node.index in outputs)
    return svg


def _card_height(node: GraphNode) -> float:
    return 60 + 18 * len(_rows(node))


def _card(parent: ET.Element, node: GraphNode, centre: float, top: float, *, is_output: bool) -> None:
    left, right, height = centre - CARD_WIDTH / 2, centre + CARD_WIDTH / 2 - 16, _card_height(node)
    _, colour = _FAMILIES.get(node.family, _FAMILIES["custom"])
    words = ", ".join(word for word in (node.setting, node.activation) if word)
    group = add_element(parent, "g", data_node=str(node.index))
    add_title(group, f"{node.name}\n{node.class_name}" + (f": {words}" if words else ""))
    if node.nested:
        add_rectangle(group, (left + 5, top + 5, CARD_WIDTH, height), 9, fill=_CARD, stroke=_LINE)
    add_rectangle(group, (left, top, CARD_WIDTH, height), 9, fill=_CARD, stroke=_LINE).set("class", "card")
    add_rectangle(group, (left + 8, top + 11, 4, height - 22), 2, fill=colour)

    badges = ["output"] * is_output + ["frozen"] * node.frozen
    badges += [f"shared {node.call}/{node.calls}"] * (node.shared and node.parameters > 0)
    free = right
    for badge in badges:
        width = text_width(badge, 10) + 12
        add_rectangle(group, (free - width, top + 11, width, 17), 8.5, fill=_PAGE, stroke=_LINE)
        add_text(group, (free - width / 2, top + 23), badge, 10, fill=_MUTED, text_anchor="middle")
        free -= width + 5
    left += 24
    add_text(group, (left, top + 25), shorten(node.name, free - left, 14), 14, fill=_INK, font_weight="600")
    class_name = shorten(node.class_name, right - left, 12)
    label = add_text(group, (left, top + 44), class_name, 12, font_weight="600", fill=colour)
    words = shorten(words, right - left - text_width(class_name, 12) - 8, 12)
    add_span(label, words, gap=8, size=12, fill=_MUTED, font_weight="400")
    for number, (name, value, note) in enumerate(_rows(node)):
        y = top + 66 + 18 * number
        end = right - (text_width(note, 11, mono=True) + 6 if note else 0)
        add_text(group, (left, y), name, 11, fill=_MUTED)
        shown = shorten(value, end - left - 52, 11, mono=True)
        add_text(group, (left + 52, y), shown, 11, fill=_INK, font_family=_MONO)
        add_text(group, (right, y), note, 11, fill=_MUTED, font_family=_MONO, text_anchor="end")


def _rows(node: GraphNode) -> list[tuple[str, str, str]]:
    """Returns the lower part of a card: name, value and note of each row."""
    rows = [("in" if not number else "", shape, "") for number, shape in enumerate(_shapes(node.input_shapes))]
    dtypes = ", ".join(dict.fromkeys(node.output_dtypes))
    for number, shape in enumerate(_shapes(node.output_shapes)):
        rows.append(("", shape, "") if number else ("out", shape, dtypes))
    if node.parameters:
        partly = 0 < node.trainable_parameters < node.parameters
        rows.append(("params", f"{node.parameters:,}", f"{node.trainable_parameters:,} trainable" if partly else ""))
    return rows


def _shapes(shapes: Sequence[Shape]) -> list[str]:
    """Returns at most `_MOST_SHAPES` lines for any number of shapes; equal neighbours share a line with their count."""
    groups = [(str(shape), len(list(equal))) for shape, equal in itertools.groupby(shapes)]
    lines = [shape if count == 1 else f"{shape} \N{MULTIPLICATION SIGN}{count}" for shape, count in groups]
    if len(lines) <= _MOST_SHAPES:
        return lines
    shown = _MOST_SHAPES - 1
    return [*lines[:shown], f"and {sum(count for _, count in groups[shown:])} more"]


def _legend(families: set[tuple[str, str]], width: float) -> list[list[tuple[float, str, str]]]:
    """Returns the rows of the legend, each a list of (x, name, colour); no rows if there are only a few families."""
    rows: list[list[tuple[float, str, str]]] = []
    x = width
    for name, colour in [
        family for family in _FAMILIES.values() if family in families and len(families) > _FEW_FAMILIES
    ]:
        step = 17 + text_width(name, 12) + 16
        if x + step > width:
            rows.append([])
            x = 0.0
        rows[-1].append((x, name, colour))
        x += step
    return rows
