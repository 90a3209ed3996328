"""Adds the reason to findings that are known differences between backends.

Requirements:

* a report says that a difference is known, and why; it still counts as a difference;
* a finding is taken for a known difference only where all the conditions of its entry hold.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dlf.parity._answers import Built, LayerAnswer, VariableAnswer
from dlf.parity._judging.verdict import PLACE, Finding
from dlf.parity._known import KnownDifference, known_differences

__all__ = ["reasons_of_failures", "with_reasons"]


def with_reasons(findings: Sequence[Finding], built: Mapping[str, Built], optimizer: str | None) -> list[Finding]:
    """Returns the findings, each divergence that is a known difference with its reason.

    Args:
        findings: The findings on one model.
        built: What the report says of the model, by backend: its ``layers`` and ``variables``, which of Keras's
            ``functions`` it calls, and which variables are ``assigned``.
        optimizer: The name of the optimizer's class.
    """
    if not any(each.verdict == "diverged" for each in findings):
        return list(findings)
    known, backends = known_differences(), list(built)
    first = built[backends[0]]
    called: dict[str, list[Any]] = {}
    for there in built.values():
        for path, functions in there.get("functions", {}).items():
            called.setdefault(path, []).extend(functions)
    by_path = {each["path"]: {**each, "functions": called.get(each["path"], ())} for each in first.get("layers", ())}
    by_path[""] = {"path": "", "functions": called.get("", ())}  # What is called outside of layers, as by the loss.
    variables = {name: each.get("variables", ()) for name, each in built.items()}
    blamed: dict[Any, set[str | None]] = {}
    for each in findings:
        if each.verdict == "diverged":
            blamed.setdefault(_place(each), set()).add(each.backend)

    draws = any(each.verdict == "diverged" and _is_seed(each.variable) for each in findings)

    def reason_of(finding: Finding) -> str | None:
        for each in known:
            whose = _is_whose(each, finding.backend, blamed[_place(finding)], backends)
            fits = whose and _stages_of(finding) & set(each.stages) and _is_of(each, finding, by_path, optimizer)
            if fits and _is_of_variables(each, finding, variables) and _is_of_calls(each, finding, built, draws=draws):
                return _reason(each)
        return None

    return [replace(each, reason=reason_of(each)) if each.verdict == "diverged" else each for each in findings]


def reasons_of_failures(failed: Mapping[str, str], layers: Sequence[LayerAnswer]) -> dict[str, str]:
    """Returns why backends failed, for those whose reason is known.

    Args:
        failed: The error of each backend that failed.
        layers: The layers of the model, as in the report.

    Example:
        >>> reasons_of_failures({"jax": "out of memory"}, [])
        {}
    """
    return {
        backend: _reason(each)
        for each in reversed(known_differences())
        for backend, error in failed.items()
        if each.raises
        and backend in each.backends
        and re.search(each.raises, error)
        and any(_is_such(each, layer) for layer in layers)
    }


def _reason(known: KnownDifference) -> str:
    return f"{known.reason} {known.upstream}".strip()


def _place(finding: Finding) -> tuple[Any, ...]:
    return tuple(getattr(finding, name) for name in PLACE)


def _is_whose(known: KnownDifference, backend: str | None, blamed: set[str | None], compared: Sequence[str]) -> bool:
    if backend is None:
        # Between two backends neither is blamed: it is enough that one with the known difference is among them.
        return any(each in compared for each in known.backends)
    # Where most backends have a defect, the majority blames those that do not have it.
    return backend in known.backends or blamed == set(compared) - set(known.backends)


def _is_of(
    known: KnownDifference, finding: Finding, layers: Mapping[str, Mapping[str, Any]], optimizer: str | None
) -> bool:
    # A loss and a training step are of the whole model: it is enough that it has such a layer.
    # So is a gradient that is not finite: it reaches a variable through the layers behind it.
    of_all = bool(_stages_of(finding) & {"loss", "trajectory"})
    whole = finding.layer is None and (of_all or known.lost)
    # A difference between layers is reported as a layer's input, with the layer's path and the number of the call.
    between = finding.of if finding.kind == "input" else finding.variable
    path = finding.layer or (between or "").partition("#")[0]
    candidates = list(layers.values()) if whole else [layers.get(path, {})]
    named = known.layers or known.functions
    return (
        (not known.optimizers or optimizer in known.optimizers)
        and (not named or any(_is_such(known, each) or _calls_such(known, each) for each in candidates))
        and re.search(known.variable, finding.variable or "") is not None
        and (not known.lost or finding.lost)
    )


def _stages_of(finding: Finding) -> set[str]:
    """The stages that a difference may be known for: a gradient in a step of the model's own is of training too."""
    return {finding.stage, *["trajectory"] * (finding.mode == "resynchronised")}


def _is_seed(variable: str | None) -> bool:
    return str(variable).endswith("seed_generator_state")


def _is_of_calls(known: KnownDifference, finding: Finding, built: Mapping[str, Built], *, draws: bool) -> bool:
    """Whether the condition of a difference on the model's calls holds, where it has one.

    One of the training mode shows in seeds that differ; the others are of assigned variables and of metrics in layers.
    """
    if known.training:
        return draws and any(each.get("takes_training") for each in built.values())
    if known.assigned:
        return any(each.get("assigned") for each in built.values())
    if known.metrics:
        held = {name for each in built.values() for layer in each["layers"] for name in layer.get("metrics", ())}
        return bool(held) and (finding.kind == "fit" or (finding.kind == "metric" and finding.of in held))
    return True


def _calls_such(known: KnownDifference, layer: Mapping[str, Any]) -> bool:
    return any(
        name in known.functions and all(_is_said(each, arguments.get(key)) for key, each in known.arguments.items())
        for name, arguments in layer.get("functions", ())
    )


def _is_of_variables(
    known: KnownDifference, finding: Finding, variables: Mapping[str, Sequence[VariableAnswer]]
) -> bool:
    theirs = [each for name in known.backends for each in variables.get(name, ())]
    named = (finding.variable or "").replace("/", "_")

    def is_of(paths: Iterable[str]) -> bool:
        # The names of the optimizer's variables contain the variable's path; those of Adafactor are the end of it.
        return any(each.replace("/", "_") in named or each.rpartition("/")[2] == named for each in paths)

    if known.repeated_path:
        times = Counter(each["path"] for each in theirs if each["trainable"])
        return is_of(path for path, count in times.items() if count > 1)
    if known.wide:
        wide = {
            each["path"].rpartition("/")[2]
            for name, there in variables.items()
            if name not in known.backends
            for each in there
            if each["dtype"] == "float64"
        }
        return finding.variable in wide
    if known.sparse:
        sparse = [each["path"] for each in theirs if each.get("sparse")]
        return is_of(sparse) if known.sparse == "variable" else bool(sparse)
    return True


def _is_such(known: KnownDifference, layer: Mapping[str, Any]) -> bool:
    config = layer.get("config", {})
    return layer.get("class") in known.layers and all(
        _is_said(each, config.get(name)) for name, each in known.config.items()
    )


def _is_said(asked: Any, said: Any) -> bool:
    if isinstance(asked, str):
        return isinstance(said, str | list) and re.fullmatch(asked, str(said)) is not None
    return bool(asked == said)
