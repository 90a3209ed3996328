"""Trains one situation by plain Keras, by Keras's loop under dlf, and by dlf's engine, and compares the results.

Requirements:

* each way starts from the same seed, with a model, data, options and callbacks of its own;
* everything that a user can see is compared: histories, logs and events, the calls of the data sets, errors and
  warnings, and every variable of the model and of its optimizer;
* values agree to float32 rounding; everything else, including the types and shapes of numbers, is the same.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import way_data
from way_callbacks import Epochs

from dlf.random.seed import randomness_as_seeded, set_seed
from dlf.training._compiling import sort_options
from dlf.training.fit import compile_and_fit

WAYS = ("plain", "keras", "auto")


@dataclass(frozen=True)
class Fresh:
    """An option that is made anew for each way, by a function that is given a folder."""

    make: Callable[[Path], Any]


@dataclass(frozen=True)
class Situation:
    """A model, data and options, and what is expected of their training."""

    name: str
    model: Callable[[], keras.Model]
    data: Callable[[], Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options of `compile_and_fit`; each that is `Fresh` is made anew."""
    refused: str | None = ""
    """Part of the reason why the engine leaves the training to Keras; empty if it does not, None if either may be."""
    only: tuple[str, ...] = ("jax", "tensorflow", "torch")
    """The backends on which this situation is tested."""
    plain: bool = True
    """Whether to compare with plain `fit`: not if dlf shuffles in its own order."""
    fits: int = 1
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    """A context, such as a setting of Keras's, in which the model is trained."""


@dataclass
class Trained:
    """Everything that can be seen of a training."""

    history: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    raised: str = ""
    warned: list[str] = field(default_factory=list)
    variables: list[tuple[str, np.ndarray]] = field(default_factory=list)
    engine: str = ""
    said: str = ""


def record_soon(replace: Callable[[str, Any], None]) -> None:
    """Makes PyTorch record a step after two runs: these trainings are short, and recorded steps are to be compared.

    Args:
        replace: Sets the value of a dotted name.
    """
    if keras.config.backend() == "torch":
        replace("dlf_torch.epochs._RUNS_BEFORE_RECORDING", 2)


def train(situation: Situation, way: str, folder: Path) -> Trained:
    """Trains in one of `WAYS`, and returns everything that can be seen, including an error."""
    found = Trained()
    way_data.CALLS.clear()
    (folder / way).mkdir(parents=True, exist_ok=True)
    model = None
    with situation.within(), warnings.catch_warnings(record=True) as warned, _lines() as said:
        warnings.simplefilter("always")
        try:
            set_seed(7)
            model = situation.model()
            for _ in range(situation.fits):
                options = _made(situation.options, folder / way)
                seen = next((each for each in options["callbacks"] if isinstance(each, Epochs)), Epochs())
                if seen not in options["callbacks"]:
                    options["callbacks"] = [*options["callbacks"], seen]
                found.events.append(seen.seen)
                history = _fit(model, situation.data(), options, way)
                found.history.append((dict(history.history), history.epoch))
                found.engine = getattr(history, "engine", "")
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - what is raised is compared.
            found.raised = f"{type(error).__name__}: {error}"
    found.calls = list(way_data.CALLS)
    found.warned = sorted({str(each.message) for each in warned if issubclass(each.category, UserWarning)})
    found.said = "\n".join(said)
    found.variables = _variables(model)
    return found


def _fit(model: keras.Model, data: Any, options: dict[str, Any], way: str) -> keras.callbacks.History:
    if way != "plain":
        return compile_and_fit(model, data, engine=way, **options)
    first = {name: options.pop(name) for name in ("loss", "optimizer", "metrics") if name in options}
    validation = options.pop("validation_ds", None)
    seen = {name: options.pop(name) for name in ("epochs", "callbacks")}
    for_compile, for_fit = sort_options(model, options)
    arguments = {name: each for name, each in (first | for_compile).items() if each is not None}
    if arguments or not model.compiled:
        model.compile(**arguments)
    parts = data if isinstance(data, tuple) else (data,)
    with randomness_as_seeded():
        return model.fit(*parts[:2], validation_data=validation, **_weights(parts), **seen, **for_fit)


def _weights(parts: tuple[Any, ...]) -> dict[str, Any]:
    return {"sample_weight": parts[2]} if len(parts) > 2 else {}


def _made(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    made = {name: each.make(folder) if isinstance(each, Fresh) else each for name, each in options.items()}
    defaults = {"epochs": 2, "verbose": 0, "callbacks": [], "shuffle": False, "optimizer": "sgd"}
    return {**defaults, **made}


def _variables(model: keras.Model | None) -> list[tuple[str, np.ndarray]]:
    if model is None:
        return []
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer is not None else [])]
    # Within a process, Keras numbers names, and on TensorFlow it puts the name of what is being traced before them.
    paths = [re.sub(r"_\d+", "", each.path.rpartition("/")[2]) for each in variables]
    values = [np.asarray(keras.ops.convert_to_numpy(each.value)) for each in variables]
    return list(zip(paths, values, strict=True))


class _lines(AbstractContextManager[list[str]]):  # noqa: N801 - used as a function.
    """Collects the messages of the logger `dlf`."""

    def __enter__(self) -> list[str]:
        lines: list[str] = []
        self._handler = logging.Handler()
        self._handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("dlf").addHandler(self._handler)
        return lines

    def __exit__(self, *_: object) -> None:
        logging.getLogger("dlf").removeHandler(self._handler)


def differences(one: Trained, other: Trained) -> list[str]:
    """Returns the differences between two trainings of the same situation, each as one line."""
    found: list[str] = []
    for name in ("history", "events", "calls", "raised", "warned"):
        found += _differences(getattr(one, name), getattr(other, name), name)
    if [path for path, _ in one.variables] != [path for path, _ in other.variables]:
        found += ["variables: other ones"]
    for (path, value), (_, counterpart) in zip(one.variables, other.variables, strict=False):
        if value.shape != counterpart.shape or not np.allclose(
            value, counterpart, rtol=2e-3, atol=2e-5, equal_nan=True
        ):
            found.append(f"{path}: {value.ravel()[:3]} and {counterpart.ravel()[:3]}")
    return found


def _differences(one: Any, other: Any, place: str) -> Iterator[str]:
    if type(one) is not type(other):
        yield f"{place}: {one!r} and {other!r}"
    elif isinstance(one, dict):
        if list(one) != list(other):
            yield f"{place}: {list(one)} and {list(other)}"
        for name in one.keys() & other.keys():
            yield from _differences(one[name], other[name], f"{place}.{name}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{place}: {_short(one)} and {_short(other)}"
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from _differences(left, right, f"{place}[{index}]")
    elif not _is_alike(one, other):
        yield f"{place}: {one!r} and {other!r}"


def _is_alike(one: Any, other: Any) -> bool:
    if not isinstance(one, float | np.ndarray | np.generic):
        return bool(one == other)
    return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def _short(values: Any) -> str:
    text = str([each[0] if isinstance(each, tuple) else each for each in values])
    return text if len(text) < 400 else f"{text[:400]}..."


def faults(situation: Situation, folder: Path, ways: Sequence[str] = WAYS) -> list[str]:
    """Returns how the ways differ from Keras's loop under dlf or from plain Keras, and what is wrong in the log.

    Args:
        situation: The situation to train.
        folder: The folder for the callbacks' files.
        ways: The ways to compare; ``"auto"`` must be one of them.
    """
    by_way = {way: train(situation, way, folder) for way in ways if way != "plain" or situation.plain}
    base = "keras" if "keras" in by_way else "plain"
    found = []
    for way, trained in by_way.items():
        if way != base:
            found += [f"{way} against {base}: {each}" for each in differences(trained, by_way[base])]
    engine, said = by_way["auto"].engine, by_way["auto"].said
    if situation.refused is None:
        return found + ([f"no reason: {said!r}"] if engine == "keras" and "Keras's own loop" not in said else [])
    if engine and engine != ("keras" if situation.refused else "fused"):
        found.append(f"the engine was {engine}: {said!r}")
    if situation.refused not in said:
        found.append(f"the reason was {said!r}")
    return found
