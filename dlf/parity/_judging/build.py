"""Compares what each backend has built: layers, variables, outputs and initial values.

Requirements:

* names, shapes and dtypes have to be the same on every backend; the width of an integer does not matter;
* where outputs have other shapes or dtypes, the first layer that gives such an output is named;
* initial values of other bits have to agree in size: to rounding where Keras draws them, and as far as chance explains
  where a framework draws them by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlf.numerics.noise_floor import kind_of
from dlf.parity._answers import Built, ValueSummary
from dlf.parity._judging.verdict import Finding, outvoted

__all__ = ["judge_build", "judge_values"]


def judge_build(built: Mapping[str, Built]) -> list[Finding]:
    """Compares what each backend has built, layers, variables and outputs; backends in the minority are named.

    Args:
        built: What each backend's worker reports: ``layers``, ``variables``, ``outputs``, and ``given``, the dtypes and
            shapes of the outputs of each call of a layer.

    Example:
        >>> def one(dtype):
        ...     return {"layers": [], "variables": [], "outputs": [["", [8, 2], dtype]]}
        >>> [(each.variable, each.backend) for each in judge_build({"a": one("float32"), "b": one("float16")})]
        [('output', None)]
    """
    names = list(built)
    rows = {name: dict(_rows(built[name])) for name in names}
    findings = []
    for place in dict.fromkeys(place for each in rows.values() for place in each):
        having: dict[Any, list[str]] = {}
        for name in names:
            having.setdefault(rows[name].get(place), []).append(name)
        if len(having) > 1:
            most = max(having.values(), key=len)
            _, layer, variable = place
            kind = "output" if place[0] == "output" else None
            odd = outvoted(names, most)
            detail = _of_variable(having) if place[0].startswith("variable") and None not in having else None
            findings += [
                Finding("build", layer, variable, name, "diverged", None, kind=kind, detail=detail) for name in odd
            ]
    # Where a layer is missing or another, only the layer is named, and not its variables.
    absent = {each.layer for each in findings if each.variable is None}
    findings = [each for each in findings if each.variable is None or each.layer not in absent]
    outputs = [each for each in findings if each.kind == "output"]
    # Another dtype inside the model shows where layers are compared; of other shapes nothing can be compared.
    other = _first_other_call(built, with_dtype=bool(outputs))
    if other:
        findings = other + [each for each in findings if each not in outputs and not _follows(each, other[0], built)]
    return findings or [Finding("build", None, None, name, "identical", 0.0) for name in names]


def _follows(finding: Finding, other: Finding, built: Mapping[str, Built]) -> bool:
    """Whether a variable has another shape in a layer that is called after one that gives another output."""
    first = next(iter(built.values()))
    calls = [layer for _, layer, _ in first.get("given", ())]
    mine = [
        each
        for there in built.values()
        for each in there["variables"]
        if (each["layer"], each["path"].rpartition("/")[2]) == (finding.layer, finding.variable)
    ]
    of_shape = len({(kind_of(each["dtype"]), each["trainable"]) for each in mine}) == 1
    later = finding.layer in calls and calls.index(finding.layer) > calls.index(other.layer)
    return of_shape and later


def _of_variable(having: Mapping[Any, Sequence[str]]) -> str:
    """What a variable is on each backend: shape, dtype and whether it is trained."""
    words = {each: f"{each[1]} {each[0]}{', trained' * each[2]}" for each in having}
    return "; ".join(f"{words[each]} on {' and '.join(names)}" for each, names in having.items())


def _first_other_call(built: Mapping[str, Built], *, with_dtype: bool) -> list[Finding]:
    """The first call of a layer that gives another shape or, if dtypes are compared, another dtype."""
    given = {name: {key: (layer, specs) for key, layer, specs in each.get("given", ())} for name, each in built.items()}
    for key, (layer, _) in next(iter(given.values())).items():
        if not all(key in each for each in given.values()):
            continue  # A layer that only some backends call is reported elsewhere.
        having: dict[str, list[str]] = {}
        for name, each in given.items():
            words = [_words(*spec, with_dtype=with_dtype) for spec in each[key][1]]
            having.setdefault(" and ".join(words), []).append(name)
        if len(having) > 1:
            what = "; ".join(f"{specs} on {' and '.join(names)}" for specs, names in having.items())
            foreign = [name for name, each in given.items() if any(framework for _, _, *framework in each[key][1])]
            kind = "foreign output" if foreign else "output"
            # A tensor of another framework is never right, however many backends give one.
            odd = foreign or outvoted(list(built), max(having.values(), key=len))
            return [
                Finding("build", layer, "output", name, "diverged", None, call=key, detail=what, kind=kind)
                for name in odd
            ]
    return []


def _words(dtype: str, shape: Sequence[int], framework: str = "", *, with_dtype: bool) -> str:
    """An output in words; a tensor of another framework is its class, and that framework."""
    if framework:
        return f"{dtype} of {framework}"
    return f"{dtype} {tuple(shape)}" if with_dtype else f"{tuple(shape)}"


def judge_values(built: Mapping[str, Built]) -> list[Finding]:
    """Compares initial values, which dlf draws alike wherever Keras's own functions draw them.

    Where the worker finds that a model draws by a framework's own functions, other numbers are not a difference. Other
    thresholds are, and so is a root mean square that is more than six standard deviations of a sample's away. A seed
    that nobody has given is no difference.

    Args:
        built: What each backend's worker reports: ``variables``, ``values`` and ``drawn_alike``.

    Example:
        >>> def one(digest, rms):
        ...     value = {"digest": digest, "rms": rms, "size": 100, "constant": False}
        ...     variables = [{"path": "d/kernel", "layer": "d"}]
        ...     return {"variables": variables, "values": {"0:d/kernel": value}, "drawn_alike": False}
        >>> judge_values({"a": one("1", 0.1), "b": one("2", 0.101)})
        []
        >>> [each.variable for each in judge_values({"a": one("1", 0.1), "b": one("2", 0.2)})]
        ['kernel']
    """
    names, findings = list(built), []
    seeded = {
        layer["path"]
        for there in built.values()
        for layer in there.get("layers", ())
        if layer.get("config", {}).get("seed") is not None
    }
    together = all(each["drawn_alike"] for each in built.values())
    for place, each in zip(built[names[0]]["values"], built[names[0]]["variables"], strict=True):
        if each["path"].endswith("seed_generator_state") and each["layer"] not in seeded:
            continue  # Which seed comes next follows from how many were drawn before, as by a pipeline.
        values = {name: built[name]["values"].get(place) for name in names}
        alike = {
            one: [other for other in names if _is_alike(values[one], values[other], drawn_alike=together)]
            for one in names
        }
        odd = outvoted(names, max(alike.values(), key=len))
        variable = each["path"].rpartition("/")[2]
        findings += [Finding("build", each["layer"], variable, name, "diverged", None) for name in odd]
    return findings


def _is_alike(one: ValueSummary | None, other: ValueSummary | None, *, drawn_alike: bool) -> bool:
    if one is None or other is None or one["digest"] == other["digest"]:
        return one is not None and other is not None
    if one["constant"] or other["constant"]:
        return False
    # Scaling the same draws may round the last place differently.
    room = 1e-5 if drawn_alike else 6 / math.sqrt(2 * one["size"])
    return bool(abs(one["rms"] - other["rms"]) <= room * max(one["rms"], other["rms"]))


def _rows(described: Built) -> Iterator[tuple[tuple[str, str | None, str | None], Any]]:
    """What has to be the same, by its place: of layers class and dtype, of variables shape, dtype and trainability."""
    for layer in described["layers"]:
        yield ("layer", layer["path"], None), (layer["class"], layer["dtype"])
    for each in described["variables"]:
        # The width of an integer, such as a seed or a counter, depends on the framework.
        dtype = kind_of(each["dtype"])
        name = each["path"].rpartition("/")[2]
        yield (f"variable {each['path']}", each["layer"], name), (tuple(each["shape"]), dtype, each["trainable"])
    for place, shape, dtype in described["outputs"]:
        yield ("output", None, f"output {place}".strip()), (tuple(shape), dtype)
