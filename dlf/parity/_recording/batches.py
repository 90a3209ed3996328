"""The batches that a model is compared on: the user's own, those that its script trains on, or made-up ones.

Requirements:

* data are taken in the forms in which Keras's `fit` takes them, and reach the model in the same structure;
* they are the same on every backend;
* what no backend, or not every one, can take is refused with what to write instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from dlf.check.advice import explained
from dlf.data.conversion import as_array
from dlf.models.scripts import Fit
from dlf.models.targets import load_target, load_value, script_behind
from dlf.numerics.noise_floor import eps_of, is_floating, widened
from dlf.training.engine.arrays import DEFAULT_BATCH_SIZE, as_batches, is_array_like
from dlf.utils.errors import InvalidArgumentError
from dlf.utils.files import whole_file
from dlf.utils.trees import mapped

__all__ = [
    "Batch",
    "Training",
    "all_inputs",
    "arrays_of",
    "batch_in_float64",
    "batches_of_training",
    "cut",
    "examples_in",
    "given_to_fit",
    "gives_batches",
    "holds_text",
    "numbers_alone",
    "own_batches",
    "read_batches",
    "write_batches",
]

Batch: TypeAlias = tuple[Any, Any, Any]
"""Inputs, targets and sample weights as arrays, or structures of arrays; None where there are none."""
_FORM = (
    "data as Keras's fit takes them, or a function (batch size, random) -> (x, y), (x, y, sample_weight), or x alone"
)


def own_batches(options: Mapping[str, Any], random: np.random.Generator) -> list[Batch]:
    """Returns the batches that the user names.

    Args:
        options: Those of the comparison; ``data`` is a target.
        random: The generator that a function of the user's is given.

    Raises:
        InvalidArgumentError: There is nothing of this name, or it gives no arrays of numbers.
    """
    found, given = load_value(options["data"], "--data"), options["data"]
    try:
        if found is None or callable(found):
            make = load_target(given, "--data")
            return [_as_batch(make(options["batch_size"], random)) for _ in range(options["steps"])]
        parts = found if isinstance(found, tuple) else (found,)
        names = ("x", "y", "class_weight" if _are_of_classes(parts[-1]) else "sample_weight")
        arguments = dict(zip(names, parts, strict=False))
        return cut(_first_of(arguments, options["batch_size"], options["steps"]), options["batch_size"])
    except InvalidArgumentError:
        raise
    except Exception as error:
        raise InvalidArgumentError("--data", expected=_FORM, received=given, advice=f"\n{explained(error)}") from error


def batches_of_training(target: str, model: Any, steps: int) -> list[Batch]:
    """Returns the first batches that the script of a target trains the model on; none if there is no such training.

    Args:
        target: A target that was loaded, and whose training was left out.
        model: The model that it has made.
        steps: How many batches to return. Fewer are repeated.
    """
    arguments = _arguments_of_fit(target, model)
    try:
        return _first_of(arguments, arguments.get("batch_size"), steps) if arguments else []
    except Exception:  # noqa: BLE001 - data of another kind, or that are not there: others are made.
        return []


def gives_batches(target: str, model: Any) -> bool:
    """Whether the script trains the model on a `PyDataset`, of which inputs alone reach a step in a tuple."""
    return isinstance(_arguments_of_fit(target, model).get("x"), keras.utils.PyDataset)


def given_to_fit(target: str, model: Any) -> dict[str, Any]:
    """Returns what the script gives Keras's `fit` to train this very model on, by name; nothing if it does not.

    Nor if that is a generator, whose batches are gone.

    Args:
        target: A target that was loaded, and whose training was left out.
        model: The model that it has made.
    """
    found = [each.arguments for each in _fits_with_data(target) if each.model is model]
    names = ("x", "y", "sample_weight", "class_weight", "batch_size")
    if not found or hasattr(found[-1].get("x"), "__next__"):
        return {}
    return {name: found[-1][name] for name in names if name in found[-1]}


def _fits_with_data(target: str) -> list[Fit]:
    # A loop of the file's own tells nothing of its data.
    return [each for each in script_behind(target).fits if each.arguments]


def _arguments_of_fit(target: str, model: Any) -> dict[str, Any]:
    fits = _fits_with_data(target)
    own = [each for each in fits if each.model is model]
    # A function makes a model like the one that the script trains.
    found = own or [each for each in fits if type(each.model) is type(model)]
    return found[-1].arguments if own or len(found) == 1 else {}


class Training(NamedTuple):
    """What a script trains a model on."""

    batches: list[Batch]
    called: Any = None
    """What the model's step calls it on, where that is something else than the inputs of the first batch."""
    marks: Mapping[str, bool] = {}
    """How a step takes the batches: ``takes_batches`` and ``takes_all``, as `fit_on` has them."""


def batch_in_float64(batch: Batch) -> Batch:
    """Returns a batch with its floating-point arrays in float64.

    Targets that are distributions but for the rounding of their dtype are distributions again: one framework's
    crossentropy counts on that, and would differ from the others by that rounding.

    Args:
        batch: ``(x, y, sample_weight)``.

    Example:
        >>> y = np.array([[0.1, 0.2, 0.7]], "float32")
        >>> float(y.astype("float64").sum()) == 1.0, float(batch_in_float64((None, y, None))[1].sum()) == 1.0
        (False, True)
    """
    x, y, weights = batch
    return mapped(widened, x), mapped(_widened_target, y), mapped(widened, weights)


def adds_up_to_one(target: np.ndarray) -> bool:
    """Tells whether the last axis of a loss's targets adds up to one, but for the rounding of their dtype.

    Args:
        target: An array of at least one dimension.

    Example:
        >>> adds_up_to_one(np.array([[0.1, 0.2, 0.7]], "float32")), adds_up_to_one(np.array([[1, 1, 0]]))
        (True, False)
    """
    rounding = target.shape[-1] * eps_of(target.dtype) if is_floating(target.dtype) else 0.0
    return bool((np.abs(widened(target).sum(axis=-1) - 1) <= rounding).all())


def _widened_target(target: Any) -> Any:
    array = np.asarray(target)
    if array.ndim == 0 or not is_floating(array.dtype):
        return array
    found = widened(array)
    is_distribution = (found >= 0).all() and adds_up_to_one(array)
    return found / found.sum(axis=-1, keepdims=True) if is_distribution else found


def write_batches(file: Path, batches: list[Batch], called: Any = None, **marks: bool) -> None:
    """Writes batches for other backends.

    Args:
        file: A ``.npz`` file.
        batches: The batches.
        called: What the model's step calls it on, where that is something else than the inputs of the first.
        **marks: What else is to be known of them.

    Raises:
        OutputError: The file cannot be written.
    """
    arrays: list[Any] = []

    def outline(each: Any) -> Any:
        """The structure in JSON's types, with the number of an array for each."""
        if isinstance(each, dict):
            return {"dict": {name: outline(value) for name, value in each.items()}}
        if isinstance(each, list | tuple):
            return {type(each).__name__: [outline(value) for value in each]}
        if each is None:
            return None
        arrays.append(each)
        return len(arrays) - 1

    text = json.dumps({"batches": outline(batches), "called": outline(called), "marks": marks})
    with whole_file(file) as place:
        np.savez(place, np.array(text), *arrays)


def read_batches(file: Path) -> Training:
    """Reads what `write_batches` wrote.

    Args:
        file: The file.
    """
    with np.load(file, allow_pickle=False) as stored:
        text, *arrays = (stored[name] for name in stored.files)
    found = json.loads(str(text))

    def filled(each: Any) -> Any:
        if not isinstance(each, dict):
            return None if each is None else arrays[each]
        ((kind, parts),) = each.items()
        if kind == "dict":
            return {name: filled(value) for name, value in parts.items()}
        return (list if kind == "list" else tuple)(map(filled, parts))

    return Training(filled(found["batches"]), filled(found["called"]), found["marks"])


def cut(batches: list[Batch], size: int) -> list[Batch]:
    """Returns batches of at most this many examples, where all arrays have as many."""
    if examples_in(batches) is None:
        return batches
    return [mapped(lambda each: each[:size], batch) for batch in batches]


def examples_in(structure: Any) -> int | None:
    """The number of examples that all arrays have, or None where they have others, such as the edges of a graph."""
    sizes = {np.shape(each)[:1] for each in arrays_of(structure)}
    return sizes.pop()[0] if len(sizes) == 1 and sizes != {()} else None


def all_inputs(batches: list[Batch]) -> list[Batch]:
    """Returns batches that are inputs alone, where a step of somebody's own takes what a data set gives as these."""
    return [(tuple(each for each in batch if each is not None), None, None) for batch in batches]


def arrays_of(structure: Any) -> list[Any]:
    """The leaves of a structure but for None."""
    return [each for each in keras.tree.flatten(structure) if each is not None]


def _first_of(arguments: Mapping[str, Any], size: int | None, steps: int) -> list[Batch]:
    """The first batches of what `fit` is given, in the order of the data; the same ones again where there are fewer."""
    x, y, weights, of_classes = (arguments.get(name) for name in ("x", "y", "sample_weight", "class_weight"))
    if _is_dataset(x):
        # A DataLoader gives a batch as a list.
        given = [tuple(each) if isinstance(each, list) else each for each in islice(_each(x), steps)]
        given = [(*each[:2], of_classes) for each in given] if of_classes else given
    else:
        given = _batches_of_arrays(x, y, weights, of_classes, size or DEFAULT_BATCH_SIZE, steps)
    batches = [_as_batch(each) for each in given]
    if not batches:
        raise InvalidArgumentError("--data", expected="at least one batch", received=x)
    return list(islice(cycle(batches), steps))


def _batches_of_arrays(  # noqa: PLR0913, PLR0917 - those of `fit`.
    x: Any, y: Any, weights: Any, of_classes: Any, size: int, steps: int
) -> list[Any]:
    # Only as many examples as are needed: conversion would copy all.
    x, y, weights = mapped(lambda each: as_array(each[: size * steps]), (x, y, weights))
    words = holds_text(x)
    # Keras's own batches hold numbers: words are taken by theirs.
    inputs = np.arange(len(keras.tree.flatten(x)[0])) if words else x
    rows = as_batches((inputs, y), size, shuffle=False, sample_weight=weights, class_weight=of_classes)
    if rows is None:
        raise InvalidArgumentError("--data", expected=_FORM, received=mapped(np.shape, (x, y)))
    found = list(islice(_each(rows), steps))
    if words:
        parts = [each if isinstance(each, tuple) else (each,) for each in found]
        found = [(mapped(lambda each: each[part[0]], x), *part[1:]) for part in parts]  # noqa: B023 - used at once.
    return found


def holds_text(structure: Any) -> bool:
    """Tells whether an array of words is among these.

    Args:
        structure: Arrays, or structures of arrays.
    """
    arrays = map(np.asarray, arrays_of(structure))
    return any(each.ndim > 0 and each.dtype.kind in "OSU" for each in arrays)  # A sparse array is one object.


def _is_dataset(x: Any) -> bool:
    return isinstance(x, keras.utils.PyDataset) or any(hasattr(x, each) for each in _OF_DATA_SETS)


_OF_DATA_SETS = ("__next__", "as_numpy_iterator", "batch_sampler", "element_spec")
"""What a generator has, a `tf.data.Dataset`, a `DataLoader`, and another data set of TensorFlow's."""


def _each(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        return (data[number] for number in range(len(data)))
    return iter(data)


def _as_batch(given: Any) -> Batch:
    parts = given if isinstance(given, tuple) else (given,)
    if not 1 <= len(parts) <= 3 or parts[0] is None:  # noqa: PLR2004 - x, y and weights.
        raise InvalidArgumentError("--data", expected=_FORM, received=given)
    x, y, weights = mapped(lambda each: as_array(each) if is_array_like(each) else each, (*parts, None, None)[:3])
    if _are_of_classes(weights):
        weighed = as_batches((x, y), len(keras.tree.flatten(y)[0]), shuffle=False, class_weight=weights)
        weights = None if weighed is None else weighed[0][2]
    return x, y, weights


def _are_of_classes(weights: Any) -> bool:
    # Those of examples are by the names of outputs.
    return isinstance(weights, dict) and all(isinstance(each, int) for each in weights)


def numbers_alone(batches: list[Batch]) -> list[Batch]:
    """Returns the batches, if they hold numbers alone.

    Args:
        batches: Batches, which may hold words.

    Raises:
        InvalidArgumentError: They hold something else.
    """
    for leaf in arrays_of(batches):
        words = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OSU"
        if words or not (isinstance(leaf, np.ndarray | bool | int | float)):
            raise InvalidArgumentError(
                "--data",
                expected="arrays of numbers, which every backend takes",
                received=leaf.dtype if isinstance(leaf, np.ndarray) else type(leaf).__name__,
                advice="Make sparse arrays dense, pad ragged ones, and look words up before they reach the model.",
            )
    return batches
