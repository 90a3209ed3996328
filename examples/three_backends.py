"""Runs the same lab on every installed backend, each in a process of its own, and draws the curves in one picture.

The seed, the model code, the images and their order are the same, and so are the initial weights and the dropout masks,
which dlf makes the same on every backend. So the curves lie on one another, until each framework's own rounding has
driven them apart; each is drawn narrower than the one below it.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlf.backend.registry import backend_names, is_installed, load_backend


def run_lab(backend: str, epochs: int, folder: Path) -> dict[str, list[float]]:
    """Runs ``dlf lab`` on one backend and returns its history."""
    command = [sys.executable, "-m", "dlf", "lab", "--backend", backend, "--epochs", str(epochs), "--out", str(folder)]
    print(f"the lab on {backend}")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # It prints the path of a temporary folder.
    history: dict[str, list[float]] = json.loads((folder / "history.json").read_text())
    return history


def plot(histories: dict[str, dict[str, list[float]]]) -> Figure:
    """Draws one panel for the loss and one for the accuracy, one colour for each backend."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels: Sequence[Any] = figure.subplots(1, 2)
    for panel, metric in zip(panels, ("loss", "accuracy"), strict=True):
        colours = itertools.cycle(("#93c5fd", "#ea580c", "#14532d", "#9333ea"))
        for number, ((backend, history), colour) in enumerate(zip(histories.items(), colours, strict=False)):
            epochs, width = range(1, len(history[metric]) + 1), max(7.0 - 2.7 * number, 1.0)
            panel.plot(epochs, history[metric], "--", color=colour, alpha=0.5, linewidth=width / 2)
            panel.plot(epochs, history[f"val_{metric}"], color=colour, linewidth=width, label=backend)
        panel.set(title=metric, xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(title="validation (dashed: training)", frameon=False)
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, list[float]]]:
    """Runs the lab on each backend, saves the picture and returns the histories."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("three_backends.svg"))
    arguments = parser.parse_args(argv)

    installed = [name for name in backend_names() if is_installed(load_backend(name))]
    with tempfile.TemporaryDirectory() as folder:
        histories = {name: run_lab(name, arguments.epochs, Path(folder) / name) for name in installed}
    plot(histories).savefig(arguments.out)
    print(f"{len(histories)} backends: see {arguments.out}")
    return histories


if __name__ == "__main__":
    main()
