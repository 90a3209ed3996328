"""A model's graph drawn as SVG: a card for each call of a layer, and arrows for the tensors between them.

What is asked of it:

* it needs neither Graphviz nor pydot: grandalf, which is plain Python, sorts the cards into rows;
* an arrow never runs through a card: past the rows in between it keeps to a lane of its own, and it bends only in the
  space between two rows, so that this holds by construction;
* a hostile layer name is text and nothing else: the picture is built as a tree of elements, never as a string;
* the picture looks the same on a light page, on a dark page and in a converter for print: it brings its own background
  and uses neither style sheets nor markers, which leak from one picture into the next on the same page.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from dlf.model_graph import GraphNode, ModelGraph, Shape

__all__ = ["draw_graph"]

_CARD_WIDTH = 300
_LANE_WIDTH = 18
_ROW_GAP = 34
_COLUMN_GAP = 22
_COMPONENT_GAP = 48
_MARGIN = 28
_ARROW_HEAD = 7
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
        graph: What `dlf.model_graph.model_graph` returned.

    Returns:
        The `svg` element; each card is a group with `data-node`, each arrow one with `data-source` and `data-target`.

    Example:
        >>> from dlf.model_graph import ModelGraph
        >>> draw_graph(ModelGraph("empty", "Functional", (), (), (), (), 0, 0)).tag
        'svg'
    """
    heights = [_card_height(node) for node in graph.nodes]
    # Several tensors between the same two calls (the states of a recurrent layer) are one arrow.
    arrows: dict[tuple[int, int], list[str]] = {}
    for edge in graph.edges:
        shape = str(graph.nodes[edge.source].output_shapes[edge.source_output])
        arrows.setdefault((edge.source, edge.target), []).append(shape)
    layout = _lay_out(heights, list(arrows))
    name = _cut(graph.name, 420, 20)
    counts = f"{graph.parameters:,} parameters"
    if graph.parameters:
        counts += f" · {graph.trainable_parameters:,} trainable · {graph.non_trainable_parameters:,} non-trainable"
    title_width = _text_width(name, 20) + 12 + _text_width(graph.class_name, 13)
    inner_width = max(layout.width, title_width, _text_width(counts, 13))
    legend = _legend({_FAMILIES.get(node.family, _FAMILIES["custom"]) for node in graph.nodes}, inner_width)
    top = _MARGIN + 60 + (20 * len(legend) + 12 if legend else 0)
    width, height = inner_width + 2 * _MARGIN, top + layout.height + _MARGIN

    svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
    svg.attrib.update({"width": f"{width:.0f}", "height": f"{height:.0f}", "viewBox": f"0 0 {width:.0f} {height:.0f}"})
    svg.set("font-family", _SANS)
    _title(svg, f"{graph.name}: {counts}")
    _rectangle(svg, (0.5, 0.5, width - 1, height - 1), 14, _PAGE)
    heading = _text(svg, (_MARGIN, _MARGIN + 18), name, 20, font_weight="700")
    _continue(heading, graph.class_name, gap=12, size=13)
    _text(svg, (_MARGIN, _MARGIN + 42), counts, 13, fill=_MUTED)
    for row, entries in enumerate(legend):
        for x, family, colour in entries:
            y = _MARGIN + 60 + 20 * row
            _rectangle(svg, (_MARGIN + x, y, 11, 11), 3, colour, "none")
            _text(svg, (_MARGIN + x + 17, y + 10), family, 12, fill=_MUTED)

    drawing = _add(svg, "g", transform=f"translate({(width - layout.width) / 2:.1f} {top:.0f})")
    for (source, target), shapes in arrows.items():
        group = _add(drawing, "g", data_source=str(source), data_target=str(target))
        _title(group, f"{graph.nodes[source].name} → {graph.nodes[target].name}: {', '.join(shapes)}")
        tip_x, tip_y = layout.top_centre[target]
        _add(group, "path", d=layout.way(source, target), fill="none", stroke=_ARROW, stroke_width="1.6")
        _add(group, "path", fill=_ARROW, d=f"M{tip_x:.1f},{tip_y - 1:.1f}l-4.5,-{_ARROW_HEAD}h9z")
    outputs = {index for index, _ in graph.outputs}
    for node in graph.nodes:
        _card(drawing, node, *layout.top_centre[node.index], is_output=node.index in outputs)
    return svg


@dataclass(frozen=True, slots=True)
class _Layout:
    heights: Sequence[float]
    top_centre: Sequence[tuple[float, float]]
    """The middle of each card's upper side."""
    row_of: Sequence[int]
    rows: Sequence[tuple[float, float]]
    """The top and the bottom of each row."""
    lanes: dict[tuple[int, int], list[tuple[int, float]]]
    """The rows that each edge passes on its way, and where."""
    width: float
    height: float

    def way(self, source: int, target: int) -> str:
        """Returns the path of an arrow: upright beside cards, bent only between two rows."""
        (x, y), (goal_x, goal_y) = self.top_centre[source], self.top_centre[target]
        steps = [f"M{x:.1f},{y + self.heights[source]:.1f}"]
        bottom = self.rows[self.row_of[source]][1]
        for row, lane in [*self.lanes[source, target], (self.row_of[target], goal_x)]:
            top = self.rows[row][0] - (_ARROW_HEAD if row == self.row_of[target] else 0)
            if round(lane - x):
                middle = (bottom + top) / 2
                steps.append(f"L{x:.1f},{bottom:.1f}C{x:.1f},{middle:.1f} {lane:.1f},{middle:.1f} {lane:.1f},{top:.1f}")
            x, bottom = lane, self.rows[row][1]
        return "".join([*steps, f"L{goal_x:.1f},{goal_y - _ARROW_HEAD:.1f}"])


def _lay_out(heights: Sequence[float], edges: Collection[tuple[int, int]]) -> _Layout:
    """Places cards of the given heights; parts that are not connected stand side by side."""
    from grandalf.graphs import Edge, Vertex, graph_core
    from grandalf.layouts import SugiyamaLayout

    class Layout(SugiyamaLayout):  # type: ignore[misc]  # grandalf has no types.
        def _detect_alignment_conflicts(self) -> None:
            # The list is only ever searched: as a set, a net of many skips takes a seventh of the time.
            super()._detect_alignment_conflicts()
            self.conflicts: Any = set(self.conflicts)

    vertices = [Vertex(index) for index in range(len(heights))]
    for vertex in vertices:
        vertex.view = SimpleNamespace(w=_CARD_WIDTH, h=0, xy=(0.0, 0.0))
    x_of, row_of = [0.0] * len(heights), [0] * len(heights)
    lanes: dict[tuple[int, int], list[tuple[int, float]]] = {edge: [] for edge in edges}
    width = -float(_COMPONENT_GAP)
    for members, inner in _components(len(heights), edges):
        component = graph_core(
            [vertices[index] for index in members], [Edge(vertices[a], vertices[b]) for a, b in inner]
        )
        layout = Layout(component)
        layout.xspace, layout.dw = _COLUMN_GAP, _LANE_WIDTH
        # A model has no cycles, so no edge has to be turned round, and the recursive search for them can be left out.
        layout.init_all(roots=component.roots(), inverted_edges=[], optimize=True)
        layout.draw(3)
        for row in layout.layers:
            _part(row)
        everything = [vertex.view for row in layout.layers for vertex in row]
        shift = width + _COMPONENT_GAP - min(view.xy[0] - view.w / 2 for view in everything)
        for vertex in component.sV:
            x_of[vertex.data] = vertex.view.xy[0] + shift
            row_of[vertex.data] = layout.grx[vertex].rank
        for edge, stops in layout.ctrls.items():
            passed = sorted(stops)[1:-1]
            lanes[edge.v[0].data, edge.v[1].data] = [(row, stops[row].view.xy[0] + shift) for row in passed]
        width = shift + max(view.xy[0] + view.w / 2 for view in everything)

    rows: list[tuple[float, float]] = []
    for number in range(max(row_of, default=-1) + 1):
        top = rows[-1][1] + _ROW_GAP if rows else 0.0
        rows.append((top, top + max(height for row, height in zip(row_of, heights, strict=True) if row == number)))
    tops = [sum(rows[row]) / 2 - height / 2 for row, height in zip(row_of, heights, strict=True)]
    return _Layout(
        heights=heights,
        top_centre=list(zip(x_of, tops, strict=True)),
        row_of=row_of,
        rows=rows,
        lanes=lanes,
        width=max(width, 0.0),
        height=rows[-1][1] if rows else 0.0,
    )


def _components(count: int, edges: Iterable[tuple[int, int]]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Sorts vertices and edges by connected part.

    grandalf can do that too, but goes through a set of edges, so that the same model would look different each time.
    """
    parent = list(range(count))

    def first(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for source, target in edges:
        low, high = sorted((first(source), first(target)))
        parent[high] = low
    parts: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}
    for index in range(count):
        parts.setdefault(first(index), ([], []))[0].append(index)
    for source, target in edges:
        parts[first(source)][1].append((source, target))
    return list(parts.values())


def _part(row: Iterable[Any]) -> None:
    """Moves apart what grandalf left too close: the mean of its four layouts does not promise a gap."""
    edge = float("-inf")
    for view in sorted((vertex.view for vertex in row), key=lambda view: view.xy[0]):
        view.xy = (max(view.xy[0], edge + _COLUMN_GAP + view.w / 2), 0.0)
        edge = view.xy[0] + view.w / 2


def _card_height(node: GraphNode) -> float:
    return 60 + 18 * len(_rows(node))


def _card(parent: ET.Element, node: GraphNode, centre: float, top: float, *, is_output: bool) -> None:
    left, right, height = centre - _CARD_WIDTH / 2, centre + _CARD_WIDTH / 2 - 16, _card_height(node)
    _, colour = _FAMILIES.get(node.family, _FAMILIES["custom"])
    words = ", ".join(word for word in (node.setting, node.activation) if word)
    group = _add(parent, "g", data_node=str(node.index))
    _title(group, f"{node.name}\n{node.class_name}" + (f": {words}" if words else ""))
    if node.nested:
        _rectangle(group, (left + 5, top + 5, _CARD_WIDTH, height), 9, _CARD)
    _rectangle(group, (left, top, _CARD_WIDTH, height), 9, _CARD).set("class", "card")
    _rectangle(group, (left + 8, top + 11, 4, height - 22), 2, colour, "none")

    badges = ["output"] * is_output + ["frozen"] * node.frozen
    badges += [f"shared {node.call}/{node.calls}"] * (node.shared and node.parameters > 0)
    free = right
    for badge in badges:
        width = _text_width(badge, 10) + 12
        _rectangle(group, (free - width, top + 11, width, 17), 8.5, _PAGE)
        _text(group, (free - width / 2, top + 23), badge, 10, fill=_MUTED, text_anchor="middle")
        free -= width + 5
    left += 24
    _text(group, (left, top + 25), _cut(node.name, free - left, 14), 14, font_weight="600")
    class_name = _cut(node.class_name, right - left, 12)
    label = _text(group, (left, top + 44), class_name, 12, font_weight="600", fill=colour)
    _continue(label, _cut(words, right - left - _text_width(class_name, 12) - 8, 12), gap=8, size=12)
    for number, (name, value, note) in enumerate(_rows(node)):
        y = top + 66 + 18 * number
        end = right - (_text_width(note, 11, mono=True) + 6 if note else 0)
        _text(group, (left, y), name, 11, fill=_MUTED)
        _text(group, (left + 52, y), _cut(value, end - left - 52, 11, mono=True), 11, font_family=_MONO)
        _text(group, (right, y), note, 11, fill=_MUTED, font_family=_MONO, text_anchor="end")


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
    """Returns a few lines for any number of shapes, equal neighbours once and counted."""
    groups = [(str(shape), len(list(equal))) for shape, equal in itertools.groupby(shapes)]
    lines = [shape if count == 1 else f"{shape} \N{MULTIPLICATION SIGN}{count}" for shape, count in groups]
    if len(lines) <= _MOST_SHAPES:
        return lines
    shown = _MOST_SHAPES - 1
    return [*lines[:shown], f"and {sum(count for _, count in groups[shown:])} more"]


def _legend(families: set[tuple[str, str]], width: float) -> list[list[tuple[float, str, str]]]:
    """Returns rows of (x, name, colour); none for so few families that the cards explain themselves."""
    rows: list[list[tuple[float, str, str]]] = []
    x = width
    for name, colour in [
        family for family in _FAMILIES.values() if family in families and len(families) > _FEW_FAMILIES
    ]:
        step = 17 + _text_width(name, 12) + 16
        if x + step > width:
            rows.append([])
            x = 0.0
        rows[-1].append((x, name, colour))
        x += step
    return rows


# What follows writes SVG and knows nothing of models.


def _add(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    """Adds an element; as in `font_size`, an underscore stands for SVG's hyphen."""
    return ET.SubElement(parent, tag, {name.replace("_", "-"): value for name, value in attributes.items()})


def _rectangle(
    parent: ET.Element, box: tuple[float, float, float, float], radius: float, fill: str, stroke: str = _LINE
) -> ET.Element:
    """Adds a rounded box, given as x, y, width and height."""
    x, y, width, height = (f"{length:.1f}" for length in box)
    return _add(parent, "rect", x=x, y=y, width=width, height=height, rx=f"{radius:g}", fill=fill, stroke=stroke)


def _text(parent: ET.Element, at: tuple[float, float], text: str, size: int, **style: str) -> ET.Element:
    element = _add(parent, "text", x=f"{at[0]:.1f}", y=f"{at[1]:.1f}", font_size=str(size), **{"fill": _INK, **style})
    element.text = _clean(text)
    return element


def _continue(text: ET.Element, more: str, *, gap: int, size: int) -> None:
    """Adds quieter words to a text; the viewer, who knows the font, finds the place where they start."""
    span = _add(text, "tspan", fill=_MUTED, font_size=str(size), font_weight="400", dx=str(gap))
    span.text = _clean(more)


def _title(parent: ET.Element, text: str) -> None:
    """Adds the text that a browser shows when the pointer rests on the parent."""
    _add(parent, "title").text = _clean(text)


def _clean(text: str) -> str:
    """Replaces the characters that XML has no way to write, such as NUL and half a surrogate pair."""
    return re.sub("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]", "\ufffd", text)


def _text_width(text: str, size: float, *, mono: bool = False) -> float:
    """Estimates the width of a text, rather too wide than too narrow: the reader's fonts are not known."""
    return size * sum(_character_width(character, mono=mono) for character in text)


def _character_width(character: str, *, mono: bool) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if mono:
        return 0.61
    if character in "ijlt.,:;'|!()[] f1":
        return 0.4
    return 0.75 if character.isupper() or character in "mw%@" else 0.6


def _cut(text: str, width: float, size: float, *, mono: bool = False) -> str:
    """Shortens a text to a width, with an ellipsis."""
    if _text_width(text, size, mono=mono) <= width:
        return text
    length = len(text)
    while length and _text_width(text[:length], size, mono=mono) + size > width:
        length -= 1
    return text[:length] + "…" if length else ""
