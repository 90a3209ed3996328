"""The rules of `dlf check`: what ties code to one framework, with an example of each before and after the change.

The tests run every example with the Keras that is installed: ``before`` fails on some backend, or does not give the
same there; ``after`` gives the same values on all three. Each defines ``answer()``, which returns numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True)
class Rule:
    """One way in which code is tied to a framework, or to a Keras that is gone."""

    name: str
    what: str
    """What is wrong with it, as the end of a sentence that starts with the code."""
    fails_on: tuple[str, ...]
    """The backends on which `before` fails, or gives something else than `after`."""
    before: str
    after: str
    answer: Any
    """What `after` gives on every backend."""


_RULES = (
    Rule(
        "tensorflow-op",
        "computes on TensorFlow's tensors alone",
        fails_on=("jax", "torch"),
        before="""
import keras
import numpy as np
import tensorflow as tf

class Scale(keras.layers.Layer):
    def call(self, inputs):
        return inputs / tf.reduce_sum(inputs, axis=-1, keepdims=True)

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="ones"), Scale()])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]]))
    return model.get_weights()[0]
""",
        after="""
import keras
import numpy as np

class Scale(keras.layers.Layer):
    def call(self, inputs):
        return inputs / keras.ops.sum(inputs, axis=-1, keepdims=True)

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="ones"), Scale()])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]]))
    return model.get_weights()[0]
""",
        answer=[[0.9375, 1.0625], [0.8125, 1.1875]],
    ),
    Rule(
        "torch-op",
        "computes on PyTorch's tensors alone",
        fails_on=("jax", "tensorflow"),
        before="""
import keras
import numpy as np
import torch

class Twice(keras.layers.Layer):
    def call(self, inputs):
        return torch.cat([inputs, inputs], dim=-1)

def answer():
    return keras.Sequential([keras.Input((2,)), Twice()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

class Twice(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.concatenate([inputs, inputs], axis=-1)

def answer():
    return keras.Sequential([keras.Input((2,)), Twice()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        answer=[[1.0, 2.0, 1.0, 2.0]],
    ),
    Rule(
        "jax-op",
        "computes on JAX's arrays alone",
        fails_on=("tensorflow", "torch"),
        before="""
import keras
import numpy as np
import jax.numpy as jnp

class Root(keras.layers.Layer):
    def call(self, inputs):
        return jnp.sqrt(inputs)

def answer():
    return keras.Sequential([keras.Input((2,)), Root()]).predict(np.array([[1.0, 4.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

class Root(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.sqrt(inputs)

def answer():
    return keras.Sequential([keras.Input((2,)), Root()]).predict(np.array([[1.0, 4.0]]), verbose=0)
""",
        answer=[[1.0, 2.0]],
    ),
    Rule(
        "numpy-op",
        "is NumPy's, which is outside of the compiled step and of the gradient",
        fails_on=("jax", "tensorflow"),
        before="""
import keras
import numpy as np

class Exponential(keras.layers.Layer):
    def call(self, inputs):
        return np.exp(inputs)

def answer():
    return keras.Sequential([keras.Input((2,)), Exponential()]).predict(np.array([[0.0, 1.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

class Exponential(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.exp(inputs)

def answer():
    return keras.Sequential([keras.Input((2,)), Exponential()]).predict(np.array([[0.0, 1.0]]), verbose=0)
""",
        answer=[[1.0, 2.7182818]],
    ),
    Rule(
        "own-gradient",
        "takes a gradient in one framework's words",
        fails_on=("jax", "torch"),
        before="""
import keras
import numpy as np
import tensorflow as tf

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    x, y = np.array([[1.0, 2.0]], "float32"), np.array([[1.0]], "float32")
    optimizer = keras.optimizers.SGD(0.1)
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(keras.ops.square(model(x) - y))
    optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
    return model.get_weights()[0]
""",
        after="""
import dlf
import keras
import numpy as np

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    x, y = np.array([[1.0, 2.0]], "float32"), np.array([[1.0]], "float32")
    optimizer = keras.optimizers.SGD(0.1)
    loss, gradients = dlf.value_and_grad(model, "mse", as_numpy=False)(x, y)
    optimizer.apply(list(gradients.values()), model.trainable_variables)
    return model.get_weights()[0]
""",
        answer=[[0.6], [0.2]],
    ),
    Rule(
        "compiled-function",
        "compiles for one framework; Keras compiles the step itself",
        fails_on=("jax",),
        before="""
import keras
import numpy as np
import tensorflow as tf

class Double(keras.layers.Layer):
    @tf.function
    def call(self, inputs):
        return inputs * 2

def answer():
    return keras.Sequential([keras.Input((2,)), Double()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

class Double(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2

def answer():
    return keras.Sequential([keras.Input((2,)), Double()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        answer=[[2.0, 4.0]],
    ),
    Rule(
        "framework-variable",
        "is no variable of Keras's: it is not trained, not saved and not there on the other backends",
        fails_on=("jax",),
        before="""
import keras
import numpy as np
import tensorflow as tf

class Shift(keras.layers.Layer):
    def build(self, input_shape):
        self.shift = tf.Variable(tf.ones(input_shape[-1:]))

    def call(self, inputs):
        return inputs + self.shift

def answer():
    return keras.Sequential([keras.Input((2,)), Shift()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

class Shift(keras.layers.Layer):
    def build(self, input_shape):
        self.shift = self.add_weight(shape=input_shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs + self.shift

def answer():
    return keras.Sequential([keras.Input((2,)), Shift()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        answer=[[2.0, 3.0]],
    ),
    Rule(
        "tensor-method",
        "is not there on every backend's tensors",
        fails_on=("jax", "tensorflow"),
        before="""
import keras
import numpy as np

class Flat(keras.layers.Layer):
    def call(self, inputs):
        return inputs.view(-1, 4)

    def compute_output_shape(self, input_shape):
        return (None, 4)

def answer():
    return keras.Sequential([keras.Input((2, 2)), Flat()]).predict(np.ones((1, 2, 2)), verbose=0)
""",
        after="""
import keras
import numpy as np

class Flat(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.reshape(inputs, (-1, 4))

    def compute_output_shape(self, input_shape):
        return (None, 4)

def answer():
    return keras.Sequential([keras.Input((2, 2)), Flat()]).predict(np.ones((1, 2, 2)), verbose=0)
""",
        answer=[[1.0, 1.0, 1.0, 1.0]],
    ),
    Rule(
        "tensor-condition",
        "asks Python for a tensor's value, which is not known while JAX traces the step",
        fails_on=("jax", "tensorflow"),
        before="""
import keras
import numpy as np

class Positive(keras.layers.Layer):
    def call(self, inputs):
        if keras.ops.sum(inputs) > 0:
            return inputs
        return -inputs

    def compute_output_shape(self, input_shape):
        return input_shape

def answer():
    return keras.Sequential([keras.Input((2,)), Positive()]).predict(np.array([[1.0, -3.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

class Positive(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.where(keras.ops.sum(inputs) > 0, inputs, -inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

def answer():
    return keras.Sequential([keras.Input((2,)), Positive()]).predict(np.array([[1.0, -3.0]]), verbose=0)
""",
        answer=[[-1.0, 3.0]],
    ),
    Rule(
        "shape-by-values",
        "gives as many elements as there are values of a kind, which is not known while JAX traces the step",
        fails_on=("jax",),
        before="""
import keras
import numpy as np

class Positive(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.sum(keras.ops.take(inputs, keras.ops.where(inputs[0] > 0)[0], axis=1), axis=1)

    def compute_output_shape(self, input_shape):
        return input_shape[:1]

def answer():
    return keras.Sequential([keras.Input((3,)), Positive()]).predict(np.array([[1.0, -3.0, 2.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

class Positive(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.sum(keras.ops.where(inputs[0] > 0, inputs, 0.0), axis=1)

    def compute_output_shape(self, input_shape):
        return input_shape[:1]

def answer():
    return keras.Sequential([keras.Input((3,)), Positive()]).predict(np.array([[1.0, -3.0, 2.0]]), verbose=0)
""",
        answer=[3.0],
    ),
    Rule(
        "item-assignment",
        "changes a tensor in place, which only PyTorch's can be",
        fails_on=("jax", "tensorflow"),
        before="""
import keras
import numpy as np

class Zeroed(keras.layers.Layer):
    def call(self, inputs):
        outputs = keras.ops.copy(inputs)
        outputs[:, 0] = 0.0
        return outputs

    def compute_output_shape(self, input_shape):
        return input_shape

def answer():
    return keras.Sequential([keras.Input((2,)), Zeroed()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

class Zeroed(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.slice_update(inputs, (0, 0), keras.ops.zeros_like(inputs[:, :1]))

    def compute_output_shape(self, input_shape):
        return input_shape

def answer():
    return keras.Sequential([keras.Input((2,)), Zeroed()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        answer=[[0.0, 2.0]],
    ),
    Rule(
        "state-in-call",
        "changes an attribute while the step is traced: that happens once on JAX and TensorFlow, and not at every step",
        fails_on=("jax", "tensorflow", "torch"),
        before="""
import keras
import numpy as np

class Counted(keras.layers.Layer):
    calls = 0

    def call(self, inputs):
        self.calls += 1
        return inputs * self.calls

def answer():
    layer = Counted()
    return keras.Sequential([keras.Input((1,)), layer]).predict(np.ones((6, 1)), batch_size=1, verbose=0)
""",
        after="""
import keras
import numpy as np

class Counted(keras.layers.Layer):
    def build(self, input_shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs):
        self.calls.assign_add(1.0)
        return inputs * self.calls

def answer():
    layer = Counted()
    return keras.Sequential([keras.Input((1,)), layer]).predict(np.ones((6, 1)), batch_size=1, verbose=0)
""",
        answer=[[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]],
    ),
    Rule(
        "assign-in-branch",
        "assigns in a branch or a loop of keras.ops: on JAX in every case, on TensorFlow it may fail",
        fails_on=("jax", "tensorflow"),
        before="""
import keras
import numpy as np

class Capped(keras.layers.Layer):
    def build(self, input_shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs):
        def begin():
            self.calls.assign(0.0)

        keras.ops.cond(self.calls > 2, begin, lambda: None)
        self.calls.assign_add(1.0)
        return inputs * self.calls

def answer():
    return keras.Sequential([keras.Input((1,)), Capped()]).predict(np.ones((5, 1)), batch_size=1, verbose=0)
""",
        after="""
import keras
import numpy as np

class Capped(keras.layers.Layer):
    def build(self, input_shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs):
        self.calls.assign(keras.ops.where(self.calls > 2, 1.0, self.calls + 1.0))
        return inputs * self.calls

def answer():
    return keras.Sequential([keras.Input((1,)), Capped()]).predict(np.ones((5, 1)), batch_size=1, verbose=0)
""",
        answer=[[1.0], [2.0], [3.0], [1.0], [2.0]],
    ),
    Rule(
        "random-in-call",
        "draws numbers that would be fixed when JAX traces the step",
        fails_on=("jax", "tensorflow"),
        before="""
import keras
import numpy as np

class Noise(keras.layers.Layer):
    def call(self, inputs):
        return inputs + np.random.uniform(size=(1, 1000))

def answer():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((1000,)), Noise()])
    first, second = np.split(model.predict(np.zeros((2, 1000)), batch_size=1, verbose=0), 2)
    return np.mean(first != second) > 0.5
""",
        after="""
import keras
import numpy as np

class Noise(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, inputs):
        return inputs + keras.random.uniform((1, 1000), seed=self.seed_generator)

def answer():
    model = keras.Sequential([keras.Input((1000,)), Noise()])
    first, second = np.split(model.predict(np.zeros((2, 1000)), batch_size=1, verbose=0), 2)
    return np.mean(first != second) > 0.5
""",
        answer=True,
    ),
    Rule(
        "keras-backend",
        "was Keras 2's, and is TensorFlow's alone where it is still there",
        fails_on=("jax", "torch"),
        before="""
import keras
import numpy as np
from tensorflow.keras import backend as K

class Mean(keras.layers.Layer):
    def call(self, inputs):
        return K.mean(inputs, axis=-1)

def answer():
    return keras.Sequential([keras.Input((2,)), Mean()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

class Mean(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.mean(inputs, axis=-1)

def answer():
    return keras.Sequential([keras.Input((2,)), Mean()]).predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        answer=[1.5],
    ),
    Rule(
        "gone-name",
        "is not in the Keras that is installed",
        fails_on=("jax", "tensorflow", "torch"),
        before="""
import keras
import numpy as np

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.experimental.preprocessing.Rescaling(0.5)])
    return model.predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        after="""
import keras
import numpy as np

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(0.5)])
    return model.predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        answer=[[0.5, 1.0]],
    ),
    Rule(
        "gone-argument",
        "is an argument that Keras 3 does not take",
        fails_on=("jax", "tensorflow", "torch"),
        before="""
import keras

def answer():
    return keras.optimizers.Adam(lr=0.5).learning_rate
""",
        after="""
import keras

def answer():
    return keras.optimizers.Adam(learning_rate=0.5).learning_rate
""",
        answer=0.5,
    ),
    Rule(
        "gone-method",
        "is a method or an attribute that Keras 3 does not have",
        fails_on=("jax", "tensorflow", "torch"),
        before="""
import keras
import numpy as np

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    return model.predict_proba(np.array([[1.0, 2.0]]))
""",
        after="""
import keras
import numpy as np

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    return model.predict(np.array([[1.0, 2.0]]), verbose=0)
""",
        answer=[[3.0]],
    ),
    Rule(
        "saved-model",
        "saves or loads what only TensorFlow can read",
        fails_on=("jax", "tensorflow", "torch"),
        before="""
import tempfile
import keras

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    folder = tempfile.mkdtemp()
    model.save(folder + "/model")
    return keras.models.load_model(folder + "/model").get_weights()[0]
""",
        after="""
import tempfile
import keras

def answer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    folder = tempfile.mkdtemp()
    model.save(folder + "/model.keras")
    return keras.models.load_model(folder + "/model.keras").get_weights()[0]
""",
        answer=[[1.0], [1.0]],
    ),
    Rule(
        "ops-in-tf-data",
        "computes with the backend's operations inside of a tf.data pipeline, which has TensorFlow's tensors only",
        fails_on=("jax", "torch"),
        before="""
import keras
import numpy as np
import tensorflow as tf

def answer():
    data = tf.data.Dataset.from_tensor_slices(np.array([1.0, 2.0])).map(lambda x: keras.ops.square(x))
    return np.array(list(data.as_numpy_iterator()))
""",
        after="""
import keras
import numpy as np
import tensorflow as tf

def answer():
    data = tf.data.Dataset.from_tensor_slices(np.array([1.0, 2.0])).map(lambda x: tf.square(x))
    return np.array(list(data.as_numpy_iterator()))
""",
        answer=[1.0, 4.0],
    ),
)

RULES = {rule.name: rule for rule in _RULES}
"""The rules by their names, in the order in which they are documented."""
