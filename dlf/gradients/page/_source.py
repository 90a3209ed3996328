"""The source of several paths in columns: the same function side by side, the same line on the same row.

Requirements:

* equal lines share a row and, after these, similar ones (`return jnp.mean(...)` and `return tf.reduce_mean(...)`);
* what differs from the first column is marked, by line and by word; nothing is left out except comments for linters.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

__all__ = ["Cell", "align", "highlight_styles", "source_rows"]

Line = tuple[tuple[Any, str], ...]
"""A line's tokens: for each, its type in Pygments and its text."""
Columns = Sequence[Sequence[Mapping[str, str]]]
"""For each column its functions, each with ``name`` and ``code``."""

_ALIKE = 0.4
"""The similarity from which two lines count as alike; set by measurements on the steps of dlf's own paths."""
_BESIDE = 0.01
"""The score of two unlike lines on one row: above 0, so that columns do not become longer than they must."""
_REMARKS = ("# type: ignore", "# noqa")


@dataclass(frozen=True)
class Cell:
    """A line of one column."""

    kind: str
    """``"first"``, ``"same"`` as the first column's, ``"differs"`` from it, or ``"absent"``."""
    html: str = ""
    """The highlighted line, escaped for HTML."""
    indent: int = 0


def source_rows(columns: Columns) -> list[tuple[str, list[list[Cell]]]]:
    r"""Lines up the functions of several columns.

    Args:
        columns: For each column its functions, each with ``name`` and ``code``.

    Returns:
        For each function its name and its rows, with a cell for each column.

    Example:
        >>> left, right = "def f(x):\n    return x", "def f(x):\n    y = 2\n    return x"
        >>> [(name, rows)] = source_rows([[{"name": "f", "code": left}], [{"name": "f", "code": right}]])
        >>> [[cell.kind for cell in row] for row in rows]
        [['first', 'same'], ['absent', 'differs'], ['first', 'same']]
    """
    found = []
    for name in _names(columns):
        code = [next((each["code"] for each in column if each["name"] == name), "") for column in columns]
        rows = align([_lines(each) for each in code], alike=_alike)
        found.append((name, [_cells(row) for row in rows]))
    return found


def align(columns: Sequence[Sequence[Any]], alike: Any) -> list[list[Any | None]]:
    """Puts items that are alike on the same row, and keeps each column's order.

    One column after another is aligned with the rows so far, so that the sum of the similarities of each new item and
    its row is as large as possible (Needleman and Wunsch, 1970). `difflib` compares only two texts; here may be five.

    Args:
        columns: The items of each column.
        alike: Returns the similarity of two items; 0 if they may not share a row.

    Returns:
        Rows with an item or None for each column.

    Example:
        >>> align(["abd", "acd", "bd"], alike=lambda a, b: float(a == b))
        [['a', 'a', None], ['b', None, 'b'], [None, 'c', None], ['d', 'd', 'd']]
    """
    rows: list[list[Any | None]] = []
    for place, column in enumerate(columns):
        scores = [[max(alike(cell, item) for cell in row if cell is not None) for item in column] for row in rows]
        height, width = len(rows), len(column)
        best = [[0.0] * (width + 1) for _ in range(height + 1)]
        for i in reversed(range(height)):
            for j in reversed(range(width)):
                best[i][j] = max(best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + scores[i][j])
        merged: list[list[Any | None]] = []
        i = j = 0
        while i < height or j < width:
            here = best[i][j] if i < height and j < width else 0.0
            if i < height and j < width and scores[i][j] > 0 and here == best[i + 1][j + 1] + scores[i][j]:
                merged.append([*rows[i], column[j]])
                i, j = i + 1, j + 1
            elif i < height and (j == width or here == best[i + 1][j]):
                merged.append([*rows[i], None])
                i += 1
            else:
                merged.append([*[None] * place, column[j]])
                j += 1
        rows = merged
    return rows


def highlight_styles(light: str = "xcode", dark: str = "github-dark") -> tuple[str, str]:
    """Returns the CSS of highlighted code, for a light page and for a dark one."""
    from pygments.formatters import HtmlFormatter

    defined = (HtmlFormatter(style=style).get_token_style_defs(".code") for style in (light, dark))
    first, second = ("\n".join(each) for each in defined)
    return first, second


def _names(columns: Columns) -> list[str]:
    """Returns all functions' names in the order of the columns; one that only some have comes after its predecessor."""
    order: list[str] = []
    for column in columns:
        place = 0
        for function in column:
            if function["name"] not in order:
                order.insert(place, function["name"])
            place = order.index(function["name"]) + 1
    return order


def _lines(code: str) -> list[Line]:
    from pygments import lex
    from pygments.lexers import PythonLexer
    from pygments.token import Comment

    lines: list[list[tuple[Any, str]]] = [[]]
    for kind, text in lex(code, PythonLexer(stripnl=True, ensurenl=False)):
        if kind in Comment and text.startswith(_REMARKS):
            continue
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append([])
            # Split into words, so that only the words of a docstring that differ are marked.
            lines[-1] += [(kind, word) for word in re.split(r"(\s+)", part) if word]
    whole = [line if "".join(text for _, text in line).strip() else [] for line in lines]
    return [tuple(line) for line in whole] if code else []


@lru_cache(maxsize=100_000)
def _alike(one: Line, other: Line) -> float:
    if one == other:
        return 2.0
    mine, theirs = _words(one), _words(other)
    if not mine or not theirs:
        return 0.0
    # The first word counts for half, since it says what a line does: two returns are alike, whatever they return.
    value = (SequenceMatcher(None, mine, theirs, autojunk=False).ratio() + (mine[0] == theirs[0])) / 2
    return value if value >= _ALIKE else _BESIDE


def _words(line: Line) -> list[str]:
    return [word for _, text in line for word in text.split()]


def _cells(row: Sequence[Line | None]) -> list[Cell]:
    first, cells = row[0], []
    for place, line in enumerate(row):
        if line is None:
            cells.append(Cell("absent"))
            continue
        kind = "first" if place == 0 else "same" if line == first else "differs"
        shown = _marked(line, first) if kind == "differs" and first is not None else line
        text = "".join(part for _, part in line)
        cells.append(Cell(kind, _html(shown), len(text) - len(text.lstrip())))
    return cells


def _marked(line: Line, first: Line) -> Line:
    """Returns the line with a special type for each token that the first column lacks, if the two lines are alike."""
    if _alike(first, line) < _ALIKE:
        return line
    matcher = SequenceMatcher(None, [text for _, text in first], [text for _, text in line], autojunk=False)
    kept = {place for block in matcher.get_matching_blocks() for place in range(block.b, block.b + block.size)}
    # To a subtype that it does not know, Pygments gives the CSS classes of the token's type and one more.
    return tuple(
        (kind, text) if place in kept or not text.strip() else (kind.Changed, text)
        for place, (kind, text) in enumerate(line)
    )


def _html(line: Line) -> str:
    from pygments.formatters import HtmlFormatter

    out = io.StringIO()
    HtmlFormatter(nowrap=True).format(line, out)
    # Long calls may wrap after a bracket or before a dot, where a programmer would break them.
    html = re.sub(r"(\(</span>)", r"\1<wbr>", out.getvalue().rstrip("\n"))
    return re.sub(r'(<span class="o[^"]*">\.</span>)', r"<wbr>\1", html)
