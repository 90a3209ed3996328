"""The command ``dlf bench``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from dlf.cli._options import names

__all__ = ["bench"]


@click.command("bench", context_settings={"show_default": True})
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
def bench(backends: str | None, models: str, file: Path | None, parity: bool, **options: Any) -> int:
    r"""Time Keras's fit, dlf's fused engine and hand-written loops, in turns; none before its results agree.

    \b
    Examples:
      dlf bench --models mlp --json bench.json
      dlf bench --backends jax,torch --rows 6000 --repeats 3
    """
    from dlf.bench import BenchOptions, print_bench, run_bench
    from dlf.bench.report import exit_code, write_bench
    from dlf.utils.files import check_place

    asked = BenchOptions(names(backends), names(models), **options)
    if file:
        check_place(file)
    if parity:
        from dlf.bench.parity import print_parity_bench, run_parity_bench
        from dlf.utils.files import whole_file

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
