"""The model's graph in the page of `dlf parity`: a card for each call of a layer, in the colour of its worst verdict.

Requirements:

* colours are the page's own, and are never the only sign: each card has the symbol and the word of its verdict;
* each card is a link to the details of its layer, by pointer and by keyboard;
* the calls inside a layer come before it, since it gives their outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from dlf.parity.page.rows import Layer, worst_of
from dlf.visualization.graph_layout import CARD_WIDTH, lay_out
from dlf.visualization.html.style import SIGNS
from dlf.visualization.svg import add_element, add_rectangle, add_span, add_text, add_title, shorten

__all__ = ["draw_calls"]

_HEIGHT, _MARGIN = 46, 8


@dataclass(frozen=True)
class _Card:
    title: str
    class_name: str
    layer: Layer
    level: str
    verdict: str


def draw_calls(report: Mapping[str, Any], layers: Sequence[Layer]) -> str:
    """Draws the calls of a model's layers, as SVG to stand inside the page; an empty string if there are none.

    Args:
        report: What `run_parity` returned.
        layers: What `layers_of` returned; the cards of layer n link to ``#layer-n``.
    """
    calls = report.get("calls", ())
    if not calls:
        return ""
    by_path = {layer.path: layer for layer in layers}
    classes = {each["path"]: each["class"] for each in report.get("layers", ())}
    cards = [_card(call, by_path.get(call["layer"], layers[0]), classes) for call in calls]
    arrows = _arrows(calls)
    layout = lay_out([_HEIGHT] * len(cards), arrows)
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:.0f} {height:.0f}")
    svg.attrib.update({"width": f"{width:.0f}", "height": f"{height:.0f}", "role": "group"})
    svg.set("aria-label", "The model's graph: each card leads to the details of its layer")
    drawing = add_element(svg, "g", transform=f"translate({_MARGIN} {_MARGIN})")
    for source, target in arrows:
        add_element(drawing, "path", d=layout.way(source, target), **{"class": "arrow"})
        add_element(drawing, "path", d=layout.head(target), **{"class": "head"})
    for card, (x, y) in zip(cards, layout.top_centre, strict=True):
        _draw(drawing, card, x - CARD_WIDTH / 2, y)
    return ET.tostring(svg, encoding="unicode")


def _card(call: Mapping[str, Any], layer: Layer, classes: Mapping[str, str]) -> _Card:
    own = [row for row in layer.rows if row.call in (call["key"], None)]
    verdict = worst_of(row.verdict for row in own)
    level = next((row.level for row in own if row.verdict == verdict), "")
    return _Card(call["key"], classes.get(call["layer"], ""), layer, level, verdict)


def _arrows(calls: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Pairs of calls, by number, of which the first gives its outputs to the second.

    A call that made others inside gets its arrows from the last of these, and not from the calls before it.
    """
    place = {each["key"]: number for number, each in enumerate(calls)}
    inside = _inside(calls)
    found = []
    for number, call in enumerate(calls):
        sources = [place[key] for key in call["sources"] if key in place and place[key] < number]
        mine = inside.get(number, [])
        given = {place[key] for other in mine for key in calls[other]["sources"] if key in place}
        last = [other for other in mine if other not in given]
        found += [(source, number) for source in dict.fromkeys(last or sources)]
    return list(dict.fromkeys(found))


def _inside(calls: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
    """For each call that made others inside, their numbers: calls of layers below its own that no earlier call made."""
    found: dict[int, list[int]] = {}
    free: list[int] = []
    for number, call in enumerate(calls):
        below = f"{call['layer']}/"
        mine = [other for other in free if calls[other]["layer"].startswith(below)]
        if mine:
            found[number] = mine
            free = [other for other in free if other not in mine]
        free.append(number)
    return found


def _draw(parent: ET.Element, card: _Card, left: float, top: float) -> None:
    link = add_element(parent, "a", href=f"#layer-{card.layer.number}", **{"class": f"card {card.level}"})
    word = card.verdict or "not judged"
    link.set("aria-label", f"{card.title}, {card.class_name}: {word}")
    add_title(link, f"{card.title}\n{card.class_name}: {word}")
    add_rectangle(link, (left, top, CARD_WIDTH, _HEIGHT), 8)
    add_text(link, (left + 19, top + 30), SIGNS[card.level], 20, text_anchor="middle", **{"class": "mark"})
    # The end of a long path tells which layer it is: the beginning is left out.
    title = card.title if len(card.title) < 32 else f"…{card.title[-30:]}"  # noqa: PLR2004 - what a card has room for.
    add_text(link, (left + 38, top + 20), shorten(title, CARD_WIDTH - 48, 14), 14, font_weight="600")
    class_name = shorten(card.class_name, CARD_WIDTH - 150, 12)
    quiet = add_text(link, (left + 38, top + 37), class_name, 12, **{"class": "quiet"})
    add_span(quiet, word, gap=8, size=12)
