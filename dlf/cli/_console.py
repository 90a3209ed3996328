"""What the commands show in a terminal: progress on stderr, results on stdout."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from dlf.backend.registry import backend_names
from dlf.backend.report import ask_backend
from dlf.utils.console import result_console
from dlf.utils.errors import BackendError

if TYPE_CHECKING:
    import keras

    from dlf.lab import LabResult

__all__ = ["LabProgress", "ask_backends", "print_backends", "print_lab", "write_lab"]


class LabProgress:
    """A live progress bar over the epochs of a run, with the latest metrics beside it."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # In a log, a bar is noise.
        )

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("loading", total=None, figures="")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def remark(self, text: str) -> None:
        """Shows a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def callback(self) -> keras.callbacks.Callback:
        """Returns the callback that advances the bar; Keras must have been imported already."""
        import keras

        progress, task = self._progress, self._task

        class MoveBar(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types.
            def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
                progress.update(task, description="epochs", total=self.params["epochs"], completed=0)

            def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
                # Only two metrics, so that the line fits a narrow terminal.
                shown = [f"{name} {logs[name]:.4f}" for name in ("loss", "val_accuracy") if logs and name in logs]
                progress.update(task, completed=epoch + 1, figures=" · ".join(shown))

        return MoveBar()


def print_lab(result: LabResult) -> None:
    """Prints the results of a run."""
    console = result_console()
    number, rest = _answer_of_lab(result)
    console.print(f"[bold]{number}[/]{escape(rest)}")
    for name, value in _facts_of_lab(result).items():
        # Unwrapped, so that a path can be copied in one piece.
        console.print(f"[dim]{name:<12}[/]{escape(value)}", soft_wrap=True)


def write_lab(result: LabResult, file: Path) -> None:
    """Writes the page of `dlf lab --html`, with the plots of the run folder in it."""
    from dlf.visualization.html.summary import Summary

    folder = Path(result.folder)
    pictures = [("loss and accuracy", folder / "history.svg"), ("the model", folder / "model.svg")]
    Summary(
        "dlf lab",
        "".join(_answer_of_lab(result)),
        result.status.capitalize(),
        "good" if result.status != "interrupted" else "warn",
        list(_facts_of_lab(result).items()),
        pictures,
    ).write(file)


def _answer_of_lab(result: LabResult) -> tuple[str, str]:
    rest = f" validation accuracy on {result.options['dataset']}, {result.backend['name']}, {result.seconds:.1f} s"
    return f"{result.val_accuracy:.1%}", rest


def _facts_of_lab(result: LabResult) -> dict[str, str]:
    options = result.options
    install = "" if importlib.util.find_spec("tensorboard") else "pip install tensorboard && "
    return {
        "status": f"{result.status}, {result.epochs} of {options['epochs']} epochs",
        "best epoch": f"{result.best_epoch} (validation loss {result.val_loss:.4f}); its weights are the model's",
        "model": f"{result.parameters:,} parameters, {options['hidden']} hidden units, {options['optimizer']}",
        "seed": str(options["seed"]),
        "run folder": result.folder,
        "files": ", ".join(name for name in result.files if "/" not in name),
        "look at it": f"{install}tensorboard --logdir {result.folder}",
    }


def ask_backends() -> list[dict[str, Any]]:
    """Returns the description of every backend, or its error; each is asked in its own process, all in parallel."""

    def ask(name: str) -> dict[str, Any]:
        try:
            return dict(ask_backend(name))
        except BackendError as error:
            return {"name": name, "error": str(error)}

    with Console(stderr=True).status("asking each backend, in a process of its own"), ThreadPoolExecutor() as pool:
        return list(pool.map(ask, backend_names()))


def print_backends(answers: list[dict[str, Any]]) -> None:
    """Prints a few lines for each backend."""
    console = result_console()
    for answer in answers:
        if "devices" in answer:
            head = _joined(answer["versions"])
            rows = {
                "devices": ", ".join(answer["devices"]),
                "numerics": _joined(answer["numeric_settings"]),
                "gradients": ", ".join(answer["gradient_paths"]),
            }
        elif "install" in answer:
            head, rows = "[dim]not installed[/]", {"install": answer["install"]}
        else:
            head, rows = "[red]does not start[/]", {"error": answer["error"]}
        # Unwrapped, so that a command can be copied in one piece.
        console.print(f"[bold]{escape(answer['name']):<12}[/]{head}", soft_wrap=True)
        for name, value in rows.items():
            console.print(f"  [dim]{name:<10}[/]{escape(value)}", soft_wrap=True)


def _joined(values: Mapping[str, str]) -> str:
    return " · ".join(f"{escape(name)} {escape(value)}" for name, value in values.items())
