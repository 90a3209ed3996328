"""Makes a report from evidence: what was measured, and the verdict on it, which can be given again.

Requirements:

* the report holds the evidence: `dlf parity --from FILE` needs nothing else;
* evidence can be judged on any of the backends that were measured, with any thresholds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dlf.parity._answers import Evidence, Report, ValueSummary
from dlf.parity._judging.build import judge_build, judge_values
from dlf.parity._judging.reasons import reasons_of_failures, with_reasons
from dlf.parity._judging.verdict import Finding, Thresholds, judge, with_context
from dlf.parity.options import STAGES
from dlf.utils.errors import InvalidArgumentError, did_you_mean
from dlf.utils.words import listed

__all__ = ["EVIDENCE", "SCHEMA", "is_frozen", "judged", "last_line", "read_report", "thresholds_of"]

SCHEMA = 6
"""The version of the report's format; a report of another version is not judged again."""
EVIDENCE = tuple(Evidence.__annotations__)
"""The keys of a report that it can be judged again by."""
NEWS = ("noisy", "precision", "unstable", "tie", "untaken", "not finite", "not judged")


def judged(evidence: Evidence, backends: Sequence[str] = (), thresholds: Thresholds | None = None) -> Report:
    """Judges evidence, and returns the report on it.

    Args:
        evidence: What was measured, or a report that holds it.
        backends: The backends to compare, of those that were measured; none means all.
        thresholds: The thresholds of the verdict.

    Returns:
        The report, in JSON's types.

    Raises:
        InvalidArgumentError: A backend was not measured.
    """
    thresholds = thresholds or Thresholds()
    # A backend that failed is judged by what it answered before.
    measured = list(evidence["backends"])
    unknown = [name for name in backends if name not in measured]
    if unknown:
        raise InvalidArgumentError(
            "--backends", expected=f"some of those that were measured: {', '.join(measured)}", received=unknown
        )
    names = [name for name in measured if not backends or name in backends]
    built = {name: evidence["backends"][name] for name in names}
    findings = judge_build(built)
    if all(each.verdict != "diverged" for each in findings):
        # If the models themselves differ, other values say nothing.
        findings = judge_values(built) or findings
    measurements = with_context(evidence["measurements"], thresholds)
    findings += _without_what_others_lost(
        judge(measurements, names, thresholds),
        judge(measurements, measured, thresholds) if len(names) < len(measured) else (),
    )
    findings += _of_fit({name: evidence["fits"][name] for name in names if name in evidence["fits"]})
    findings = with_reasons(findings, built, evidence["optimizer"])
    # Known to differ, and no part of training: such as the gradient by the images of a layer that augments them.
    findings = [
        replace(each, verdict="untaken") if each.verdict == "diverged" and each.of_data and each.reason else each
        for each in findings
    ]
    wrong = sorted((each for each in findings if each.verdict == "diverged"), key=lambda each: STAGES.index(each.stage))
    lost = _not_finite(findings)
    return {
        **evidence,
        "measurements": measurements,
        "backends": {name: evidence["backends"][name] for name in names},
        "layers": evidence["backends"][names[0]]["layers"],
        "known_failures": reasons_of_failures(evidence["failed"], evidence["backends"][names[0]]["layers"]),
        "thresholds": asdict(thresholds),
        "verdict": _verdict(wrong, lost, names),
        "not_finite": lost,
        "not_judged": _not_judged(evidence, names, findings),
        "first_divergence": wrong[0].as_dict() if wrong else None,
        "divergences": [each.as_dict() for each in wrong],
        "precision": [each.as_dict() for each in findings if each.verdict in NEWS],
        "stages": {stage: _stage([each for each in findings if each.stage == stage]) for stage in STAGES},
        "findings": [each.as_dict() for each in findings],
        "initial_values": _other_values([each["values"] for each in built.values()]),
    }


def _verdict(wrong: Sequence[Finding], lost: Mapping[str, Any] | None, names: Sequence[str]) -> str:
    if wrong:
        return "diverge"
    if len(names) == 1:
        return "not compared"
    return "not finite" if lost else "agree"


def _without_what_others_lost(findings: Sequence[Finding], of_all: Sequence[Finding]) -> list[Finding]:
    """The findings on some backends, of which each step starts from where the truth was: there it may be infinite.

    Args:
        findings: Those on these backends.
        of_all: Those on all that were measured, if there are others.
    """
    here = {each.backend for each in findings}
    others = [each.backend for each in of_all if each.lost and each.verdict == "diverged" and each.backend not in here]
    if not others:
        return list(findings)
    why = f"its steps start from what is not finite on {listed(list(dict.fromkeys(map(str, others))))}"
    return [
        replace(each, verdict="not judged", detail=why, lost=False)
        if each.stage == "trajectory" and each.verdict == "not finite"
        else each
        for each in findings
    ]


def _of_fit(fits: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """The findings on backends where `fit` fails, if it does not fail on all."""
    failed = {name: str(each["error"]) for name, each in fits.items() if "error" in each}
    if not failed or len(failed) == len(fits):
        return []
    return [
        Finding(
            "trajectory",
            None,
            None,
            name,
            "diverged",
            None,
            detail=f"which fails there:{last_line(error)}",
            kind="fit",
        )
        for name, error in failed.items()
    ]


def last_line(text: str) -> str:
    """The line of a traceback that names the error, or else its last line."""
    lines = [each.strip() for each in text.splitlines() if each.strip()]
    named = [each for each in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)(:|$)", each)]
    return f" {(named or lines)[-1][:200]}" if lines else ""


def _not_finite(findings: Sequence[Finding]) -> dict[str, Any] | None:
    """If a result of the model is not finite, the finding where that began, with its backends; otherwise None.

    Infinity that is only inside the model may be intended.
    """
    found = [each for each in findings if each.verdict == "not finite"]
    results = [each for each in found if each.layer is None]
    if not results:
        return None

    def order(finding: Finding) -> int:
        return STAGES.index(finding.stage)

    begins = [each for each in found if each.layer is not None and each.from_numbers]
    first = min(begins or found, key=order)
    here = [each for each in found if (each.stage, each.layer, each.call) == (first.stage, first.layer, first.call)]
    return first.as_dict() | {"backends": list(dict.fromkeys(each.backend for each in here))}


def is_frozen(built: Mapping[str, Any]) -> bool:
    """Tells whether a model has no variable to train.

    Args:
        built: What a report holds of a backend.

    Example:
        >>> is_frozen({"variables": [{"path": "dense/kernel", "trainable": False}]})
        True
    """
    return not any(each["trainable"] for each in built.get("variables", ({"trainable": True},)))


def _not_judged(evidence: Evidence, names: Sequence[str], findings: Sequence[Finding]) -> list[dict[str, str]]:
    """The stages that could not be judged, or not in full, each with the reason."""
    blind: dict[str, str] = {}
    for each in findings:
        if each.verdict == "not judged":
            blind.setdefault(each.stage, str(each.detail))
    first = next(iter(evidence["backends"].values()))
    asked = {"loss", "gradient"} & set(evidence["stages_asked"])
    if first.get("trained_by") == "nothing" and not is_frozen(first) and asked:
        blind["gradient"] = "there is no loss, and --loss NAME gives one"
    for stage, reasons in evidence["given_up"].items():
        failed = {name: last_line(reasons[name]) for name in names if name in reasons}
        if "loss" in evidence["given_up"]:
            blind[stage] = f"the loss fails on {listed(list(failed))}"
            continue
        by_keras = [name for name in failed if name not in evidence["by_keras_alone"]]
        by_dlf = [name for name in failed if name in evidence["by_keras_alone"]]
        every = len(failed) == len(names)
        if by_keras:
            blind[stage] = f"training fails {_where({name: failed[name] for name in by_keras}, every and not by_dlf)}"
        if by_dlf:
            where = _where({name: failed[name] for name in by_dlf}, every and not by_keras)
            said = f"dlf cannot train it {where}; Keras by itself can"
            blind[stage] = f"{blind[stage]}; {said}" if by_keras else said
    fits = {name: each for name, each in evidence["fits"].items() if name in names}
    if fits and all("error" in each for each in fits.values()):
        blind["trajectory"] = f"`fit` fails on every backend:{last_line(next(iter(fits.values()))['error'])}"
    return [{"stage": stage, "reason": reason} for stage, reason in blind.items()]


def _where(failed: Mapping[str, str], every: bool) -> str:
    """On which backends something fails, and with which errors, in words."""
    whose: dict[str, list[str]] = {}
    for name, line in failed.items():
        whose.setdefault(line, []).append(name)
    on = f"on {'every backend' if every else listed(list(failed))}"
    if len(whose) == 1:
        return f"{on}:{next(iter(whose))}"
    return f"{on}: on {'; '.join(f'{listed(mine)}:{line}' for line, mine in whose.items())}"


def read_report(file: Path) -> Report:
    """Reads a report that `dlf parity --json` wrote.

    Args:
        file: The file.

    Raises:
        InvalidArgumentError: The file cannot be read, or is not such a report.
    """
    try:
        report: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _no_report(file, error.strerror or str(error)) from error
    except ValueError as error:
        raise _no_report(file, f"It is no JSON: {error}") from error
    lacking = [name for name in EVIDENCE if not isinstance(report, dict) or name not in report]
    if lacking:
        raise _no_report(file, f"It has no {', '.join(lacking[:3])}")
    if report["schema"] != SCHEMA:
        raise _no_report(file, f"Its schema is {report['schema']}, and this version of dlf reads {SCHEMA}")
    found: Report = report
    return found


def thresholds_of(changes: Sequence[str]) -> Thresholds:
    """Returns the thresholds with some of them changed.

    Args:
        changes: Changes of the form ``name=number``.

    Raises:
        InvalidArgumentError: There is no such threshold, or its value is not a positive number.

    Example:
        >>> thresholds_of(["noisy=100"]).noisy
        100.0
    """
    thresholds = Thresholds()
    for change in changes:
        name, _, value = change.partition("=")
        try:
            if name not in asdict(thresholds) or not float(value) > 0:
                raise ValueError  # noqa: TRY301 - as if it were no number.
            thresholds = replace(thresholds, **{name: float(value)})
        except ValueError:
            raise InvalidArgumentError(
                "--threshold",
                expected=f"NAME=NUMBER with one of {', '.join(asdict(thresholds))}",
                received=change,
                advice="" if name in asdict(thresholds) else did_you_mean(name, asdict(thresholds)),
            ) from None
    return thresholds


def _no_report(file: Path, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        "--from", expected="a report that `dlf parity --json FILE` wrote", received=str(file), advice=f"{reason}."
    )


def _stage(findings: Sequence[Finding]) -> dict[str, Any]:
    verdicts = sorted({each.verdict for each in findings})
    worst = max(findings, key=lambda each: each.noise_floors or 0.0, default=None)
    return {
        "counts": {verdict: sum(each.verdict == verdict for each in findings) for verdict in verdicts},
        "worst": None if worst is None else worst.as_dict(),
    }


def _other_values(values: Sequence[Mapping[str, ValueSummary]]) -> list[str]:
    """The variables whose initial values differed between backends, before all were given the same ones."""
    return [
        name.split(":", 1)[1]
        for name in values[0]
        if len({each[name]["digest"] if name in each else None for each in values}) > 1
    ]
