"""The command ``dlf parity``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dlf.backend.registry import backend_names
from dlf.cli._options import Command, completed, completed_target, html_option, json_option, names, put_json
from dlf.parity.options import DEVICES, DTYPES, STAGES

__all__ = ["parity"]


@click.command(
    "parity",
    cls=Command,
    renamed={"--batch": "--batch-size", "--constant": "--threshold"},
    context_settings={"show_default": True},
)
@click.argument("target", required=False, shell_complete=completed_target)
@click.option(
    "--backends",
    metavar="A,B",
    shell_complete=completed(backend_names),
    help="What to compare, with commas.  [default: all that are installed]",
)
@click.option(
    "--data",
    metavar="NAME",
    help="file.py:name of data as fit takes them, or of a function (size, random) -> (x, y).  [default: those of the "
    "file's own fit, or else made]",
)
@click.option("--loss", metavar="NAME", help="For a model that is not compiled: a loss of Keras.")
@click.option("--batch-size", metavar="N", type=click.IntRange(1, 1_000_000), default=8, help="Examples in a batch.")
@click.option("--steps", metavar="N", type=click.IntRange(1, 10_000), default=3, help="Steps of the trajectory.")
@click.option(
    "--stages",
    metavar="A,B",
    shell_complete=completed(lambda: STAGES),
    help="build, forward, loss, gradient, update, state, trajectory: which to compare.  [default: all]",
)
@click.option(
    "--dtype",
    metavar="NAME",
    default="float32",
    shell_complete=completed(lambda: DTYPES),
    help="float32, bfloat16, mixed_bfloat16 or float16: the policy under test.",
)
@click.option(
    "--device",
    metavar="NAME",
    shell_complete=completed(lambda: DEVICES),
    help="cpu or gpu.  [default: what each framework takes]",
)
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**32 - 1), default=2025, help="Of weights, data, masks.")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(1.0), default=600.0, help="For one answer.")
@click.option("--strict", is_flag=True, help="Let imprecision (noisy, precision) fail too.")
@click.option(
    "--keep", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Leave the records there."
)
@json_option("the whole report")
@html_option("Write a page to look at.")
@click.option(
    "--from",
    "earlier",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Judge a report of --json again, and run nothing; TARGET is left out.",
)
@click.option(
    "--threshold",
    "thresholds",
    metavar="NAME=NUMBER",
    multiple=True,
    help="Judge by another threshold, such as noisy=100.",
)
def parity(  # noqa: PLR0913 - one for each option.
    *,
    target: str | None,
    backends: str | None,
    stages: str | None,
    strict: bool,
    keep: Path | None,
    file: Path | None,
    page: Path | None,
    earlier: Path | None,
    thresholds: tuple[str, ...],
    **options: Any,
) -> int:
    r"""Does a model compute and train the same on every backend, and if not, in which layer does it start?

    TARGET is file.py:name, notebook.ipynb:name or package.module:name, the name of a function without arguments that
    returns a Keras model, or of a model; or a .keras file, which is loaded in safe mode. A call, an element or an
    attribute is written as in the file: "model.py:build(width=32)", "model.py:models[0]".

    \b
    Examples:
      dlf parity model.py:build
      dlf parity model.keras --loss mse --dtype mixed_bfloat16
      dlf parity package.models:build --backends jax,torch --json parity.json
      dlf parity --from parity.json --html parity.html --threshold noisy=100
    """
    from dlf.parity.evidence import judged, read_report, thresholds_of
    from dlf.parity.options import ParityOptions
    from dlf.parity.report import ParityProgress, exit_code, print_parity

    if (target is None) is (earlier is None):
        raise click.UsageError("Name a TARGET, or an earlier report (--from FILE), and not both.")
    context = click.get_current_context()
    for name in (*options, "stages", "keep") if earlier is not None else ():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} changes what is run, and --from runs nothing: leave one of them out.")
    judge_by = thresholds_of(thresholds)
    if earlier is not None:
        report = judged(read_report(earlier), names(backends), judge_by)
    else:
        asked = ParityOptions(target or "", names(backends), stages=names(stages), **options)
        from dlf.parity.runner import run_parity

        with ParityProgress() as progress:
            report = run_parity(asked, on_progress=progress.show, keep=keep, thresholds=judge_by)

    def write(place: Path) -> None:
        from dlf.parity.page.page import write_page

        write_page(report, place)

    put_json(report, file, partial(print_parity, report), page=page, write_page=write, indent=None)
    return exit_code(report, strict=strict)
