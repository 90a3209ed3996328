"""A page of facts, pictures and tables: what a command prints, to look at and to send to somebody."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dlf.visualization.html.page import write_template
from dlf.visualization.html.style import SIGNS

__all__ = ["Summary", "SummaryTable"]


@dataclass(frozen=True)
class SummaryTable:
    """A table of a page: its first column names the rows; without columns there are remarks alone."""

    title: str
    note: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Summary:
    """What a page shows.

    Attributes:
        command: The command that writes it.
        answer: The one sentence at its top.
        word: The answer in a word or two.
        level: How alarming it is: ``"good"``, ``"warn"`` or ``"bad"``.
        facts: Names and values.
        pictures: Titles, and SVG files, which are put into the page.
        tables: The tables.
    """

    command: str
    answer: str
    word: str
    level: str = "good"
    facts: Sequence[tuple[str, str]] = ()
    pictures: Sequence[tuple[str, Path]] = ()
    tables: Sequence[SummaryTable] = field(default=())

    def write(self, file: Path) -> None:
        """Writes the page.

        Args:
            file: The file.

        Raises:
            OutputError: The file cannot be written.

        Example:
            >>> import tempfile
            >>> file = Path(tempfile.mkdtemp()) / "page.html"
            >>> Summary("dlf lab", "97% on digits", "Completed", facts=[("seed", "2025")]).write(file)
            >>> "<dt>seed</dt><dd>2025</dd>" in file.read_text(encoding="utf-8")
            True
        """
        pictures = [(title, _inside(picture)) for title, picture in self.pictures]
        view = {**vars(self), "pictures": pictures, "sign": SIGNS[self.level]}
        write_template(Path(__file__).with_name("summary.html.jinja"), view, file)


def _inside(picture: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.read_bytes()).decode()}"
