"""The commands ``dlf bench`` and ``dlf bench-parity``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dlf.backend.registry import backend_names
from dlf.cli._options import STDOUT, completed, html_option, json_option, names, print_progress, put_json

__all__ = ["bench", "bench_parity"]


@click.command("bench", context_settings={"show_default": True})
@click.option(
    "--backends",
    metavar="A,B",
    shell_complete=completed(backend_names),
    help="What to run on, with commas.  [default: all that are installed]",
)
@click.option("--models", metavar="A,B", default="mlp,cnn,transformer", help="What to train, with commas.")
@click.option("--rows", metavar="N", type=click.IntRange(1, 10_000_000), default=60_000, help="Images in an epoch.")
@click.option("--batch-size", metavar="N", type=click.IntRange(1, 1_000_000), default=64, help="Images in a batch.")
@click.option("--repeats", metavar="N", type=click.IntRange(1, 10_000), default=5, help="Rounds that are timed.")
@click.option("--growth", is_flag=True, help="Also time an example at ten times the rows.")
@click.option("--memory", is_flag=True, help="Also measure the peak of memory, beside Keras's fit.")
@click.option("--startup", is_flag=True, help="Also measure the start with an empty and a filled compilation cache.")
@click.option("--parity", is_flag=True, hidden=True)  # What `dlf bench-parity` was called before.
@json_option("all figures")
@html_option("Write a page to look at.")
@click.pass_context
def bench(  # noqa: PLR0913 - one for each option.
    context: click.Context,
    /,
    *,
    backends: str | None,
    models: str,
    file: Path | None,
    page: Path | None,
    parity: bool,
    **options: Any,
) -> int:
    r"""Time Keras's fit, dlf's fused engine and hand-written loops, in turns; none before its results agree.

    \b
    Examples:
      dlf bench --models mlp --json bench.json
      dlf bench --backends jax,torch --rows 6000 --repeats 3
    """
    if parity:
        for name in ("models", "page", *options):
            if name != "repeats" and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                option = name.replace("_", "-")
                raise click.UsageError(
                    f"--{option} means nothing to --parity: leave it out, or see `dlf bench-parity -h`."
                )
        answer: int = context.invoke(bench_parity, backends=backends, repeats=options["repeats"], file=file)
        return answer
    from dlf.bench import BenchOptions, print_bench, run_bench
    from dlf.bench.report import exit_code, write_page
    from dlf.utils.files import write_json

    asked = BenchOptions(names(backends), names(models), **options)
    # What has been measured is saved at once, since the whole run may take hours.
    keep = partial(write_json, path=file) if file is not None and file != STDOUT else lambda _: None
    report = run_bench(asked, on_progress=print_progress, keep=keep)
    put_json(report, file, partial(print_bench, report), page=page, write_page=partial(write_page, report))
    return exit_code(report)


@click.command("bench-parity", context_settings={"show_default": True})
@click.option(
    "--backends",
    metavar="A,B",
    shell_complete=completed(backend_names),
    help="What to compare, with commas.  [default: all that are installed]",
)
@click.option("--repeats", metavar="N", type=click.IntRange(1, 10_000), default=5, help="Rounds of the smallest model.")
@json_option("all figures")
def bench_parity(backends: str | None, repeats: int, file: Path | None) -> int:
    r"""Measure the time and the memory of `dlf parity`, beside those of one training step of Keras's own.

    \b
    Example:
      dlf bench-parity --backends jax,torch --repeats 3 --json figures.json
    """
    from dlf.bench import BenchOptions
    from dlf.bench.parity import print_parity_bench, run_parity_bench

    asked = BenchOptions(names(backends), repeats=repeats)
    found = run_parity_bench(asked.backends, asked.repeats, on_progress=print_progress)
    put_json(found, file, partial(print_parity_bench, found))
    return int(any(each["verdict"] != "agree" for each in [*found["rounds"], *found["large"].values()]))
