"""Makes the elements of an SVG picture, and estimates the width of text.

A picture is built as a tree of elements and never as a string, so that a hostile name remains plain text.
"""

from __future__ import annotations

import re
import unicodedata
from xml.etree import ElementTree as ET

__all__ = ["add_element", "add_rectangle", "add_span", "add_text", "add_title", "shorten", "text_width"]


def add_element(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    """Adds a child element to an element.

    Args:
        parent: The parent element.
        tag: The tag of the new element.
        **attributes: Its attributes; an underscore, as in `font_size`, stands for a hyphen.

    Returns:
        The new element.

    Example:
        >>> ET.tostring(add_element(ET.Element("svg"), "path", d="M0,0h9", stroke_width="2"))
        b'<path d="M0,0h9" stroke-width="2" />'
    """
    return ET.SubElement(parent, tag, {name.replace("_", "-"): value for name, value in attributes.items()})


def add_rectangle(
    parent: ET.Element, box: tuple[float, float, float, float], radius: float, **style: str
) -> ET.Element:
    """Adds a box with rounded corners.

    Args:
        parent: The parent element.
        box: Its x, y, width and height.
        radius: The radius of its corners.
        **style: Further attributes, as for `add_element`.

    Returns:
        The new element.

    Example:
        >>> ET.tostring(add_rectangle(ET.Element("svg"), (0, 0, 30, 20), 4, fill="none"))
        b'<rect x="0.0" y="0.0" width="30.0" height="20.0" rx="4" fill="none" />'
    """
    x, y, width, height = (f"{length:.1f}" for length in box)
    return add_element(parent, "rect", x=x, y=y, width=width, height=height, rx=f"{radius:g}", **style)


def add_text(parent: ET.Element, at: tuple[float, float], text: str, size: int, **style: str) -> ET.Element:
    """Adds a line of text.

    Args:
        parent: The parent element.
        at: The x and y where its base line begins.
        text: The text; characters that XML cannot represent are replaced.
        size: The font size.
        **style: Further attributes, as for `add_element`.

    Returns:
        The new element.

    Example:
        >>> ET.tostring(add_text(ET.Element("svg"), (2, 14), "a < b", 12, font_weight="700"))
        b'<text x="2.0" y="14.0" font-size="12" font-weight="700">a &lt; b</text>'
    """
    element = add_element(parent, "text", x=f"{at[0]:.1f}", y=f"{at[1]:.1f}", font_size=str(size), **style)
    element.text = _clean(text)
    return element


def add_span(text: ET.Element, more: str, *, gap: int, size: int, **style: str) -> ET.Element:
    """Appends words to a line of text; the SVG viewer, which knows the font, computes where they start.

    Args:
        text: The element that `add_text` returned.
        more: The words.
        gap: The distance between the end of the text and the words.
        size: The font size.
        **style: Further attributes, as for `add_element`.

    Returns:
        The new element.

    Example:
        >>> line = add_text(ET.Element("svg"), (2, 14), "Dense", 12)
        >>> ET.tostring(add_span(line, "relu", gap=8, size=10))
        b'<tspan font-size="10" dx="8">relu</tspan>'
    """
    span = add_element(text, "tspan", font_size=str(size), dx=str(gap), **style)
    span.text = _clean(more)
    return span


def add_title(parent: ET.Element, text: str) -> ET.Element:
    """Adds the text that a browser shows when the pointer rests on an element.

    Args:
        parent: That element.
        text: The text; characters that XML cannot represent are replaced.

    Returns:
        The new title element.

    Example:
        >>> ET.tostring(add_title(ET.Element("g"), "a layer"))
        b'<title>a layer</title>'
    """
    title = add_element(parent, "title")
    title.text = _clean(text)
    return title


def text_width(text: str, size: float, *, mono: bool = False) -> float:
    """Estimates the width of a text, on the wide side, since the reader's fonts are not known.

    Args:
        text: The text.
        size: The font size.
        mono: Whether the font is monospaced.

    Returns:
        The width, in the unit of the size.

    Example:
        >>> text_width("wide", 10) > text_width("lilt", 10)
        True
    """
    return size * sum(_character_width(character, mono=mono) for character in text)


def shorten(text: str, width: float, size: float, *, mono: bool = False) -> str:
    """Shortens a text to a width, with an ellipsis at the end.

    Args:
        text: The text.
        width: The largest width.
        size: The font size.
        mono: Whether the font is monospaced.

    Returns:
        The text, or as much of its beginning as fits, followed by an ellipsis.

    Example:
        >>> shorten("a_long_name_of_a_layer", 80, 10), shorten("short", 80, 10)
        ('a_long_name…', 'short')
    """
    if text_width(text, size, mono=mono) <= width:
        return text
    length = len(text)
    while length and text_width(text[:length], size, mono=mono) + size > width:
        length -= 1
    return text[:length] + "…" if length else ""


def _character_width(character: str, *, mono: bool) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if mono:
        return 0.61
    if character in "ijlt.,:;'|!()[] f1":
        return 0.4
    return 0.75 if character.isupper() or character in "mw%@" else 0.6


def _clean(text: str) -> str:
    """Replaces the characters that XML cannot represent, such as NUL and unpaired surrogates."""
    return re.sub("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]", "\ufffd", text)
