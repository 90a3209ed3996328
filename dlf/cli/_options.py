"""Options and helpers that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

__all__ = [
    "STDOUT",
    "Command",
    "completed",
    "completed_target",
    "html_option",
    "json_option",
    "names",
    "print_progress",
    "put_json",
]

STDOUT = Path("-")
"""The value of ``--json`` without a file name."""


class Command(click.Command):
    """A command that still accepts former names of its options; its help shows only the current names.

    Args:
        renamed: The current name of each renamed option, by its former name.
    """

    def __init__(self, *arguments: Any, renamed: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._renamed = renamed or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments, after replacing each former name by the current one."""
        parts = [each.partition("=") for each in args]
        return super().parse_args(ctx, [self._renamed.get(name, name) + sign + value for name, sign, value in parts])


def json_option(what: str) -> Callable[[Any], Any]:
    """Returns the option ``--json [FILE]``, the same in every command.

    Args:
        what: Says in the help what is written.
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
    """Returns the file if it can be written, so that an error comes before hours of work and not after them."""
    from dlf.utils.files import check_place

    if file not in {None, STDOUT}:
        check_place(file)
    return file


def put_json(  # noqa: PLR0913 - as many things can be asked for.
    value: Any,
    file: Path | None,
    show: Callable[[], None],
    *,
    page: Path | None = None,
    write_page: Callable[[Path], None] = lambda _: None,
    indent: int | None = 2,
) -> None:
    """Writes a result as JSON to the place that ``--json`` names, and shows it as text unless that is stdout.

    The file is written first, since the result may have taken hours: writing the page can fail, and so can writing to
    stdout, if its reader has gone.

    Args:
        value: The result, in JSON's types.
        file: The value of ``--json``.
        show: Prints the text.
        page: The value of ``--html``.
        write_page: Writes the HTML page to a file.
        indent: The indentation of the JSON.

    Raises:
        OutputError: The file or the page cannot be written.
    """
    from dlf.utils.files import as_json, write_json

    if file is not None and file != STDOUT:
        write_json(value, file, indent=indent)
        print_progress(f"wrote {file}")
    if page is not None:
        write_page(page)
        print_progress(f"wrote {page}")
    if file == STDOUT:
        click.echo(as_json(value, indent=indent))
    else:
        show()


def completed(known: Callable[[], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    """Returns what lets a shell complete an option's value, or the last of several with commas.

    Args:
        known: Gives the values.
    """

    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
        before, comma, last = typed.rpartition(",")
        return [CompletionItem(f"{before}{comma}{each}") for each in known() if each.startswith(last)]

    return complete


def completed_target(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """Lets a shell complete a target: a file, and after its colon the names in it that may stand for a model."""
    from dlf.models.target_names import models_in

    file, colon, begun = typed.rpartition(":")
    if not colon:
        return [CompletionItem(typed, type="file")]
    # A shell takes the colon for the end of a word.
    return [CompletionItem(each) for each in models_in(file) if each.startswith(begun)]


def names(text: str | None) -> list[str]:
    """Returns the names in a comma-separated list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def print_progress(text: str) -> None:
    """Prints to stderr what is being done."""
    click.echo(f"dlf: {text}", err=True)
