"""Takes and checks the gradients of a Keras model on any backend, and trains with them in a plain loop.

Try ``KERAS_BACKEND=torch python examples/any_model.py``, and then another backend: the same numbers, to rounding.
"""

import argparse
from collections.abc import Sequence

import dlf  # isort: skip  # Before Keras: it sees to it that Keras finds a backend that is installed.
import keras
import numpy as np


def build_model() -> keras.Model:
    """Builds a small convolutional net with batch normalization and dropout."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Takes the gradients, checks them, and trains by a plain loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args(argv)

    dlf.print_versions()
    dlf.set_seed(2025)
    model = build_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    digits = dlf.load_tfds_dataset("digits", split="train")
    images, labels = (np.stack(part) for part in zip(*digits.take(1024).as_numpy_iterator(), strict=True))
    x, y = images.astype("float32") / 255, labels.astype("int32")

    value, gradients = dlf.value_and_grad(model, loss)(x[:64], y[:64])
    print(f"\nthe loss at first: {value:.6f}")
    for name, gradient in gradients.items():
        print(f"  {name:<26}{gradient.shape!s:<14} norm {np.linalg.norm(gradient):.6f}")

    print(f"\n{dlf.check_gradients(model, (x[:64], y[:64]), loss=loss)}")

    loop = dlf.TrainingLoop(model, loss, keras.optimizers.Adam(1e-2))
    rows = np.random.default_rng(0).integers(len(x), size=(arguments.steps, 64))
    losses = [float(loop.step(x[row], y[row])) for row in rows]
    loop.finish()
    print(f"\nafter {arguments.steps} steps of a plain loop: {losses[-1]:.6f}")
    return losses


if __name__ == "__main__":
    main()
