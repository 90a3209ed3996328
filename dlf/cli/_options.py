"""What options of several commands have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

__all__ = ["STDOUT", "Command", "html_option", "json_option", "names", "print_progress", "put_json"]

STDOUT = Path("-")
"""What ``--json`` names where it names no file."""


class Command(click.Command):
    """A command that still knows what its options were called before; its help shows the names of today alone.

    Args:
        renamed: Today's name of an option, by the name that it had.
    """

    def __init__(self, *arguments: Any, renamed: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._renamed = renamed or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the arguments, after giving each option the name of today."""
        parts = [each.partition("=") for each in args]
        return super().parse_args(ctx, [self._renamed.get(name, name) + sign + value for name, sign, value in parts])


def json_option(what: str) -> Callable[[Any], Any]:
    """Returns the option ``--json [FILE]``, the same in every command.

    Args:
        what: What is written, for the help.
    """
    return click.option(
        "--json",
        "file",
        metavar="[FILE]",
        is_flag=False,
        flag_value=str(STDOUT),
        type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
        callback=_checked,
        help=f"Write {what} as JSON to FILE; without one, to stdout, and nothing else there.",
    )


def html_option(help: str) -> Callable[[Any], Any]:  # noqa: A002 - as click has it.
    """Returns the option ``--html FILE``, the same in every command."""
    return click.option(
        "--html",
        "page",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_checked,
        help=help,
    )


def _checked(_: click.Context, __: click.Parameter, file: Path | None) -> Path | None:
    """The file, if it can be written: that is told before hours of work, and not after them."""
    from dlf.utils.files import check_place

    if file not in {None, STDOUT}:
        check_place(file)
    return file


def put_json(
    value: Any,
    file: Path | None,
    show: Callable[[], None],
    *,
    page: Callable[[], None] = lambda: None,
    indent: int | None = 2,
) -> None:
    """Writes a result to where ``--json`` says, and shows it as text unless that is stdout.

    What took the time is kept first: a page may fail, and whoever reads stdout may have left.

    Args:
        value: In JSON's types.
        file: What ``--json`` names.
        show: Prints the text.
        page: Writes the page, where one is asked for.
        indent: Of the JSON.

    Raises:
        OutputError: The file or the page cannot be written.
    """
    from dlf.utils.files import as_json, write_json

    if file is not None and file != STDOUT:
        write_json(value, file, indent=indent)
    page()
    if file == STDOUT:
        click.echo(as_json(value, indent=indent))
    else:
        show()


def names(text: str | None) -> list[str]:
    """Returns the names in a list with commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def print_progress(text: str) -> None:
    """Says on stderr what is going on."""
    click.echo(f"dlf: {text}", err=True)
