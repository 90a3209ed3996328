"""The command ``dlf backends``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from dlf.cli._options import json_option, put_json

__all__ = ["backends"]


@click.command("backends")
@json_option("the list")
def backends(file: Path | None) -> int:
    r"""List the backends: what is installed, on which devices, and how to install what is not.

    \b
    Example:
      dlf backends --json
    """
    from dlf.cli._console import ask_backends, print_backends

    answers = ask_backends()
    put_json(answers, file, partial(print_backends, answers))
    return 3 if any("error" in answer for answer in answers) else 0
