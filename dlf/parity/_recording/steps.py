"""Hands one batch to Keras's own `fit`, and looks into a model's own `train_step`.

Requirements:

* a batch reaches the step in the form in which the script hands it over;
* a step that is only looked into leaves no trace: it updates nothing, and what it changes is put back;
* the gradients that a step takes are those of the very step that trains, compiled as Keras compiles it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import set_global_seed, variables_updated_by
from dlf.data.conversion import as_data_sets_give
from dlf.models.model_loss import has_own, to_numpy
from dlf.parity._recording.batches import Batch, examples_in
from dlf.parity._recording.taps import Listener, layer_calls_replaced
from dlf.training.engine.python_state import PythonState
from dlf.utils.attributes import replaced
from dlf.utils.trees import mapped

__all__ = ["GradientsOfStep", "called_in_step", "fit_on", "listened_to_step", "other_optimizers"]


def fit_on(model: keras.Model, batch: Batch, *, takes_all: bool = False, takes_batches: bool = False) -> Any:
    """Trains a model by Keras's own `fit` on one batch.

    Args:
        model: A compiled model.
        batch: The batch.
        takes_all: Whether the inputs are all that a step is given, as the data set has them.
        takes_batches: Whether it comes from a data set of batches, and not from arrays.

    Returns:
        The history: for each metric, the list of its one value.
    """
    x, y, weights = batch
    examples = examples_in(batch)
    # Of arrays, `fit` would put a tuple of inputs into another.
    if examples is not None and not (takes_batches or takes_all):
        options = {"sample_weight": weights, "batch_size": examples, "shuffle": False}
        return model.fit(x, y, verbose=0, **options).history
    packed = x if takes_all else keras.utils.pack_x_y_sample_weight(*batch)
    return model.fit(_OneBatch(packed), verbose=0).history


def called_in_step(model: keras.Model, batch: Batch, *, takes_all: bool = False) -> Any:
    """Returns what the model's own `train_step` calls it on first, as arrays; None if that cannot be found.

    A step of contrastive learning calls the model on halves of its batch, one of translation on the target too.

    Args:
        model: A compiled model, whose variables need not be made yet.
        batch: The batch that the step is given.
        takes_all: As for `fit_on`.
    """
    if not model.compiled or not has_own(model, "train_step"):
        return None
    in_step = False

    def begin() -> None:
        nonlocal in_step
        in_step = True  # Before it, Keras calls the model to find its shapes.

    def call(original: Any, layer: keras.Layer, args: Any, kwargs: Any) -> Any:
        if layer is model and in_step:
            raise _SeenError(args, kwargs)
        return original(layer, *args, **kwargs)

    def apply(*_: Any, **__: Any) -> None:
        raise _SeenError

    try:
        with layer_calls_replaced(call), _leaving_no_trace(model, begin, apply):
            fit_on(model, batch, takes_all=takes_all)
    except _SeenError as seen:
        return _as_arrays(seen.given) if seen.alone else None
    except Exception:  # noqa: BLE001 - a step may raise anything, such as one in another framework's words.
        return None
    return None


def listened_to_step(model: keras.Model, fit: Callable[[], Any], listener: Listener) -> bool:
    """Lets a listener hear the layers that the model's own `train_step` calls, with values also inside of a gradient.

    Args:
        model: A compiled model, which has all its variables.
        fit: Trains it by one step.
        listener: Hears each call of its layers.

    Returns:
        Whether the step came through; if not, calls are missing.
    """
    in_step = False

    def begin() -> None:
        nonlocal in_step
        in_step = True
        set_global_seed(0)

    def call(original: Any, layer: keras.Layer, args: Any, kwargs: Any) -> Any:
        return listener.call(original, layer, args, kwargs) if in_step else original(layer, *args, **kwargs)

    with suppress(Exception), layer_calls_replaced(call), _leaving_no_trace(model, begin, lambda *_, **__: None):
        fit()
        return True
    return False


@contextmanager
def _leaving_no_trace(model: keras.Model, begin: Callable[[], None], apply: Callable[..., None]) -> Iterator[None]:
    """Lets the model's own step be run eagerly; afterwards everything is as it was.

    Args:
        model: A compiled model.
        begin: Called where the step begins.
        apply: What every optimizer does in place of an update.

    Raises:
        UnseenStateError: What the step changes may not be seen.
    """

    def step(*args: Any) -> Any:
        begin()
        return type(model).train_step(model, *args)

    state = PythonState(model)
    # On JAX, a training that does not end leaves none of them a value.
    held = [*model.variables, *model.metrics_variables, *getattr(model.optimizer, "variables", ())]
    values = [(each, to_numpy(each.value)) for each in held]
    gradients = [(each, getattr(each.value, "grad", None)) for each in model.trainable_variables]
    model.run_eagerly, model.train_step = True, step
    model.make_train_function(force=True)  # Otherwise one that was compiled before would be used again.
    try:
        with ExitStack() as stack:
            for each in (keras.optimizers.Optimizer, *_optimizers_of(model)):  # One may have an `apply` of its own.
                stack.enter_context(replaced(each, "apply", apply))
            yield
    finally:
        state.put_back()
        for variable, value in values:
            variable.assign(value)
        for variable, gradient in gradients:
            # PyTorch would add the next step's to what is left of this one.
            if getattr(variable.value, "grad", None) is not gradient:
                variable.value.grad = gradient
        model.train_function = None  # Keras makes it anew, in the mode that is asked for then.


def other_optimizers(model: Any) -> dict[str, Any]:
    """The optimizers that a model holds besides the one that it was compiled with, by attribute."""
    return {
        name: each
        for name, each in sorted(vars(model).items())
        if isinstance(each, keras.optimizers.Optimizer) and each is not model.optimizer
    }


def _optimizers_of(model: Any) -> list[Any]:
    return [each for each in (model.optimizer, *other_optimizers(model).values()) if each is not None]


class GradientsOfStep:
    """Hears the gradients that a model's own `train_step` gives its optimizers, in the step that Keras compiles.

    They leave the step among its logs, since nothing else leaves a compiled one, and Keras does not see them there.

    Args:
        model: A compiled model with a step of its own; it is changed for good.
        names: The names of its variables, in their order.
    """

    def __init__(self, model: keras.Model, names: Sequence[str]) -> None:
        self._model = model
        self._names = {id(variable): name for name, variable in zip(names, model.variables, strict=True)}
        self.taken: dict[str, np.ndarray] = {}
        """Those of the last step: by the number of the update in it, and the name of the variable."""
        model.train_step = self._step
        model.make_train_function(force=True)
        self._function = model.train_function
        model.train_function = self._train_function

    def stop(self) -> None:
        """Leaves the model to its own step alone: this one cannot hand them out."""
        del self._model.train_step
        self.taken, self._model.train_function = {}, None

    def _step(self, *args: Any) -> Any:
        found: dict[str, Any] = {}
        updates = count()

        def heard(optimizer: Any) -> Callable[..., Any]:
            apply = optimizer.apply

            def applied(grads: Any, trainable_variables: Any = None) -> Any:
                mine = variables_updated_by(optimizer) if trainable_variables is None else trainable_variables
                found.update(self._named(next(updates), grads, mine))
                return apply(grads, trainable_variables)

            return applied

        with ExitStack() as stack:
            for each in _optimizers_of(self._model):
                stack.enter_context(replaced(each, "apply", heard(each)))
            result = type(self._model).train_step(self._model, *args)
        return _with_logs(result, lambda logs: {**logs, **found})

    def _named(self, update: int, grads: Any, variables: Any) -> dict[str, Any]:
        pairs = [(self._names.get(id(variable)), each) for each, variable in zip(grads, variables, strict=False)]
        return {
            f"{_GRADIENT}{update}:{name}": keras.ops.convert_to_tensor(each)
            for name, each in pairs
            if name is not None and each is not None
        }

    def _train_function(self, *args: Any) -> Any:
        return _with_logs(self._function(*args), self._without_gradients)

    def _without_gradients(self, logs: Mapping[str, Any]) -> Any:
        mine = {name: value for name, value in logs.items() if name.startswith(_GRADIENT)}
        self.taken = {name.removeprefix(_GRADIENT): to_numpy(value) for name, value in mine.items()}
        return {name: value for name, value in logs.items() if name not in mine}


def _with_logs(result: Any, change: Callable[[Any], Any]) -> Any:
    """What a step returns, with its logs changed: on JAX, the state is beside them."""
    return (change(result[0]), *result[1:]) if isinstance(result, tuple) else change(result)


_GRADIENT = "dlf_gradient:"
"""What the names of gradients begin with among a step's logs."""


class _SeenError(BaseException):
    """The step has called the model, or would update it. No step's own `except Exception` holds it up."""

    def __init__(self, args: Any = (), kwargs: Any = None) -> None:
        super().__init__()
        self.alone = len(args) == 1 and (kwargs or {}).keys() <= {"training", "mask"}
        self.given = args[0] if self.alone else None


def _as_arrays(given: Any) -> Any:
    try:
        return mapped(to_numpy, given)
    except Exception:  # noqa: BLE001 - a tensor that is being traced, or is none of this framework.
        return None


class _OneBatch(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types.
    """A data set of one batch."""

    def __init__(self, batch: Any) -> None:
        super().__init__()
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return as_data_sets_give(self._batch)
