"""The command ``dlf lab``."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from dlf.backend.registry import backend_names
from dlf.cli._options import completed, html_option, json_option, put_json

__all__ = ["lab"]

_INTERRUPTED = 130
"""What a shell reports for a process that Ctrl-C ended."""


@click.command("lab", context_settings={"show_default": True})
@click.option(
    "--backend",
    metavar="NAME",
    shell_complete=completed(backend_names),
    help="What to run on; see `dlf backends`.  [default: the first installed]",
)
@click.option("--dataset", metavar="NAME", default="digits", help="The embedded digits, or any data set of TFDS.")
@click.option("--data-dir", metavar="DIR", help="A folder with the data: IDX .gz files, or a prepared TFDS data set.")
@click.option("--epochs", metavar="N", type=click.IntRange(1, 1_000_000), default=20, help="Epochs at most.")
@click.option(
    "--hidden", metavar="N", type=click.IntRange(1, 1_000_000), default=128, help="Units of the hidden layer."
)
@click.option("--optimizer", metavar="NAME", default="adam", help="Any optimizer of Keras.")
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**32 - 1), default=2025, help="Starts all random numbers.")
@click.option("--out", metavar="DIR", help="The run folder.  [default: runs/<time>]")
@json_option("the result")
@html_option("Write a page to look at, with the plots.")
def lab(backend: str | None, file: Path | None, page: Path | None, **options: Any) -> int:
    r"""Train the lab's model, end to end, and leave a run folder.

    \b
    Examples:
      dlf lab
      dlf lab --backend torch --hidden 256 --optimizer sgd
      dlf lab --dataset fashion_mnist --data-dir ~/fashion-mnist --epochs 5

    Ctrl-C ends the run after the current batch and keeps what was learnt.
    """
    _start_backend(backend)
    from dlf.cli._console import LabProgress, print_lab, write_lab

    with LabProgress() as progress:
        # This also imports Keras and its framework, which takes seconds.
        from dlf.lab import LabOptions, run_lab

        result = run_lab(LabOptions(**options), callbacks=[progress.callback()], log=progress.remark)
    put_json(asdict(result), file, partial(print_lab, result), page=page, write_page=partial(write_lab, result))
    return _INTERRUPTED if result.status == "interrupted" else 0


def _start_backend(name: str | None) -> None:
    """Selects the backend, before anything imports Keras."""
    from dlf.backend.default import was_settled
    from dlf.backend.registry import select_backend

    asked = None if was_settled() else os.environ.get("KERAS_BACKEND")
    backend = select_backend(name)
    if name and asked and asked != backend.keras_backend:
        click.echo(f"dlf: --backend {name} wins over KERAS_BACKEND={asked}.", err=True)
