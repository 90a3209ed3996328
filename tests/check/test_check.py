"""`dlf check` on code as people write it."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
from click.testing import CliRunner

from dlf.check.check import check_source
from dlf.cli.check import check
from dlf.utils.errors import InvalidArgumentError

pytestmark = pytest.mark.once


def rules_of(folder: Path, code: str, name: str = "model.py") -> list[tuple[int, str, str]]:
    file = folder / name
    file.write_text(dedent(code))
    return [(each.line, each.rule, each.code) for each in check_source(file).findings]


def test_what_a_layer_calls_is_read_with_what_it_is_given(tmp_path: Path) -> None:
    assert rules_of(
        tmp_path,
        """\
        import keras
        import numpy as np
        import tensorflow as tf

        def norm(x):
            return tf.norm(x)

        def table(size):
            return np.arange(size)

        class Layer(keras.layers.Layer):
            def build(self, input_shape):
                self.table = table(input_shape[-1])

            def call(self, inputs, training=None, mask=None):
                if training and mask is not None:
                    inputs = inputs * np.sqrt(self.size)
                a, b = self.split(inputs)
                return norm(a) + b

            def split(self, x):
                return tf.split(x, 2)
        """,
    ) == [(6, "tensorflow-op", "tf.norm"), (22, "tensorflow-op", "tf.split")]


def test_what_is_fine_is_left_alone(tmp_path: Path) -> None:
    assert (
        rules_of(
            tmp_path,
            """\
            import keras
            import numpy as np
            import tensorflow as tf
            from keras import ops

            def prepare(image, label):
                return tf.cast(image, tf.float32) / 255.0, tf.one_hot(label, 10)

            data = tf.data.Dataset.from_tensor_slices((np.zeros((8, 4)), np.zeros(8, "int32"))).map(prepare).batch(4)
            print(tf.reduce_mean(np.ones(3)), tf.config.list_physical_devices())

            class Layer(keras.layers.Layer):
                def __init__(self, rate, **options):
                    super().__init__(**options)
                    self.scale = np.sqrt(rate)
                    self.blocks = [keras.layers.Dense(4) for _ in range(3)]

                def call(self, inputs, training=False):
                    if isinstance(inputs, list) and len(inputs) == 2:
                        inputs = inputs[0]
                    size = ops.shape(inputs)[-1]
                    if size > 3 and training:
                        inputs = inputs / np.prod(inputs.shape[1:])
                    outputs = []
                    for block in self.blocks:
                        outputs.append(block(inputs))
                    if not outputs:
                        return inputs
                    return ops.stack(outputs)[:, 0] * self.scale

            def build():
                inputs = keras.Input((4,))
                return keras.Model(inputs, Layer(0.5)(inputs))

            model = build()
            model.compile("adam", "mse")
            predicted = np.argmax(model.predict(np.zeros((8, 4))), axis=-1)
            """,
        )
        == []
    )


def test_code_for_one_backend_that_asks_for_it_first_is_left_alone(tmp_path: Path) -> None:
    assert (
        rules_of(
            tmp_path,
            """\
            import keras

            class Model(keras.Model):
                def train_step(self, *args):
                    if keras.backend.backend() == "tensorflow":
                        return self.train_step_of_tensorflow(*args)
                    return self.train_step_of_torch(*args)

                def train_step_of_tensorflow(self, data):
                    import tensorflow as tf
                    with tf.GradientTape() as tape:
                        return tf.reduce_mean(self(data))

                def train_step_of_torch(self, data):
                    import torch
                    with torch.no_grad():
                        return torch.mean(self(data))

            if keras.config.backend() == "jax":
                import jax
                step = jax.value_and_grad(sum)
            """,
        )
        == []
    )


def test_functional_models_losses_and_lambdas_are_read(tmp_path: Path) -> None:
    assert rules_of(
        tmp_path,
        """\
        import keras
        import tensorflow as tf
        from tensorflow.keras import backend as K

        def dice(y_true, y_pred):
            return 1 - K.sum(y_true * y_pred)

        def focal(gamma):
            def loss(y, p):
                return tf.reduce_mean((y - p) ** gamma)
            return loss

        def make():
            x = keras.Input((4,))
            y = keras.layers.Dense(3)(x)
            y = tf.concat([y, y], axis=-1)
            y = keras.layers.Lambda(lambda each: tf.square(each))(y)
            model = keras.Model(x, y)
            model.compile("adam", focal(2.0), metrics=[dice])
            return model
        """,
    ) == [
        (6, "keras-backend", "keras.backend.sum"),
        (10, "tensorflow-op", "tf.reduce_mean"),
        (16, "tensorflow-op", "tf.concat"),
        (17, "tensorflow-op", "tf.square"),
    ]


IN_PLACE = """\
import keras
from keras import ops

class Layer(keras.layers.Layer):
    def call(self, x):
        shortcut = self.dense(x)
        y = shortcut
        y += 1.0
        z = ops.sigmoid(y)
        z -= 0.5
        w = ops.matmul(z, z)
        w += 1.0
        x *= 2
        return w + shortcut
"""


def test_a_tensor_that_has_another_name_is_not_changed_in_place(tmp_path: Path) -> None:
    assert rules_of(tmp_path, IN_PLACE) == [
        (8, "item-assignment", "y += 1.0"),
        (10, "item-assignment", "z -= 0.5"),
        (13, "item-assignment", "x *= 2"),
    ]


def test_methods_are_read_from_wherever_they_are_called(tmp_path: Path) -> None:
    assert rules_of(
        tmp_path,
        """\
        import keras
        import tensorflow as tf

        class Coder(keras.Model):
            def encode(self, x):
                return tf.split(x, 2)

        coder = Coder()

        def loss(x):
            with tf.GradientTape() as tape:
                return coder.encode(x)

        class Trainer:
            def step(self, x):
                with tf.GradientTape() as tape:
                    return tf.reduce_mean(x)

        class Later(keras.Model):
            pass

        def call(self, inputs):
            return tf.exp(inputs)

        Later.call = call
        """,
    ) == [
        (6, "tensorflow-op", "tf.split"),
        (11, "own-gradient", "tf.GradientTape"),
        (16, "own-gradient", "tf.GradientTape"),
        (17, "tensorflow-op", "tf.reduce_mean"),
        (23, "tensorflow-op", "tf.exp"),
    ]


def test_arguments_that_a_function_of_keras_does_not_have_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(
        "import keras, tensorflow as tf\nfrom keras import ops\nx = keras.Input((2, 3))\n"
        "y = ops.transpose(x, perm=(0, 2, 1))\nz = tf.matmul(x, y, transpose_b=True)\nw = tf.argmax(x, axis=1)\n"
        "keras.callbacks.ModelCheckpoint('best.h5', save_weights_only=True)\n"
    )
    assert [(each.line, each.rule, each.advice) for each in check_source(file).findings] == [
        (4, "gone-argument", "one of keras.ops.transpose's own arguments: x, axes"),
        (5, "tensorflow-op", "keras.ops.matmul, which takes x1, x2, and not transpose_b="),
        (6, "tensorflow-op", "keras.ops.argmax"),
        (7, "saved-model", "a file name that ends in .weights.h5"),
    ]


def test_what_outlives_the_trace_is_state_and_what_does_not_is_none(tmp_path: Path) -> None:
    assert rules_of(
        tmp_path,
        """\
        import keras

        class Layer(keras.layers.Layer):
            def __init__(self, p=1.0):
                super().__init__()
                self.p = self.add_weight(shape=()) if p is None else p
                if not isinstance(p, float) or p != 1:
                    self.seen = []

            def call(self, x):
                self.within = keras.ops.exp(x)
                self.seen.append(x)
                self.before = self.before + x
                return self.helper()

            def helper(self):
                return self.within

            def report(self):
                return self.seen
        """,
    ) == [(12, "state-in-call", "self.seen = ..."), (13, "state-in-call", "self.before = ...")]


def test_functions_of_pipelines_of_numpy_and_behind_a_return_are_left_alone(tmp_path: Path) -> None:
    assert (
        rules_of(
            tmp_path,
            """\
            import keras
            import numpy as np
            import tensorflow as tf

            @tf.function
            def resize(image):
                return tf.image.resize(image, (8, 8))

            data = tf.data.Dataset.from_tensor_slices(np.zeros((4, 9, 9, 1))).map(lambda image: resize(image))

            def score(y_true, y_pred):
                return np.mean(np.abs(y_true - y_pred))

            def broken(y_true, y_pred):
                raise NotImplementedError
                return tf.exp(y_pred)

            class Layer(keras.layers.Layer):
                def call(self, x):
                    name = keras.backend.backend()
                    if name == "tensorflow":
                        return tf.nn.relu(x)
                    return keras.ops.relu(x)
            """,
        )
        == []
    )


def test_files_of_a_folder_may_import_from_one_another(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text("import keras\nclass Base(keras.layers.Layer):\n    pass\n")
    (package / "maths.py").write_text("import tensorflow as tf\ndef half(x):\n    return tf.divide(x, 2)\n")
    (package / "layers.py").write_text(
        "from .base import Base\nfrom package import maths\n"
        "class Half(Base):\n    def call(self, x):\n        return maths.half(x)\n"
    )
    environment = tmp_path / "env"
    environment.mkdir()
    (environment / "pyvenv.cfg").write_text("")
    (environment / "other.py").write_text("not python at all")

    result = check_source(tmp_path)

    assert [(Path(each.path).name, each.line, each.advice) for each in result.findings] == [
        ("maths.py", 3, "keras.ops.divide")
    ]
    assert (result.files, result.not_read) == (4, {})


def test_a_notebook_is_read_by_its_cells(tmp_path: Path) -> None:
    cells = [
        ("markdown", "# Title"),
        ("code", "!pip install keras\nimport keras, tensorflow as tf"),
        ("code", "%%time\nx = keras.Input((2,))\ny = tf.exp(x)"),
    ]
    file = tmp_path / "lesson.ipynb"
    file.write_text(json.dumps({"cells": [{"cell_type": kind, "source": [text]} for kind, text in cells]}))

    (found,) = check_source(file).findings

    assert (found.place, found.advice) == (f"{file}:cell 2:3:5", "keras.ops.exp")


def test_a_comment_leaves_a_line_out(tmp_path: Path) -> None:
    code = """\
        import keras, tensorflow as tf
        x = keras.Input((2,))
        a = tf.exp(x)  # dlf: ignore
        b = tf.exp(x)  # dlf: ignore[tensorflow-op]
        c = tf.exp(x)  # dlf: ignore[numpy-op]
        """
    assert [line for line, *_ in rules_of(tmp_path, code)] == [5]


def test_the_command_prints_what_to_write_and_says_what_was_not_read(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import keras, tensorflow as tf\nx = keras.Input((2,))\ny = tf.reduce_sum(x)\n")
    (tmp_path / "old.py").write_text("print 'Python 2'\n")

    ran = CliRunner().invoke(check, [str(tmp_path)])
    assert ran.return_value is None or ran.exit_code in {0, 1}
    assert f"{tmp_path}/model.py:3:5: tf.reduce_sum [tensorflow-op] write keras.ops.sum" in ran.output
    assert "old.py was not read: line 1: " in ran.output
    assert ran.output.endswith("1 place in 1 file to change: tensorflow-op (1). 1 could not be read.\n")

    found = json.loads(CliRunner().invoke(check, [str(tmp_path), "--json"]).stdout)
    assert [(each["line"], each["column"], each["rule"]) for each in found["findings"]] == [(3, 5, "tensorflow-op")]
    assert list(found["not_read"]) == [str(tmp_path / "old.py")]


@pytest.mark.parametrize(
    ("findings", "files", "code"), [("y = tf.exp(x)", 1, 1), ("y = 1", 1, 0), ("y = = 1", 0, 3), (None, 0, 3)]
)
def test_exit_codes(findings: str | None, files: int, code: int, tmp_path: Path) -> None:
    if findings is not None:
        (tmp_path / "a.py").write_text(f"import keras, tensorflow as tf\nx = keras.Input((2,))\n{findings}\n")

    result = check_source(tmp_path)

    assert (result.files, result.exit_code) == (files, code)


def test_what_is_no_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_text("")
    with pytest.raises(InvalidArgumentError, match="It is not there"):
        check_source(tmp_path / "nowhere.py")
    with pytest.raises(InvalidArgumentError, match=r"expected a \.py file, an \.ipynb notebook or a folder"):
        check_source(tmp_path / "model.keras")
