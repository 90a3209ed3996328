"""What `dlf parity` prints: the answer first, then each stage with its worst figure, and what to do next."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.tree import Tree

from dlf.files import whole_file
from dlf.parity.options import STAGES
from dlf.parity.verdict import Constants, judged_in_own_dtype

__all__ = [
    "ParityProgress",
    "advice_of",
    "answer_of",
    "exit_code",
    "is_foregone",
    "known_of",
    "place_of",
    "print_parity",
    "remarks_of",
    "report_text",
    "why_empty",
    "write_report",
]

_SHOWN = 8
"""Lines of one stage."""
_NAMED = 3
"""Tensors in one line."""
_NEWS = {
    "noisy": "",
    "precision": "",
    "unstable": ", on every backend alike",
    "tie": ", where any answer is right",
}
"""What is said of the same meaning."""


class ParityProgress:
    """What each backend is doing: live lines in a terminal, and plain ones in a log."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, backend: str, text: str) -> None:
        """Shows what a backend is doing now."""
        if not self._console.is_terminal:
            # In a log, a line for each layer is noise.
            if not text.startswith("layer "):
                self._console.print(f"dlf: {backend}: {text}", markup=False, soft_wrap=True)
            return
        if backend not in self._tasks:
            self._tasks[backend] = self._progress.add_task("", total=None)
        self._progress.update(self._tasks[backend], description=f"{backend}: {text}")


def exit_code(report: Mapping[str, Any], *, strict: bool = False) -> int:
    """Returns 0 where the model is the same everywhere, 1 where it is not, 3 where a backend did not come through.

    Args:
        report: What `run_parity` returned.
        strict: Whether imprecision counts too.
    """
    wrong = report["verdict"] == "diverge" or (strict and any(_is_imprecise(each) for each in report["precision"]))
    return 1 if wrong else 3 if report["failed"] else 0


def answer_of(report: Mapping[str, Any]) -> str:
    """Returns the answer in one sentence.

    Args:
        report: What `run_parity` returned.

    Example:
        >>> report = {"first_divergence": None, "backends": {"jax": {}, "torch": {}}, "failed": {}}
        >>> answer_of(report | {"stages_asked": STAGES})
        'The model computes and trains the same on jax and torch.'
    """
    first = report["first_divergence"]
    names = [name for name in report["backends"] if name not in report["failed"]]
    together = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"  # noqa: PLR2004
    if first is None and len(names) == 1 < len(report["backends"]):
        return f"Nothing differs between {' and '.join(report['backends'])}, as far as all came through."
    if first is None and len(names) == 1:
        return f"On {together} alone there is nothing to compare with: what its {report['dtype']} costs is below."
    if first is None:
        whole, compiled = len(report["stages_asked"]) == len(STAGES), report.get("compiled", True)
        what = "is, as far as was asked," if not whole else "computes and trains" if compiled else "computes"
        more = "; it is not compiled, and training was not compared" if whole and not compiled else ""
        return f"The model {what} the same on {together}{more}."
    where = place_of(first)
    if first["backend"] is None:
        return f"{together} differ: it starts in the {first['stage']} of {where}."
    return f"{first['backend']} differs from the others: it starts in the {first['stage']} of {where}."


def print_parity(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a report.

    Args:
        report: What `run_parity` returned.
        console: Where to; by default the terminal.
    """
    console = console or Console(highlight=False)
    color = "red" if report["verdict"] == "diverge" else "green"
    console.print(f"[bold {color}]{escape(answer_of(report))}[/]")
    versions = " · ".join(f"{name} {each['framework']}, {each['device']}" for name, each in report["backends"].items())
    console.print(f"[dim]{escape(report['target'])} · seed {report['seed']} · {escape(versions)}[/]")
    tree = Tree("stages", guide_style="dim", hide_root=True)
    for stage in STAGES:
        _add_stage(tree, stage, report)
    console.print(tree)
    for remark in [*(f"Known: {reason}" for reason in known_of(report)), *remarks_of(report)]:
        console.print(f"[dim]{escape(remark)}[/]", soft_wrap=True)
    for name, reason in report["failed"].items():
        console.print(f"[red]{escape(name)} did not come through[/]: {escape(reason)}", soft_wrap=True)
    if report["first_divergence"] is not None:
        console.print(f"Next: {advice_of(report['first_divergence'], report['backends'])}", soft_wrap=True)


def report_text(report: Mapping[str, Any], width: int = 100) -> str:
    """Returns what `print_parity` prints, without colors.

    Args:
        report: What `run_parity` returned.
        width: Of a line.
    """
    console = Console(file=io.StringIO(), record=True, width=width, highlight=False)
    print_parity(report, console)
    return console.export_text().rstrip()


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Writes a report as JSON.

    Args:
        report: What `run_parity` returned.
        path: The file.

    Raises:
        OutputError: It cannot be written.
    """
    with whole_file(path) as place:
        place.write_text(json.dumps(report, allow_nan=False))


def _add_stage(tree: Tree, stage: str, report: Mapping[str, Any]) -> None:
    counts = report["stages"][stage]["counts"]
    if not counts:
        tree.add(f"[dim]{stage:<11} {why_empty(stage, report)}[/]")
        return
    wrong = [each for each in report["divergences"] if each["stage"] == stage]
    worst = report["stages"][stage]["worst"] or {}
    floors = worst.get("noise_floors")
    most = "otherwise at most" if wrong else "at most"
    cost = (
        f"[dim]{most} {floors:.1f} noise floors, {escape(place_of(worst))} on {worst['backend']}[/]" if floors else ""
    )
    head = f"[red]{len(wrong)} diverged[/]" if wrong else "[green]the same[/]"
    if is_foregone(stage, report):
        tree.add(f"{stage:<11} [dim]not judged: what differs above differs here too[/]")
        return
    branch = tree.add(f"{stage:<11} {head}  {cost}".rstrip())
    for each in wrong[:_SHOWN]:
        apart = each["relative_difference"]
        by = f", {apart:.1e} apart in float64" if apart is not None else ""
        where = f" on {each['backend']}" if each["backend"] else ""
        branch.add(f"[red]{escape(place_of(each))}{where}[/]{by}")
    if len(wrong) > _SHOWN:
        branch.add(f"[dim]and {len(wrong) - _SHOWN} more[/]")
    for verdict, meaning in _NEWS.items():
        named = [each for each in report["precision"] if each["stage"] == stage and each["verdict"] == verdict]
        names = sorted({f"{place_of(each)}" + (f" on {each['backend']}" if each["backend"] else "") for each in named})
        if names:
            more = " and others" if len(names) > _NAMED else ""
            branch.add(f"[yellow]{verdict}[/]{meaning}: {escape(', '.join(names[:_NAMED]))}{more}")


def why_empty(stage: str, report: Mapping[str, Any]) -> str:
    """Returns why nothing was judged at a stage.

    Args:
        stage: Its name.
        report: What `run_parity` returned.
    """
    if stage not in report.get("stages_asked", STAGES):
        return "not asked for"
    return "not reached" if report.get("compiled", True) or stage not in {"update", "trajectory"} else "not compiled"


def is_foregone(stage: str, report: Mapping[str, Any]) -> bool:
    """Tells whether a free run says nothing of its own, since a part differs or is at a tie.

    Args:
        stage: Its name.
        report: What `run_parity` returned.
    """
    if stage != "trajectory" or any(each["stage"] == stage for each in report["divergences"]):
        return False
    differs = any(each["stage"] != "build" for each in report["divergences"])
    return differs or any(each["verdict"] == "tie" for each in report.get("precision", ()))


def known_of(report: Mapping[str, Any]) -> list[str]:
    """Returns what is known of the differences that were found, each once.

    Args:
        report: What `run_parity` returned.
    """
    reasons = [each["reason"] for each in report["divergences"] if each["reason"]]
    return list(dict.fromkeys([*reasons, *report["known_failures"].values()]))


def remarks_of(report: Mapping[str, Any]) -> Iterator[str]:
    """Yields what a reader has to know beside the verdict and what is known of it, a sentence or two each.

    Args:
        report: What `run_parity` returned.
    """
    constants = Constants(**report.get("constants", {}))
    own = {
        each["layer"] or "the loss"
        for each in report["measurements"]
        if judged_in_own_dtype(each, constants) is not None
    }
    if own:
        yield f"Judged in its own dtype, with room for its sums, for it has no float64 form: {', '.join(sorted(own))}."
    other = report["initial_values"]
    if other:
        more = " and others" if len(other) > _NAMED else ""
        first = next(iter(report["backends"]))
        yield (
            f"Initialized otherwise on each backend: {', '.join(other[:_NAMED])}{more}. "
            f"All were given the values of {first} before they were compared."
        )
    if not report["compiled"] and "update" in report["stages_asked"]:
        yield "The model is not compiled: there is no optimizer to compare, and no training."


def place_of(finding: Mapping[str, Any]) -> str:
    """Returns where it is, in words.

    Args:
        finding: As in the report.

    Example:
        >>> place_of({"layer": "dense", "variable": "kernel", "step": 1})
        'dense, kernel at step 2'
    """
    layer, variable = finding.get("layer"), finding.get("variable")
    when = "in inference" if finding.get("mode") == "inference" else ""
    if finding.get("step") is not None:
        when = f"at step {finding['step'] + 1}"
    what = f"{layer}, {variable}" if layer and variable else layer or variable or "the model"
    return f"{what} {when}".strip()


def advice_of(first: Mapping[str, Any], backends: Mapping[str, Any] | None = None) -> str:
    """Returns what to do about a divergence.

    Args:
        first: A finding, as in the report.
        backends: What the report says of each backend.

    Example:
        >>> advice_of({"stage": "loss", "layer": None})
        'read the loss: from the same predictions and targets it gives another value or gradient.'
    """
    other = _configured_otherwise(first, backends or {})
    if other:
        whose = f"the layer {first['layer']}" if first["layer"] else "the optimizer"
        return f"{whose} is not configured alike: {'; '.join(other)}."
    layer = f"the layer {first['layer']}" if first["layer"] else "the model"
    draws = _draws_of_its_own(first, backends or {})
    if draws:
        return (
            f"{layer} {draws}: let it draw by `keras.random.uniform` or `normal`, or leave it out to compare the rest."
        )
    if first["stage"] == "forward" and str(first.get("variable")).startswith(("mask", "the mask of ")):
        return f"see which mask {layer} hands on: `mask_zero`, `supports_masking`, `compute_mask`."
    return {
        "build": f"see what {layer} makes of its configuration on each backend: variables, shapes, dtypes.",
        "forward": f"read the `call` of {layer}: from the same inputs and weights it gives other outputs.",
        "loss": "read the loss: from the same predictions and targets it gives another value or gradient.",
        "gradient": f"read what {layer} does between inputs and outputs: outputs agree, derivatives do not "
        "(stop_gradient, a custom gradient, a detached statistic).",
        "update": "compare the optimizers' settings: from the same gradients they make other updates.",
        "state": f"see how {layer} updates its statistics: momentum, Bessel's correction, an update left out.",
        "trajectory": "every layer, the loss and the optimizer agree by themselves: look at `train_step`, at sparse "
        "gradients of embeddings, and at what happens between steps.",
    }[first["stage"]]


def _draws_of_its_own(first: Mapping[str, Any], backends: Mapping[str, Any]) -> str:
    """What the report on randomness says of the layer, where it draws other numbers on each backend."""
    title = f"{str(first['layer']).rpartition('/')[2]} ("
    lines = [line for each in backends.values() for line in each.get("not_common", ()) if line.startswith(title)]
    return next((line.partition(": ")[2] for line in lines if "draws by" in line), "")


def _configured_otherwise(first: Mapping[str, Any], backends: Mapping[str, Any]) -> list[str]:
    """What the configuration of a layer, or of the optimizer, says on one backend and not on another."""
    configs: dict[str, dict[str, Any]] = {}
    for name, each in backends.items():
        if first["layer"]:
            layers = {layer["path"]: layer for layer in each.get("layers", ())}
            configs[name] = layers.get(first["layer"], {}).get("config", {})
        elif first["stage"] == "update":
            configs[name] = each.get("optimizer_config", {})
    found: list[str] = []
    for key in dict.fromkeys(key for each in configs.values() for key in each):
        having: dict[str, list[str]] = {}
        for name, config in configs.items():
            having.setdefault(repr(config.get(key)), []).append(name)
        if len(having) > 1:
            found.append(
                f"`{key}` is " + ", ".join(f"{value} on {' and '.join(names)}" for value, names in having.items())
            )
    return found


def _is_imprecise(finding: Mapping[str, Any]) -> bool:
    return finding["verdict"] in ("noisy", "precision")
