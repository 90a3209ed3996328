"""The command ``dlf``: arguments in, exit code out.

What is asked of it:

* results go to stdout, progress and remarks to stderr, so that ``--json`` can be piped;
* an error is one message, never a traceback, and its exit code is the error's own;
* ``dlf --help`` imports neither Keras nor rich.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from dlf.errors import DlfError
from dlf.interrupts import undo_all

__all__ = ["main"]

_INTERRUPTED = 130  # What a shell reports for a process that Ctrl-C ended.


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits: 0 all well, 1 the answer is no, 2 a wrong request, 3 something is missing."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _stop_at_once)
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
    """Ends the process where there is nothing to keep.

    `KeyboardInterrupt` will not do: raised while a framework is imported or inside one of its callbacks, it is lost or
    crashes the process at its end.
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
    Gradients:    dlf gradients
    How fast:     dlf bench
    """


@_dlf.command("lab", context_settings={"show_default": True})
@click.option("--backend", metavar="NAME", help="What to run on; see `dlf backends`.  [default: the first installed]")
@click.option("--dataset", metavar="NAME", default="digits", help="The embedded digits, or any data set of TFDS.")
@click.option("--data-dir", metavar="DIR", help="A folder with the data: IDX .gz files, or a prepared TFDS data set.")
@click.option("--epochs", metavar="N", type=click.IntRange(1, 1_000_000), default=20, help="Epochs at most.")
@click.option(
    "--hidden", metavar="N", type=click.IntRange(1, 1_000_000), default=128, help="Units of the hidden layer."
)
@click.option("--optimizer", metavar="NAME", default="adam", help="Any optimizer of Keras.")
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**32 - 1), default=2025, help="Starts all random numbers.")
@click.option("--out", metavar="DIR", help="The run folder.  [default: runs/<time>]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def _lab(backend: str | None, as_json: bool, **options: Any) -> int:
    r"""Train the lab's model, end to end, and leave a run folder.

    \b
    Examples:
      dlf lab
      dlf lab --backend torch --hidden 256 --optimizer sgd
      dlf lab --dataset fashion_mnist --data-dir ~/fashion-mnist --epochs 5

    Ctrl-C ends the run after the current batch and keeps what was learnt.
    """
    _start_backend(backend)
    from dlf.console import LabProgress, print_lab

    with LabProgress() as progress:
        # Keras and its framework come with it, and take their seconds.
        from dlf.lab import LabOptions, run_lab

        result = run_lab(LabOptions(**options), callbacks=[progress.callback()], announce=progress.remark)
    print_lab(result, as_json=as_json)
    return _INTERRUPTED if result.status == "interrupted" else 0


@_dlf.command("backends")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def _backends(as_json: bool) -> int:
    r"""List the backends: what is installed, on which devices, and how to install what is not.

    \b
    Example:
      dlf backends --json
    """
    from dlf.console import ask_backends, print_backends

    answers = ask_backends()
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    else:
        print_backends(answers)
    return 3 if any("error" in answer for answer in answers) else 0


@_dlf.command("bench", context_settings={"show_default": True})
@click.option("--backends", metavar="A,B", help="What to run on, with commas.  [default: all that are installed]")
@click.option("--models", metavar="A,B", default="mlp,cnn,transformer", help="What to train, with commas.")
@click.option("--rows", metavar="N", type=click.IntRange(1, 10_000_000), default=60_000, help="Images in an epoch.")
@click.option("--batch-size", metavar="N", type=click.IntRange(1, 1_000_000), default=64, help="Images in a batch.")
@click.option("--repeats", metavar="N", type=click.IntRange(1, 10_000), default=5, help="Rounds that are timed.")
@click.option("--growth", is_flag=True, help="Also time an example at ten times the rows.")
@click.option("--memory", is_flag=True, help="Also measure the peak of memory, beside Keras's fit.")
@click.option("--startup", is_flag=True, help="Also measure the start with an empty and a filled compilation cache.")
@click.option("--parity", is_flag=True, help="Measure `dlf parity` instead: time and memory.")
@click.option(
    "--json", "file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures."
)
def _bench(backends: str | None, models: str, file: Path | None, parity: bool, **options: Any) -> int:
    r"""Time Keras's fit, dlf's fused engine and hand-written loops, in turns; none before its results agree.

    \b
    Examples:
      dlf bench --models mlp --json bench.json
      dlf bench --backends jax,torch --rows 6000 --repeats 3
    """
    from dlf.bench import BenchOptions, print_bench, run_bench
    from dlf.bench.report import exit_code, write_bench
    from dlf.files import check_place

    asked = BenchOptions(_names(backends), _names(models), **options)
    if file:
        check_place(file)
    if parity:
        from dlf.bench.parity import print_parity_bench, run_parity_bench
        from dlf.files import whole_file

        found = run_parity_bench(asked.backends, asked.repeats, say=lambda text: click.echo(f"dlf: {text}", err=True))
        if file:
            with whole_file(file) as place:
                place.write_text(json.dumps(found, indent=1))
        print_parity_bench(found)
        return int(any(each["verdict"] != "agree" for each in [*found["rounds"], *found["large"].values()]))
    # What was measured is kept at once: the whole may take hours.
    keep = partial(write_bench, path=file) if file else lambda _: None
    report = run_bench(asked, say=lambda text: click.echo(f"dlf: {text}", err=True), keep=keep)
    print_bench(report)
    return exit_code(report)


@_dlf.command("gradients", context_settings={"show_default": True})
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
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--html", "page", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write a page to read."
)
def _gradients(paths: str | None, as_json: bool, page: Path | None, **options: Any) -> int:
    r"""Take the same gradients by each framework's own means, side by side, and hold them against the truth.

    \b
    Examples:
      dlf gradients --problem line
      dlf gradients --paths numpy,grad,tape --html gradients.html
      dlf gradients --problem model.py:build --json
    """
    from dlf.files import check_place, without_nan
    from dlf.gradients.options import GradientsOptions

    asked = GradientsOptions(paths=_names(paths), **options)
    if page:
        check_place(page)
    from dlf.gradients.report import exit_code, print_gradients
    from dlf.gradients.runner import run_gradients

    report = run_gradients(asked, say=lambda text: click.echo(f"dlf: {text}", err=True))
    if page:
        from dlf.gradients.page import write_page

        write_page(report, page)
    if as_json:
        click.echo(json.dumps(without_nan(report), indent=2))
    else:
        print_gradients(report)
    return exit_code(report)


@_dlf.command("parity", context_settings={"show_default": True})
@click.argument("target", required=False)
@click.option("--backends", metavar="A,B", help="What to compare, with commas.  [default: all that are installed]")
@click.option("--data", metavar="FUNCTION", help="module:function, (batch size, random) -> (x, y).  [default: made]")
@click.option("--loss", metavar="NAME", help="For a model that is not compiled: a loss of Keras.")
@click.option("--batch", metavar="N", type=click.IntRange(1, 1_000_000), default=8, help="Examples in a batch.")
@click.option("--steps", metavar="N", type=click.IntRange(1, 10_000), default=3, help="Steps of the trajectory.")
@click.option(
    "--stages",
    metavar="A,B",
    help="build, forward, loss, gradient, update, state, trajectory: which to compare.  [default: all]",
)
@click.option(
    "--dtype",
    metavar="NAME",
    default="float32",
    help="float32, bfloat16, mixed_bfloat16 or float16: the policy under test.",
)
@click.option("--device", metavar="NAME", help="cpu or gpu.  [default: what each framework takes]")
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**32 - 1), default=2025, help="Of weights, data, masks.")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(1.0), default=600.0, help="For one answer.")
@click.option("--strict", is_flag=True, help="Let imprecision (noisy, precision) fail too.")
@click.option(
    "--keep", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Leave the records there."
)
@click.option(
    "--json", "file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write the whole report."
)
@click.option(
    "--html", "page", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write a page to look at."
)
@click.option(
    "--from",
    "earlier",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Judge a report of --json again, and run nothing; TARGET is left out.",
)
@click.option(
    "--constant",
    "constants",
    metavar="NAME=NUMBER",
    multiple=True,
    help="Judge by another constant, such as noisy=100.",
)
def _parity(  # noqa: PLR0913 - one for each option.
    *,
    target: str | None,
    backends: str | None,
    stages: str | None,
    strict: bool,
    keep: Path | None,
    file: Path | None,
    page: Path | None,
    earlier: Path | None,
    constants: tuple[str, ...],
    **options: Any,
) -> int:
    r"""Does a model compute and train the same on every backend, and if not, in which layer does it start?

    TARGET is file.py:function or package.module:function, a function without arguments that returns a Keras model, or a
    .keras file, which is loaded in safe mode.

    \b
    Examples:
      dlf parity model.py:build
      dlf parity model.keras --loss mse --dtype mixed_bfloat16
      dlf parity package.models:build --backends jax,torch --json parity.json
      dlf parity --from parity.json --html parity.html --constant noisy=100
    """
    from dlf.files import check_place
    from dlf.parity.evidence import constants_of, judged, read_report
    from dlf.parity.options import ParityOptions
    from dlf.parity.report import ParityProgress, exit_code, print_parity, write_report

    if (target is None) is (earlier is None):
        raise click.UsageError("Name a TARGET, or an earlier report (--from FILE), and not both.")
    context = click.get_current_context()
    for name in (*options, "stages", "keep") if earlier is not None else ():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} changes what is run, and --from runs nothing: leave one of them out.")
    judge_by = constants_of(constants)
    for place in (file, page):
        if place:
            check_place(place)
    if earlier is not None:
        report = judged(read_report(earlier), _names(backends), judge_by)
    else:
        asked = ParityOptions(target or "", _names(backends), stages=_names(stages), **options)
        from dlf.parity.runner import run_parity

        with ParityProgress() as progress:
            report = run_parity(asked, say=progress.say, keep=keep, constants=judge_by)
    if file:
        write_report(report, file)
    if page:
        from dlf.parity.page import write_page

        write_page(report, page)
    print_parity(report)
    return exit_code(report, strict=strict)


def _names(text: str | None) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _start_backend(name: str | None) -> None:
    """Settles on the backend before anything imports Keras."""
    from dlf.backend_registry import select_backend
    from dlf.default_backend import was_settled

    asked = None if was_settled() else os.environ.get("KERAS_BACKEND")
    backend = select_backend(name)
    if name and asked and asked != backend.keras_backend:
        click.echo(f"dlf: --backend {name} wins over KERAS_BACKEND={asked}.", err=True)


for _command in (_dlf, *_dlf.commands.values()):
    # What keeps click from running lines together is a backspace, which a docstring can only hold written out.
    _command.help = (_command.help or "").replace(r"\b", "\b")
