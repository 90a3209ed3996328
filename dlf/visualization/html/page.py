"""Writes pages from templates beside the code, with scripts of their own or without.

Requirements:

* a page fetches nothing, and nothing runs in it but its own scripts, whatever words got in;
* words are text: escaped, and those that would turn the direction of what follows are shown;
* its libraries are imported when a page is written, and not before.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlf._version import __version__
from dlf.utils.files import whole_file

__all__ = ["DATATABLES", "write_scripted_page", "write_template"]

_FOLDER = Path(__file__).parent

DATATABLES = (_FOLDER / "vendor/datatables/dataTables.min.js", _FOLDER / "table.js")
"""The scripts of a page whose table sorts and filters; `table.css` is its style."""
_EARLY_SCRIPT = 'document.documentElement.classList.add("scripted")'
"""Before anything is drawn: thousands of rows need not be, where a script is to show them a few at a time."""
_TURNS = {code: f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Characters that say in which direction a text runs."""


def write_scripted_page(template: Path, view: Mapping[str, Any], scripts: Sequence[Path], file: Path) -> None:
    """Writes a page.

    Args:
        template: Its file, as for `write_template`. Beside the view it has ``early_script``, ``scripts``, their
            ``policy``, the ``license`` of DataTables, and dlf's ``version``.
        view: What the template shows.
        scripts: Files, in the order in which they run.
        file: Where to.

    Raises:
        OutputError: The file cannot be written.
    """
    from markupsafe import Markup

    texts = [_EARLY_SCRIPT, *(script.read_text(encoding="utf-8") for script in scripts)]
    own = {
        "policy": " ".join(f"'sha256-{_digest(each)}'" for each in texts),
        # Files of the package, and no words of a report.
        "early_script": Markup(texts[0]),  # noqa: S704
        "scripts": [Markup(each) for each in texts[1:]],  # noqa: S704
        "license": (_FOLDER / "vendor/datatables/License.txt").read_text(encoding="utf-8"),
        "version": __version__,
    }
    write_template(template, {**view, **own}, file, finalize=_visible)


def write_template(template: Path, view: Mapping[str, Any], file: Path, **options: Any) -> None:
    """Writes a page from a template, with every word escaped.

    Args:
        template: Its file. It includes what lies beside it by name, and what all pages share as ``html/NAME``.
        view: What it shows.
        file: Where to.
        **options: Of Jinja's environment.

    Raises:
        OutputError: The file cannot be written.
    """
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(template.parent), PrefixLoader({"html": FileSystemLoader(_FOLDER)})]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    page = environment.get_template(template.name).render(view)
    with whole_file(file) as place:
        # A file name that is no UTF-8 reaches a report as characters that UTF-8 has no bytes for.
        place.write_text(page, encoding="utf-8", errors="replace")


def _visible(value: Any) -> Any:
    """Shows what would turn the text round that follows it."""
    return value.translate(_TURNS) if isinstance(value, str) else value


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
