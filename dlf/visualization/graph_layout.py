"""Lays out a graph: cards in rows, and arrows that run around the cards.

Requirements:

* neither Graphviz nor pydot is needed: grandalf, which is plain Python, sorts the cards into rows;
* by construction, an arrow never runs through a card: it passes the rows between its ends in a lane of its own, and
  bends only in the space between two rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

__all__ = ["CARD_WIDTH", "Layout", "lay_out"]

CARD_WIDTH = 300
_LANE_WIDTH = 18
_ROW_GAP = 34
_COLUMN_GAP = 22
_COMPONENT_GAP = 48
_ARROW_HEAD = 7


@dataclass(frozen=True, slots=True)
class Layout:
    """The positions of the cards of a graph, and the routes of its arrows."""

    heights: Sequence[float]
    """The height of each card."""
    top_centre: Sequence[tuple[float, float]]
    """The middle of each card's upper side."""
    row_of: Sequence[int]
    """The number of each card's row."""
    rows: Sequence[tuple[float, float]]
    """The top and the bottom of each row."""
    lanes: dict[tuple[int, int], list[tuple[int, float]]]
    """For each edge, the rows that it passes between its ends, each with the x coordinate at which it passes."""
    width: float
    height: float

    def way(self, source: int, target: int) -> str:
        """Returns the path of an arrow: vertical beside cards, and curved only between two rows.

        Args:
            source: The number of the card that it starts from.
            target: The number of the card that its head points at.

        Returns:
            The path, for the attribute `d` of SVG's `path`.

        Example:
            >>> lay_out([20, 20], [(0, 1)]).way(0, 1)
            'M150.0,20.0L150.0,47.0'
        """
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

    def head(self, target: int) -> str:
        """Returns the path of the arrowhead at a card, which all arrows to that card share.

        Args:
            target: The number of the card.

        Returns:
            The path, for the attribute `d` of SVG's `path`.

        Example:
            >>> lay_out([20, 20], [(0, 1)]).head(1)
            'M150.0,53.0l-4.5,-7h9z'
        """
        x, y = self.top_centre[target]
        return f"M{x:.1f},{y - 1:.1f}l-4.5,-{_ARROW_HEAD}h9z"


def lay_out(heights: Sequence[float], edges: Collection[tuple[int, int]]) -> Layout:
    """Places the cards of an acyclic graph; its connected components are placed side by side.

    Args:
        heights: The height of each card; all are `CARD_WIDTH` wide.
        edges: Source and target of each arrow, each pair once, as numbers of cards.

    Returns:
        The positions of the cards, and the routes of the arrows.

    Example:
        >>> layout = lay_out([40, 60, 40], [(0, 1), (0, 2)])
        >>> layout.row_of, layout.rows
        ([0, 1, 1], [(0.0, 40.0), (74.0, 134.0)])
    """
    from grandalf.graphs import Edge, Vertex, graph_core
    from grandalf.layouts import SugiyamaLayout

    class Rows(SugiyamaLayout):  # type: ignore[misc]  # grandalf has no types.
        def _detect_alignment_conflicts(self) -> None:
            # grandalf only searches this list. As a set, a net of many skip connections takes a seventh of the time.
            super()._detect_alignment_conflicts()
            self.conflicts: Any = set(self.conflicts)

    vertices = [Vertex(index) for index in range(len(heights))]
    for vertex in vertices:
        vertex.view = SimpleNamespace(w=CARD_WIDTH, h=0, xy=(0.0, 0.0))
    x_of, row_of = [0.0] * len(heights), [0] * len(heights)
    lanes: dict[tuple[int, int], list[tuple[int, float]]] = {edge: [] for edge in edges}
    width = -float(_COMPONENT_GAP)
    for members, inner in _components(len(heights), edges):
        component = graph_core(
            [vertices[index] for index in members], [Edge(vertices[a], vertices[b]) for a, b in inner]
        )
        layout = Rows(component)
        layout.xspace, layout.dw = _COLUMN_GAP, _LANE_WIDTH
        # A model has no cycles, so no edge has to be inverted, and grandalf's recursive search for cycles is skipped.
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
    return Layout(
        heights=heights,
        top_centre=list(zip(x_of, tops, strict=True)),
        row_of=row_of,
        rows=rows,
        lanes=lanes,
        width=max(width, 0.0),
        height=rows[-1][1] if rows else 0.0,
    )


def _components(count: int, edges: Iterable[tuple[int, int]]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Groups vertices and edges by connected component.

    grandalf can do that too, but iterates over a set of edges, so the same model would look different each time.
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
    """Moves apart cards that are too close: grandalf averages four layouts, and the mean may lack the gaps."""
    edge = float("-inf")
    for view in sorted((vertex.view for vertex in row), key=lambda view: view.xy[0]):
        view.xy = (max(view.xy[0], edge + _COLUMN_GAP + view.w / 2), 0.0)
        edge = view.xy[0] + view.w / 2
