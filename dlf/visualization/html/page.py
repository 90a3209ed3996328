"""Writes HTML pages from template files, with or without scripts.

Requirements:

* a page loads nothing from elsewhere, and runs no scripts but its own, whatever text is inserted into it;
* inserted text stays text: it is escaped, and characters that change the direction of writing are made visible;
* Jinja and MarkupSafe are imported when a page is written, and not before.
"""

from __future__ import annotations

import base64
import datetime as dt
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
"""Runs before the page is drawn, so that the browser does not draw thousands of rows before a script pages them."""
_TURNS = {code: f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Unicode's control characters for the direction of writing, each with its escape sequence to show instead."""


def write_scripted_page(template: Path, view: Mapping[str, Any], scripts: Sequence[Path], file: Path) -> None:
    """Writes a page with scripts.

    Args:
        template: The template file, as for `write_template`. Its variables are those of `view`, and ``early_script``,
            ``scripts``, the hashes ``policy`` that allow these, and the ``license`` of DataTables.
        view: The variables of the template.
        scripts: The script files, in the order in which they run.
        file: The page to write.

    Raises:
        OutputError: The file cannot be written.
    """
    from markupsafe import Markup

    texts = [_EARLY_SCRIPT, *(script.read_text(encoding="utf-8") for script in scripts)]
    own = {
        "policy": " ".join(f"'sha256-{_digest(each)}'" for each in texts),
        # Scripts are files of this package and hold no text of a report, so they need no escaping.
        "early_script": Markup(texts[0]),  # noqa: S704
        "scripts": [Markup(each) for each in texts[1:]],  # noqa: S704
        "license": (_FOLDER / "vendor/datatables/License.txt").read_text(encoding="utf-8"),
    }
    write_template(template, {**view, **own}, file, finalize=_visible)


def write_template(template: Path, view: Mapping[str, Any], file: Path, **options: Any) -> None:
    """Writes a page from a template, with all inserted text escaped.

    Args:
        template: The template file. It can include files of its own folder by name, and shared ones as ``html/NAME``.
        view: The variables of the template; ``version`` and ``date`` are there by themselves.
        file: The page to write.
        **options: Further arguments of `jinja2.Environment`.

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
    today = dt.datetime.now().astimezone().date().isoformat()
    page = environment.get_template(template.name).render({"version": __version__, "date": today, **view})
    with whole_file(file) as place:
        # A file name that is not valid UTF-8 reaches a report as surrogates, which cannot be encoded.
        place.write_text(page, encoding="utf-8", errors="replace")


def _visible(value: Any) -> Any:
    """Replaces characters that change the direction of writing by visible escape sequences."""
    return value.translate(_TURNS) if isinstance(value, str) else value


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
