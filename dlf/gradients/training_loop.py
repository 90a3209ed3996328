"""Training without Keras's trainer: the plain loop of each framework, on any Keras model.

Requirements:

* the step is the one in the backend's own `training_loop.py`, which can be read, copied and changed;
* it makes the same update as Keras's `train_on_batch`;
* a gradient that is not finite is reported with its variable and with the first step where that happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from dlf.backend.protocol import Lesson
from dlf.gradients.value_and_grad import find_path
from dlf.models.by_name import find_optimizer
from dlf.models.model_loss import check_model, has_own, loss_function, to_numpy
from dlf.random.seed import randomness_as_seeded
from dlf.utils.errors import InvalidArgumentError, TrainingError, check_positive

__all__ = ["TrainingLoop"]


class TrainingLoop:
    """Trains any Keras model by a plain loop: gradients by the framework's own means, and an optimizer's update.

    A step computes the loss ``L`` over a batch, including regularizers and `add_loss`, and its gradients ``∂L/∂θ`` by
    every trainable variable ``θ``, which it gives to the optimizer. On JAX the optimizer is one of optax, and
    `dlf.optax_for` turns a Keras optimizer into its optax equivalent. Batch statistics and dropout seeds advance from
    step to step, as in Keras.

    Args:
        model: A built Keras model; it need not be compiled. It has the trained weights once `finish` has returned.
        loss: As in Keras's `compile`; None stands for the model's own `compute_loss` if it has one, and otherwise for
            the loss that it was compiled with, including its `loss_weights`.
        optimizer: A name or an optimizer of Keras; on JAX also any optax transformation.
        path: The gradient path: on JAX ``"grad"`` or ``"nnx"``; None is the backend's first.

    Raises:
        InvalidArgumentError: The model is not built or has nothing to train; the loss, optimizer or path does not
            exist; the optimizer scales the loss; or the path cannot train by a `compute_loss` of the model's own.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        >>> loop = TrainingLoop(model, "mse", keras.optimizers.SGD(0.25))
        >>> x, y = np.ones((4, 1), "float32"), np.full((4, 1), 2.0, "float32")
        >>> losses = loop.fit([(x, y)], epochs=2)
        >>> losses
        [4.0, 0.0]
        >>> float(loop.finish().get_weights()[0][0, 0])
        1.0

    Source: the files `training_loop.py` of the backends.
    """

    def __init__(
        self, model: keras.Model, loss: Any = None, optimizer: Any = "adam", *, path: str | None = None
    ) -> None:
        check_model(model)
        chosen = find_path(path)
        if not isinstance(chosen, Lesson):
            raise InvalidArgumentError("path", expected="a gradient path with a training loop", received=path)
        self.model, self._loop = model, chosen.training_loop
        own = self._loop.find_optimizer(_known(optimizer), model)
        by_itself = loss is None and has_own(model, "compute_loss")
        self._step = self._loop.make_step(model, None if by_itself else loss_function(loss, model), own)
        self._state = self._loop.start(model, own)
        self.steps = 0
        """The number of steps taken so far."""

    def step(self, x: Any, y: Any = None) -> Any:
        """Takes one step on one batch, and returns its loss as the framework's own scalar, without waiting for it.

        Args:
            x: The inputs.
            y: The targets; None for a model whose `compute_loss` takes none.

        Returns:
            The scalar loss, computed with the parameters from before the update.

        Example:
            >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
            >>> loop = TrainingLoop(model, "mse", keras.optimizers.SGD(0.25))
            >>> float(loop.step(np.ones((4, 1), "float32"), np.full((4, 1), 2.0, "float32")))
            4.0
        """
        with randomness_as_seeded():
            return self._take(x, y)[0]

    def fit(self, batches: Iterable[tuple[Any, ...]], epochs: int = 1) -> list[float]:
        """Goes through the batches, and returns the mean loss over the steps of each epoch.

        Args:
            batches: Pairs ``(x, y)``, or ``(x,)`` for a model whose `compute_loss` takes no targets; a list, what
                `dlf.prepare_for_training` returns, or a `tf.data.Dataset`.
            epochs: How many times to go through the batches.

        Returns:
            The mean loss of each epoch.

        Raises:
            InvalidArgumentError: There are no batches, or they are not pairs.
            TrainingError: A gradient is NaN or infinite; the message names the first step and the variables.

        Example:
            >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
            >>> batch = np.ones((4, 1), "float32"), np.full((4, 1), 2.0, "float32")
            >>> TrainingLoop(model, "mse", keras.optimizers.SGD(0.25)).fit([batch], epochs=2)
            [4.0, 0.0]
        """
        check_positive("epochs", epochs)
        means = []
        with randomness_as_seeded():
            for _ in range(epochs):
                first = self.steps
                taken = [self._take(*_pair(batch)) for batch in _reading(batches)]
                if not taken:
                    raise InvalidArgumentError("batches", expected="at least one batch in each epoch", received=batches)
                # Checked once per epoch: a check at each step would make every step wait for the device.
                self._check_finite(first, [to_numpy(finite) for _, finite in taken])
                means.append(float(np.mean([to_numpy(loss) for loss, _ in taken], dtype=np.float64)))
        return means

    def finish(self) -> keras.Model:
        """Writes the trained weights into the model, and returns it; training can go on afterwards.

        Returns:
            The model that the loop was made for.

        Example:
            >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
            >>> TrainingLoop(model, "mse").finish() is model
            True
        """
        self._loop.finish(self.model, self._state)
        return self.model

    def _take(self, x: Any, y: Any) -> tuple[Any, Any]:
        self._state, loss, finite = self._step(self._state, x, y)
        self.steps += 1
        return loss, finite

    def _check_finite(self, first: int, finite: list[np.ndarray]) -> None:
        for number, flags in enumerate(finite):
            if not flags.all():
                names = self._loop.names(self.model, self._state)
                bad = [name for name, good in zip(names, flags, strict=True) if not good]
                raise TrainingError(
                    f"the gradient of {', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''}: expected numbers, "  # noqa: PLR2004
                    f"received NaN or infinity, first at step {first + number}. Lower the learning rate, and look for "
                    "NaN in that batch."
                )


def _known(optimizer: Any) -> Any:
    """Returns the optimizer of a name, and any other as it is: the framework's own loop decides whether it knows it."""
    if isinstance(optimizer, str):
        return find_optimizer(optimizer)
    if isinstance(optimizer, type):
        raise InvalidArgumentError(
            "optimizer",
            expected="an optimizer, or the name of one",
            received=optimizer,
            advice=f"This is a class: write {optimizer.__name__}().",
        )
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    # The optimizer would divide the gradients by its factor, but nothing here multiplies the loss by that.
    if scales or getattr(optimizer, "loss_scale_factor", None) is not None:
        raise InvalidArgumentError(
            "optimizer",
            expected="one that does not scale the loss",
            received=optimizer,
            advice="Give the optimizer inside, without loss_scale_factor.",
        )
    return optimizer


def _reading(batches: Any) -> Iterator[Any]:
    if not isinstance(batches, keras.utils.PyDataset):
        yield from batches.as_numpy_iterator() if hasattr(batches, "as_numpy_iterator") else batches
        return
    batches.on_epoch_begin()
    for index in range(len(batches)):
        yield batches[index]
    # This is where a `PyDataset` may draw the order of the next epoch.
    batches.on_epoch_end()


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, tuple) and len(batch) == 1:
        return batch[0], None
    if not isinstance(batch, tuple | list) or len(batch) != 2:  # noqa: PLR2004 - a pair.
        raise InvalidArgumentError(
            "batches",
            expected="pairs (x, y)",
            received=batch,
            advice="Put a batch in a list: fit([(x, y)])."
            if hasattr(batch, "shape")
            else "For sample weights, copy the backend's training_loop.py and give them to the loss there.",
        )
    return batch[0], batch[1]
