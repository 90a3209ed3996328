"""The command ``dlf``: arguments in, exit code out.

Requirements:

* results go to stdout, progress and remarks to stderr, so that ``--json`` can be piped;
* an error is one message, never a traceback, and its exit code is the error's own;
* ``dlf --help`` imports neither Keras nor rich.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from dlf.backend.quick_import import import_keras_quickly
from dlf.cli.backends import backends
from dlf.cli.bench import bench, bench_parity
from dlf.cli.check import check
from dlf.cli.gradients import gradients
from dlf.cli.lab import lab
from dlf.cli.parity import parity
from dlf.utils.errors import DlfError
from dlf.utils.interrupts import undo_all

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits with its code.

    The code is 0 for success, 1 if the answer is no or something failed, 2 for a wrong request, 3 if something is
    missing or did not run, and 130 after Ctrl-C.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _stop_at_once)
    import_keras_quickly()
    try:
        code = _dlf.main(arguments, prog_name="dlf", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DlfError as error:
        click.echo(f"dlf: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - whatever nobody foresaw is still no screen full of traceback.
        with tempfile.NamedTemporaryFile("w", prefix="dlf-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
        message = " ".join(str(error).split())[:200]
        click.echo(f"dlf: {type(error).__name__}: {message} (the whole traceback is in {file.name})", err=True)
        sys.exit(1)
    sys.exit(code or 0)


def _stop_at_once(number: int = signal.SIGINT, *_: object) -> NoReturn:
    """Ends the process at once, when there is nothing to keep.

    Raising `KeyboardInterrupt` is not enough: while a framework is imported, or inside one of its callbacks, it is lost
    or makes the process crash when it exits.
    """
    undo_all()
    more = b" A run folder without run.json is not whole." if "lab" in sys.argv[1:2] else b""
    os.write(2, b"\ndlf: stopped." + more + b"\n")
    os._exit(128 + number)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dlf")
def _dlf() -> None:
    r"""One Keras 3 model on TensorFlow, JAX and PyTorch, side by side.

    \b
    Start here:   dlf lab
    What is here: dlf backends
    The same?     dlf parity model.py:build
    Tied to one?  dlf check model.py
    Gradients:    dlf gradients
    How fast:     dlf bench
    """


for _command in (lab, backends, bench, bench_parity, check, gradients, parity):
    _dlf.add_command(_command)

for _command in (_dlf, *_dlf.commands.values()):
    # click keeps lines apart after a backspace character, which the raw docstrings contain as the two characters \b.
    _command.help = (_command.help or "").replace(r"\b", "\b")
