"""The command ``dlf gradients``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from dlf.cli._options import html_option, json_option, names, print_progress, put_json

__all__ = ["gradients"]


@click.command("gradients", context_settings={"show_default": True})
@click.option("--problem", metavar="NAME", default="mlp", help="line, mlp, or file.py:function that builds a model.")
@click.option("--paths", metavar="A,B", help="Which ways of taking gradients.  [default: all that are installed]")
@click.option("--steps", metavar="N", type=click.IntRange(1, 1_000_000), help="Steps of training.  [default: enough]")
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**32 - 1), default=2025, help="Starts all random numbers.")
@click.option("--data", metavar="FUNCTION", help="For a model: module:function, (batch size, random) -> (x, y).")
@click.option("--loss", metavar="NAME", help="For a model that is not compiled: a loss of Keras.")
@click.option("--batch-size", metavar="N", type=click.IntRange(1, 1_000_000), default=32, help="For a model.")
@click.option("--compile/--no-compile", default=True, help="Whether to time compiled steps too.")
@click.option(
    "--timeout", metavar="SECONDS", type=click.FloatRange(1.0), default=600.0, help="After which a path is ended."
)
@json_option("everything")
@html_option("Write a page to read.")
def gradients(paths: str | None, file: Path | None, page: Path | None, **options: Any) -> int:
    r"""Take the same gradients by each framework's own means, side by side, and hold them against the truth.

    \b
    Examples:
      dlf gradients --problem line
      dlf gradients --paths numpy,grad,tape --html gradients.html
      dlf gradients --problem model.py:build --json
    """
    from dlf.gradients.options import GradientsOptions

    asked = GradientsOptions(paths=names(paths), **options)
    from dlf.gradients.report import exit_code, print_gradients
    from dlf.gradients.runner import run_gradients

    report = run_gradients(asked, on_progress=print_progress)

    def write(place: Path) -> None:
        from dlf.gradients.page.page import write_page

        write_page(report, place)

    put_json(report, file, partial(print_gradients, report), page=page, write_page=write)
    return exit_code(report)
