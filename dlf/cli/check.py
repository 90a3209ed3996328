"""The command ``dlf check``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from dlf.cli._options import json_option, put_json

__all__ = ["check"]


@click.command("check")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@json_option("the findings")
def check(paths: tuple[str, ...], file: Path | None) -> int:
    r"""List what ties Keras code to one framework, by file and line, with what to write instead.

    PATH is a file of Python code, a notebook, or a folder of them. They are read; nothing is run. A comment
    "# dlf: ignore[RULE]" leaves a line out.

    \b
    Examples:
      dlf check model.py
      dlf check src --json
    """
    from dlf.check.check import check_source
    from dlf.check.report import print_check

    result = check_source(*paths)
    put_json(result.to_json(), file, partial(print_check, result))
    return result.exit_code
