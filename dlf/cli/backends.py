"""The command ``dlf backends``."""

from __future__ import annotations

import json

import click

__all__ = ["backends"]


@click.command("backends")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def backends(as_json: bool) -> int:
    r"""List the backends: what is installed, on which devices, and how to install what is not.

    \b
    Example:
      dlf backends --json
    """
    from dlf.cli._console import ask_backends, print_backends

    answers = ask_backends()
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    else:
        print_backends(answers)
    return 3 if any("error" in answer for answer in answers) else 0
