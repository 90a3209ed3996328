"""``python -m zoo``: compares everything in Keras across backends."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import click

BACKENDS = ("jax", "tensorflow", "torch")


@click.command()
@click.option("--folder", default="zoo", type=click.Path(file_okay=False, path_type=Path), help="Keeps each result.")
@click.option("--only", default="", metavar="TEXT", help="Entries whose kind, name or case holds this.")
@click.option("--kinds", default="", metavar="A,B", help="layers, losses, metrics, ...  [default: all]")
@click.option(
    "--jobs",
    default=2,
    type=click.IntRange(1),
    show_default=True,
    help="Entries at a time; applications are one by one.",
)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the summary.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page to look at.")
def main(  # noqa: PLR0913, PLR0917 - one for each option.
    folder: Path, only: str, kinds: str, jobs: int, file: Path | None, page: Path | None
) -> None:
    """Run parity over every layer, loss, metric, optimizer, initializer, activation and application of Keras.

    What is in the folder already is not run again. The exit code is 1 where something diverges that is not known.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from dlf.utils.files import whole_file
    from zoo.entries import all_entries
    from zoo.runner import run_zoo, title_of

    wanted = [name for name in kinds.split(",") if name]
    entries = [
        each
        for each in all_entries()
        if (not wanted or each.kind in wanted) and only.lower() in f"{title_of(each)} {each.target}".lower()
    ]
    began = time.perf_counter()
    summary = run_zoo(
        entries, BACKENDS, folder, on_progress=lambda text: click.echo(f"dlf: {text}", err=True), jobs=jobs
    )
    minutes = (time.perf_counter() - began) / 60
    if file:
        with whole_file(file) as place:
            place.write_text(json.dumps(summary, indent=1))
    if page:
        from zoo.page import write_zoo_page

        write_zoo_page(summary, page)
    for verdict, count in sorted(summary["counts"].items()):
        click.echo(f"{verdict:<15} {count}")
    click.echo(f"{'minutes':<15} {minutes:.0f} (of all entries, one after the other: {summary['seconds'] / 60:.0f})")
    for row in summary["rows"]:
        if row["verdict"] in {"diverge", "known", "failed", "untested"}:
            click.echo(f"{row['verdict']:<9} {row['kind']} {row['name']} {row['case']}: {row['answer']}")
    sys.exit(int(any(row["verdict"] in {"diverge", "failed"} for row in summary["rows"])))


if __name__ == "__main__":
    main()
