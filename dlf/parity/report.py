"""What `dlf parity` prints: the answer first, then each stage with its worst figure, and what to do next."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.tree import Tree

from dlf.backend.registry import backend_names, is_installed, load_backend
from dlf.parity._judging.verdict import PLACE, Thresholds, judged_in_own_dtype
from dlf.parity.evidence import is_frozen
from dlf.parity.options import STAGES
from dlf.utils.console import result_console
from dlf.utils.files import write_json
from dlf.utils.words import listed
from dlf.utils.workers import WorkerProgress

__all__ = [
    "ParityProgress",
    "advice_of",
    "advice_without_a_difference",
    "answer_of",
    "exit_code",
    "is_foregone",
    "is_tied",
    "known_of",
    "name_of",
    "place_of",
    "print_parity",
    "remarks_of",
    "report_text",
    "second_backend",
    "why_empty",
    "word_of",
    "write_report",
]

_SHOWN = 8
"""The most lines that are shown of one stage."""
_NAMED = 3
"""The most tensors that are named in one line."""
_NEWS = {
    "noisy": "",
    "precision": "",
    "unstable": ", on every backend alike",
    "tie": ", where any answer is right",
    "untaken": ", since training takes no gradient by the data",
    "not finite": "",
    "not judged": "",
}
"""Verdicts on tensors that are no reason to say that backends differ, each with what is added to it."""


class ParityProgress:
    """Shows what each backend is doing: in live lines in a terminal, and in plain ones in a log."""

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

    def show(self, backend: str, progress: WorkerProgress) -> None:
        """Shows what a backend is doing now."""
        if not self._console.is_terminal:
            # In a log, a line for each part is noise.
            if progress.total is None:
                self._console.print(f"dlf: {backend}: {progress}", markup=False, soft_wrap=True)
            return
        if backend not in self._tasks:
            self._tasks[backend] = self._progress.add_task("", total=None)
        self._progress.update(self._tasks[backend], description=f"{backend}: {progress}")


def exit_code(report: Mapping[str, Any], *, strict: bool = False) -> int:
    """Returns the exit code of `dlf parity`: only 0 means that the model is the same on every backend, and finite.

    Args:
        report: What `run_parity` returned.
        strict: Whether a loss of precision counts as a difference.

    Returns:
        0 where the model is the same on every backend; 1 where it is not; 3 where a backend failed, or something could
        not be compared or judged; 4 where it is the same, but its results are NaN or infinite.
    """
    if report["verdict"] == "diverge" or (strict and any(_is_imprecise(each) for each in report["precision"])):
        return 1
    if report["not_finite"]:
        return 4
    return 3 if report["verdict"] == "not compared" or report["failed"] or report["not_judged"] else 0


def answer_of(report: Mapping[str, Any]) -> str:
    """Returns the answer in a sentence or two.

    Args:
        report: What `run_parity` returned.

    Example:
        >>> report = {"first_divergence": None, "backends": {"jax": {}, "torch": {}}, "failed": {}, "verdict": "agree"}
        >>> answer_of(report | {"stages_asked": STAGES, "not_finite": None, "not_judged": []})
        'The model computes and trains the same on jax and torch.'
    """
    left = _left(report)
    lost = [name for name in report["failed"] if name not in left]
    lookups = _first(report).get("lookups", ())
    cut = f" Compared is what is behind {listed(lookups)}, since text is TensorFlow's alone." if lookups else ""
    return _answer(report) + cut + (f" {listed(lost)} did not come through." if left and lost else "")


def _answer(report: Mapping[str, Any]) -> str:
    first, lost = report["first_divergence"], report["not_finite"]
    names = _left(report)
    together = listed(names)
    if first is not None:
        return _difference(report, first, together)
    if report["verdict"] == "not compared":
        said = f"Not compared: there is {together or 'no backend'} alone. What its {report['dtype']} costs is below."
        return f"{said} {_beginning(lost)}" if lost else said
    if not names:
        return f"No backend came through of {listed(report['backends'])}."
    if len(names) == 1:
        return f"Nothing differs between {listed(report['backends'])}, as far as all came through."
    asked, blind = report["stages_asked"], {each["stage"]: each["reason"] for each in report["not_judged"]}
    compiled, whole = report.get("compiled", True), len(asked) == len(STAGES)
    trains = "trains" if compiled and "trajectory" not in blind else ""
    computes = "computes" if _first(report).get("has_call", True) else ""
    # The layers of a model that is never called are those that its own step calls.
    does = " and ".join(filter(None, (computes, trains))) or (
        "computes, layer by layer," if report.get("calls") else "is built"
    )
    what = does if whole else "is, as far as was asked,"
    why = (
        "nothing of it is trained" if is_frozen(_first(report)) else "it is not compiled, and training was not compared"
    )
    more = f"; {why}" if whole and not compiled else ""
    said = f"The model {what} the same on {together}{more}"
    said += f", and not finite. {_beginning(lost)}" if lost else "."
    untaken = list(
        dict.fromkeys(each["backend"] for each in report.get("precision", ()) if each["verdict"] == "untaken")
    )
    if untaken:
        where = f" on {listed(list(dict.fromkeys(untaken)))}" if None not in untaken else ""
        said += f" Its gradient by the data, which training does not take, differs{where}."
    if blind:
        stages: dict[str, list[str]] = {}
        for stage, reason in blind.items():
            stages.setdefault(reason, []).append(stage)
        said += f" Not judged: {'; '.join(f'{listed(mine)} ({reason})' for reason, mine in stages.items())}."
    holds = report.get("data_not_finite", ())
    return f"The data hold {', '.join(holds)}. {said}" if holds else said


def _left(report: Mapping[str, Any]) -> list[str]:
    """The backends that came through; also those whose loss alone did not, where too few are left without them."""
    loss_fails = report.get("given_up", {}).get("loss", ())
    return [name for name in report["backends"] if name not in report["failed"] or name in loss_fails]


def word_of(report: Mapping[str, Any]) -> str:
    """Returns the answer in a word or two.

    Args:
        report: What `run_parity` returned.

    Example:
        >>> report = {"verdict": "agree", "not_judged": [], "failed": {}}
        >>> word_of(report), word_of(report | {"verdict": "not finite"})
        ('Agree', 'Not finite')
    """
    blind = report["verdict"] == "agree" and (report["not_judged"] or report["failed"])
    return "Not judged in all" if blind else str(report["verdict"]).capitalize()


def _difference(report: Mapping[str, Any], first: Mapping[str, Any], together: str) -> str:
    where = f"the {first['stage']} of {place_of(first)}"
    if first["backend"] is None:
        return f"{together} differ: it starts in {where}."
    # Several backends may differ at this place, as where they are not finite: all are named.
    here = [each for each in report["divergences"] if all(each.get(name) == first.get(name) for name in PLACE)]
    blamed = list(dict.fromkeys(each["backend"] for each in here if each["backend"]))
    others = [name for name in _left(report) if name not in blamed]
    than = others[0] if len(others) == 1 else "the others"
    differ = f"{blamed[0]} differs from {than}" if len(blamed) == 1 else f"{listed(blamed)} differ"
    detail = f", {first['detail']}" if first.get("detail") else ""
    since = " from finite input" if first.get("from_numbers") and detail else ""
    return f"{differ}: it starts in {where}{detail}{since}."


def _beginning(lost: Mapping[str, Any]) -> str:
    """A sentence on where a tensor is first not finite."""
    since = ", from finite input" if lost["from_numbers"] else ""
    return f"{lost['detail']} on {listed(lost['backends'])}, first in the {lost['stage']} of {place_of(lost)}{since}."


def print_parity(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a report.

    Args:
        report: What `run_parity` returned.
        console: The console to print to; by default the terminal.
    """
    console = console or result_console()
    color = "red" if report["verdict"] == "diverge" else "yellow" if exit_code(report) else "green"
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
    elif advice := advice_without_a_difference(report):
        console.print(f"Next: {advice}", soft_wrap=True)


def report_text(report: Mapping[str, Any], width: int = 100) -> str:
    """Returns what `print_parity` prints, without colors.

    Args:
        report: What `run_parity` returned.
        width: The width of a line.
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
        OutputError: The file cannot be written.
    """
    write_json(report, path, indent=None)


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
    if is_foregone(stage, report):
        tree.add(f"{stage:<11} [dim]not judged: what differs above differs here too[/]")
        return
    branch = tree.add(f"{stage:<11} {_head(stage, wrong, report)}  {cost}".rstrip())
    for each in wrong[:_SHOWN]:
        apart = each["relative_difference"]
        by = f", {apart:.1e} apart in float64" if apart is not None else ""
        by = f", {escape(each['detail'])}" if each.get("detail") else by
        where = f" on {each['backend']}" if each["backend"] else ""
        branch.add(f"[red]{escape(place_of(each))}{where}[/]{by}")
    if len(wrong) > _SHOWN:
        branch.add(f"[dim]and {len(wrong) - _SHOWN} more[/]")
    for verdict, meaning in _NEWS.items():
        named = [each for each in report["precision"] if each["stage"] == stage and each["verdict"] == verdict]
        names = _with_backends(named, len(report["backends"]))
        if names:
            more = " and others" if len(names) > _NAMED else ""
            branch.add(f"[yellow]{verdict}[/]{meaning}: {escape(', '.join(names[:_NAMED]))}{more}")


def _head(stage: str, wrong: Sequence[Any], report: Mapping[str, Any]) -> str:
    if wrong:
        return f"[red]{len(wrong)} diverged[/]"
    if any(each["stage"] == stage for each in report["not_judged"]):
        return "[yellow]not judged[/]"
    if report["verdict"] == "not compared":
        return "[yellow]not compared[/]"
    if stage == "trajectory" and is_tied(report):
        return "[green]the same[/] [dim]step by step, beside the tie; free runs part at it[/]"
    return (
        "[yellow]the same, not finite[/]" if "not finite" in report["stages"][stage]["counts"] else "[green]the same[/]"
    )


def _with_backends(named: Sequence[Any], count: int) -> list[str]:
    """The places of some findings, each with its backend where the finding is not on all backends."""
    places: dict[str, list[str]] = {}
    for each in named:
        places.setdefault(place_of(each), []).append(each["backend"])
    return sorted(
        place if len(set(on)) == count > 1 or on == [None] else f"{place} on {name}"
        for place, on in places.items()
        for name in ([None] if len(set(on)) == count > 1 or on == [None] else dict.fromkeys(on))
    )


def why_empty(stage: str, report: Mapping[str, Any]) -> str:
    """Returns why nothing was judged at a stage.

    Args:
        stage: The name of the stage.
        report: What `run_parity` returned.
    """
    if stage not in report.get("stages_asked", STAGES):
        return "not asked for"
    frozen = is_frozen(_first(report))
    if not report.get("compiled", True) and stage in {"update", "trajectory"}:
        return "nothing to compare: nothing is trained" if frozen else "not compiled"
    if not _first(report).get("has_call", True) and stage not in {"build", "trajectory"}:
        return "nothing to compare: the model has no call, and is trained by its own train_step"
    why = {
        "nothing": "nothing is trained" if frozen else "there is no loss",
        "train_step": "the model is trained by its own train_step",
    }
    trained_by = _first(report).get("trained_by")
    if trained_by in why and stage in {"loss", "gradient", "update"}:
        return f"nothing to compare: {why[trained_by]}"
    blind = {each["stage"]: each["reason"] for each in report["not_judged"]}
    if stage in blind:
        return f"not judged: {blind[stage]}"
    # If models are not built alike, nothing more is compared.
    built = all(each["stage"] != "build" for each in report["divergences"]) and report["measurements"]
    return "nothing to compare" if built else "not reached"


def _first(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the report holds of the first backend."""
    found: Mapping[str, Any] = next(iter(report["backends"].values()), {})
    return found


def is_foregone(stage: str, report: Mapping[str, Any]) -> bool:
    """Tells whether a stage is the trajectory and was not judged, because an earlier part differs.

    Args:
        stage: The name of the stage.
        report: What `run_parity` returned.
    """
    if stage != "trajectory" or any(each["stage"] == stage for each in report["divergences"]):
        return False
    return any(each["stage"] != "build" and not each.get("of_data") for each in report["divergences"])


def is_tied(report: Mapping[str, Any]) -> bool:
    """Tells whether the model is at a point without a derivative, at which free runs may part.

    Args:
        report: What `run_parity` returned.
    """
    return any(each["verdict"] == "tie" for each in report.get("precision", ()))


def advice_without_a_difference(report: Mapping[str, Any]) -> str:
    """Returns what to do where nothing differs but the exit code is not 0, or an empty string.

    Args:
        report: What `run_parity` returned.

    Example:
        >>> lost = {"layer": "distance", "detail": "NaN", "from_numbers": True}
        >>> advice_without_a_difference({"not_finite": lost, "verdict": "not finite"})[:52]
        'see where the layer distance takes a root, a logarit'
    """
    lost = report["not_finite"]
    if lost is None and report["verdict"] == "not compared":
        return second_backend(report)
    if lost is None and report["failed"]:
        return (
            f"read what {listed(list(report['failed']))} ended with: it may be code of another framework, or something "
            f"that it does not have; `keras.ops` is on each, and `dlf check` lists what to write, line by line."
            f"{_STEP * bool(_first(report).get('own_train_step'))}"
        )
    if lost is None:
        return ""
    if report.get("data_not_finite"):
        return "fill in or leave out what is no number in the data."
    return _advice_on_lost(f"the layer {lost['layer']}" if lost["layer"] else "the model")


_STEP = " A `train_step` takes other arguments on each backend; a `compute_loss` takes the same on all."


def _advice_on_lost(where: str) -> str:
    return (
        f"see where {where} takes a root, a logarithm, a quotient or a norm of zero, or overflows: a value may "
        "be a number where its derivative is none, and `where` hides the one and not the other."
    )


def second_backend(report: Mapping[str, Any]) -> str:
    """Returns what to do where there is nothing to compare with: the command that installs another backend.

    Args:
        report: What `run_parity` returned.

    Example:
        >>> second_backend({"backends": {"jax": {}}}).startswith("compare it with another backend")
        True
    """
    others = [load_backend(name) for name in backend_names() if name not in report["backends"]]
    installed = [each.name for each in others if is_installed(each)]
    if installed:
        return f"compare it with another backend: {' and '.join(installed)} would do (see --backends)."
    commands = " or ".join(f"`{each.install_command}`" for each in others)
    return f"compare it with another backend, of which none is installed: {commands}."


def known_of(report: Mapping[str, Any]) -> list[str]:
    """Returns the reasons of the known differences and known failures that were found, each once.

    Args:
        report: What `run_parity` returned.
    """
    reasons = [each["reason"] for each in (*report["divergences"], *report["precision"]) if each["reason"]]
    return list(dict.fromkeys([*reasons, *report["known_failures"].values()]))


def remarks_of(report: Mapping[str, Any]) -> Iterator[str]:
    """Yields remarks that a reader of the verdict needs beside known differences, of a sentence or two each.

    Args:
        report: What `run_parity` returned.
    """
    thresholds = Thresholds(**report.get("thresholds", {}))
    own = {
        each["layer"] or ("the optimizer" if each["stage"] == "update" else "the loss")
        for each in report["measurements"]
        if each["mode"] != "whole"
        and each["stage"] != "trajectory"
        and judged_in_own_dtype(each, thresholds) is not None
    }
    if own:
        yield f"Judged in its own dtype, with room for its sums, for it has no float64 form: {', '.join(sorted(own))}."
    imprecise = {each["backend"] for each in report["precision"] if _is_imprecise(each)}
    switches = {name: each.get("tensor_float_32") for name, each in report["backends"].items()}
    rounded = {name: switch for name, switch in switches.items() if switch and imprecise & {name, None}}
    if rounded:
        yield (
            f"TF32 is on for {listed(list(rounded))}: factors of float32 products are rounded to 10 bits there, which "
            f"explains up to 8,192 noise floors. What turns it off: "
            f"{'; '.join(f'{switch} ({name})' for name, switch in rounded.items())}."
        )
    uneven = report.get("called_unevenly", ())
    if uneven:
        yield (
            "Not called as often on every backend, as in a loop, and judged as a part of what holds them: "
            f"{', '.join(uneven[:_NAMED])}{' and others' if len(uneven) > _NAMED else ''}."
        )
    other = report["initial_values"]
    if other:
        more = " and others" if len(other) > _NAMED else ""
        first = next(iter(report["backends"]))
        yield (
            f"Initialized otherwise on each backend: {', '.join(other[:_NAMED])}{more}. "
            f"All were given the values of {first} before they were compared."
        )
    for remark in report.get("remarks", ()):
        yield f"In the target's file, {remark}."
    if not report["compiled"] and not is_frozen(_first(report)) and "update" in report["stages_asked"]:
        yield "The model is not compiled: there is no optimizer to compare, and no training."


def name_of(finding: Mapping[str, Any]) -> str | None:
    """Returns what a finding or a measurement is of, in words: a variable's name, or what else it is.

    Args:
        finding: As in the report.

    Example:
        >>> name_of({"variable": None, "kind": "input", "of": "dense"})
        'the input of dense'
    """
    of = finding.get("of")
    words = {
        "input": f"the input of {of}",
        "mask": "mask",
        "input mask": f"the mask of the input of {of}",
        "metric": f"the metric {of}",
        "fit": "fit",
    }
    return words.get(str(finding.get("kind")), finding.get("variable"))


def place_of(finding: Mapping[str, Any]) -> str:
    """Returns the place of a finding, in words.

    Args:
        finding: A finding, as in the report.

    Example:
        >>> place_of({"layer": "dense", "variable": "kernel", "step": 1})
        'dense, kernel at step 2'
    """
    layer, variable = finding.get("layer"), name_of(finding)
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
    if first.get("lost"):
        return _advice_on_lost(layer)
    masks = f"see which mask {layer} hands on: `mask_zero`, `supports_masking`, `compute_mask`."
    of_kind = {
        "mask": masks,
        "input mask": masks,
        "output": f"see what {layer} gives on each backend, its shape and its dtype: look for casts, `dtype`, "
        "`autocast`.",
        "foreign output": f"{layer} is written for one framework alone: what it calls has a like in `keras.ops`, which "
        "is on each; `dlf check` lists what to write, line by line.",
    }
    known = _KNOWN if first.get("reason") and first["stage"] != "trajectory" else ""
    return (
        known
        or of_kind.get(str(first.get("kind")))
        or {
            "build": f"see what {layer} makes of its configuration on each backend: variables, shapes, dtypes.",
            "forward": f"read the `call` of {layer}: from the same inputs and weights it gives other outputs.",
            "loss": "read the loss: from the same predictions and targets it gives another value or gradient.",
            "gradient": _OF_STEP
            if first.get("mode") == "resynchronised"
            else f"read what {layer} does between inputs and outputs: outputs agree, derivatives do not "
            "(stop_gradient, a custom gradient, a detached statistic).",
            "update": "compare the optimizers' settings: from the same gradients they make other updates.",
            "state": f"see how {layer} updates its statistics: momentum, Bessel's correction, an update left out.",
            "trajectory": _advice_on_training(first, backends or {}),
        }[first["stage"]]
    )


_OF_STEP = (
    "read the model's own `train_step`: the layers that it calls agree by themselves, and the loss that it takes "
    "gradients of does not."
)
_KNOWN = "read what is known of it; look further only at what that does not explain."


def _advice_on_training(first: Mapping[str, Any], backends: Mapping[str, Any]) -> str:
    """Advice where layers, loss and optimizer agree by themselves: it names what only training runs."""
    if first.get("kind") == "fit":
        return "call `model.fit` on that backend by itself: there it fails, where a training step alone comes through."
    if first.get("kind") == "metric" and first["of"] == "loss":
        return (
            "see what is added to the loss in a whole step: the loss and each layer's penalties agree by themselves, "
            "but a layer that is called several times adds several (`add_loss`)."
        )
    if first.get("kind") == "metric":
        return (
            f"see where the metric {first['of']} is updated: outside of a training step of Keras's, it may not be kept."
        )
    assigned = sorted({path for each in backends.values() for path in each.get("assigned", ())})
    if assigned:
        return (
            f"the model assigns to {', '.join(assigned[:_NAMED])} in its `call`, which is trained: use the other value "
            "where it is needed, as in `ops.matmul(x, self.kernel * self.mask)`, and leave the variable as it is."
        )
    if first.get("reason"):
        return _KNOWN
    of_model = [
        *(["its own `train_step`"] if any(each.get("own_train_step") for each in backends.values()) else []),
        *(
            ["sparse gradients, as of embeddings"]
            if any(one.get("sparse") for each in backends.values() for one in each.get("variables", ()))
            else []
        ),
        "what happens between steps",
    ]
    return f"every layer, the loss and the optimizer agree by themselves: look at {', at '.join(of_model)}."


def _draws_of_its_own(first: Mapping[str, Any], backends: Mapping[str, Any]) -> str:
    """How the layer draws numbers that are not common to all backends, as the report on randomness says, or nothing."""
    draws = [draw for each in backends.values() for draw in each.get("own_draws", {}).get(first["layer"], ())]
    return f"draws by {draws[0]}, which is not common" if draws else ""


def _configured_otherwise(first: Mapping[str, Any], backends: Mapping[str, Any]) -> list[str]:
    """The settings of a layer, or of the optimizer, whose values differ between backends."""
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
