"""The lab, from data to plots, with dlf's helpers: the same lines on TensorFlow, JAX and PyTorch.

Try ``KERAS_BACKEND=torch python examples/lab.py``, and then another backend: nothing else changes.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import dlf  # isort: skip  # Before Keras: it sees to it that Keras finds a backend that is installed.
import keras


def prepare(image: Any, label: Any) -> tuple[Any, Any]:
    """Scales an image's bytes to floats from 0 to 1."""
    return keras.ops.cast(image, "float32") / 255.0, label


def build_model(image_shape: Sequence[int], num_classes: int) -> keras.Model:
    """Builds a net with one hidden layer between the pixels and the logits, one for each class."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(num_classes),
        ]
    )


def main(argv: Sequence[str] | None = None) -> keras.callbacks.History:
    """Loads, prepares, builds, draws, trains and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="the embedded digits, or any data set of TFDS")
    parser.add_argument("--data-dir", help="a folder with the data set's IDX .gz files, or a prepared TFDS data set")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args(argv)

    dlf.print_versions()
    dlf.set_seed(2025)

    train_raw, info = dlf.load_tfds_dataset(
        arguments.dataset, split="train", with_info=True, data_dir=arguments.data_dir
    )
    test_raw = dlf.load_tfds_dataset(arguments.dataset, split="test", data_dir=arguments.data_dir)
    train_ds = dlf.prepare_for_training(train_raw.map(prepare), batch_size=64)
    test_ds = dlf.prepare_for_training(test_raw.map(prepare), batch_size=64, shuffle_buffer=None)

    model = build_model(info.features["image"].shape, info.features["label"].num_classes)
    callbacks, logdir = dlf.build_callbacks(patience=3)
    dlf.visualize_model(model, f"{logdir}/model.svg")
    history = dlf.compile_and_fit(
        model,
        train_ds,
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        epochs=arguments.epochs,
        validation_ds=test_ds,
        callbacks=callbacks,
    )
    dlf.plot_history(history, f"{logdir}/history.png")
    print(f"validation accuracy {max(history.history['val_accuracy']):.1%}; see {logdir}")
    return history


if __name__ == "__main__":
    main()
