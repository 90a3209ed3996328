"""Random combinations of the table's parts; run as a program, it trains many and prints, reduced, each that differs.

Requirements:

* the same seed draws the same combinations on every backend and with every version of NumPy and Python;
* a combination that gives different results is reported with as few of its parts as still show the difference.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import pytest
import way_callbacks as seen
import way_data as data
import way_models as models
from rich.console import Console
from situations import BOTH, LOSS, limited, rate
from ways_of_training import Fresh, Situation, faults, record_soon

callbacks, optimizers = keras.callbacks, keras.optimizers
ON_TENSORFLOW = keras.config.backend() == "tensorflow"

VECTORS: dict[str, Callable[[], keras.Model]] = {
    "dense": models.dense,
    "noisy": models.noisy,
    "normalized": models.normalized,
    "regularized": models.regularized,
    "frozen": models.frozen,
    "shared": models.shared,
    "nested": models.nested,
    "deferred": models.deferred,
    "added loss": models.added_loss,
    "own step": models.own_step,
    "own metrics": models.own_metrics,
}
ARRAYS: dict[str, tuple[Callable[[], keras.Model], Callable[[], Any], Any]] = {
    "recurrent": (models.recurrent, data.series, LOSS),
    "convolutional": (models.convolutional, data.series, LOSS),
    "stateful": (models.stateful, data.series, LOSS),
    "masked": (models.masked, data.tokens, LOSS),
    "inputs in a list": (models.two_inputs, data.in_a_list, LOSS),
    "inputs in a tuple": (models.Unpacked, data.in_a_tuple, LOSS),
    "inputs by name": (models.named_inputs, data.by_name, LOSS),
    "outputs in a list": (models.two_outputs, data.two_labels, [LOSS, "mse"]),
    "outputs by name": (models.named_outputs, data.named_labels, BOTH),
    "weighed outputs": (models.named_outputs, data.named_weights, BOTH),
    **{name: (model, data.arrays, LOSS) for name, model in VECTORS.items()},
    "weighed examples": (models.dense, data.weighted, LOSS),
}
READ: dict[str, Callable[[], Any]] = {
    "a data set of one's own": data.Noted,
    "tf.data": data.as_tf_data,
    "tf.data, shuffled": lambda: data.as_tf_data(shuffled=True),
    "tf.data, unknown": lambda: data.as_tf_data(known=False),
    "dlf's batches": lambda: data.as_pipeline(shuffled=False),
    "a loader": data.as_loader,
    "a generator": data.endless,
}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: "sgd",
    "adam": lambda: optimizers.Adam(0.05),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "averaged": lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    "written back": lambda: optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "accumulating": lambda: optimizers.SGD(0.1, gradient_accumulation_steps=3),
    "clipped": lambda: optimizers.SGD(0.1, clipnorm=0.1),
    "clipped together": lambda: optimizers.RMSprop(0.02, global_clipnorm=0.1),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=32.0, dynamic_growth_steps=3),
    "scheduled": lambda: optimizers.SGD(optimizers.schedules.ExponentialDecay(0.2, 3, 0.7)),
    "decaying": lambda: optimizers.AdamW(0.02, weight_decay=0.1),
    "lion": lambda: optimizers.Lion(0.01),
}
CALLBACKS: dict[str, Callable[[Path], Any]] = {
    "every hook": lambda _: seen.Batches(),
    "early stopping": lambda _: callbacks.EarlyStopping("loss", patience=0, min_delta=0.5, restore_best_weights=True),
    "plateaus": lambda _: callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=1.0),
    "checkpoints": lambda folder: callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
    "checkpoints by batches": lambda folder: callbacks.ModelCheckpoint(
        folder / "{batch}.weights.h5", save_freq=2, save_weights_only=True
    ),
    "a backup": lambda folder: callbacks.BackupAndRestore(folder / "backup"),
    "a table": lambda folder: callbacks.CSVLogger(str(folder / "log.csv")),
    "a stop at NaN": lambda _: callbacks.TerminateOnNaN(),
    "a stop in an epoch": lambda _: seen.StopAt(),
    "a stop in a validation": lambda _: seen.StopTesting(),
    "a failure": lambda _: seen.Raise(),
    "a failure at a batch": lambda _: seen.RaiseWithin(),
    "an interrupt": lambda _: seen.Raise(KeyboardInterrupt),
}
METRICS: dict[str, Callable[[], Any]] = {
    "accuracy": lambda: ["accuracy"],
    "a dictionary": lambda: [models.Counts()],
    "a row": lambda: [models.ByClass()],
    "both": lambda: [models.Counts(), "accuracy", models.ByClass(name="row")],
}

say = Console(markup=False, highlight=False, soft_wrap=True).print

Combination = dict[str, Any]
PLAINEST: Combination = {
    "form": "dense",
    "read": None,
    "optimizer": "sgd",
    "metrics": None,
    "weighted": False,
    "callbacks": (),
    "validation": None,
    "frequency": 1,
    "classes": False,
    "batch_size": data.BATCH,
    "epochs": 2,
    "initial_epoch": 0,
    "fits": 1,
    "shuffle": False,
    "steps_per_epoch": None,
    "compiled": None,
    "limits": None,
}


def combinations(seed: int, count: int) -> Iterator[Combination]:
    """Yields `count` random combinations."""
    drawn = random.Random(seed)  # noqa: S311 - not a secret.
    for _ in range(count):
        yield _drawn(drawn)


def _drawn(drawn: random.Random) -> Combination:
    form = drawn.choice(list(ARRAYS))
    read = drawn.choice(list(READ)) if form in VECTORS and drawn.random() < 0.5 else None
    stops = drawn.sample(list(CALLBACKS), drawn.choice([0, 0, 1, 1, 2]))
    if ON_TENSORFLOW and read:
        # On TensorFlow, tf.data reads ahead: how much is read of an epoch that is stopped early is a matter of chance.
        stops = [each for each in stops if "a stop in an epoch" not in each and "at a batch" not in each]
    if form == "deferred":
        # For a backup, Keras needs a built model, and dlf builds a deferred one.
        stops = [each for each in stops if each != "a backup"]
    is_one = ARRAYS[form][2] is LOSS
    validations = [None, "arrays", *([] if form == "stateful" or read else [0.2, 0.4])]
    validations += ["a data set of one's own", "tf.data", "tf.data, shuffled"] if form in VECTORS else []
    first = drawn.choice([0, 0, 0, 1])
    parts = {
        "form": form,
        "read": read,
        "optimizer": drawn.choice(list(OPTIMIZERS)),
        "metrics": drawn.choice([None, *METRICS]) if is_one else None,
        "weighted": is_one and drawn.random() < 0.2,
        "callbacks": tuple(stops),
        "validation": drawn.choice(validations),
        "frequency": drawn.choice([1, 1, 2, [1, 3]]),
        "classes": is_one and not read and form != "weighed examples" and drawn.random() < 0.2,
        "batch_size": data.BATCH if form == "stateful" else drawn.choice([1, 4, 4, 6, 11, 50, None]),
        # At least one: without any, Keras on TensorFlow does not build the optimizer, and fails to average its weights.
        "epochs": first + drawn.choice([1, 2]),
        "initial_epoch": first,
        "fits": drawn.choice([1, 1, 1, 2]),
        "shuffle": not read and drawn.random() < 0.2,
        "steps_per_epoch": 2 if read == "a generator" else None if read or drawn.random() < 0.9 else 2,
        "compiled": drawn.choice([None] * 8 + ["run_eagerly", "not jit_compile", "steps_per_execution"]),
        "limits": drawn.choice([None] * 12 + ["epochs", "steps"]),
    }
    return _without_chance(parts) if ON_TENSORFLOW else parts


def _without_chance(parts: Combination) -> Combination:
    """Removes parts whose result is chance on TensorFlow: tf.data reads ahead in an epoch that is stopped early."""
    own = "a data set of one's own"
    if parts["read"] == own and parts["limits"] == "steps":
        parts["limits"] = None
    if parts["validation"] == own:
        parts["callbacks"] = tuple(each for each in parts["callbacks"] if each != "a stop in a validation")
    return parts


def as_situation(parts: Combination) -> Situation:
    """Returns the situation that a combination describes."""
    model, arrays, loss = ARRAYS[parts["form"]]
    given = READ[parts["read"]] if parts["read"] else arrays
    options: dict[str, Any] = {
        "loss": loss,
        "optimizer": rate(OPTIMIZERS[parts["optimizer"]]),
        "callbacks": Fresh(lambda folder: [CALLBACKS[name](folder) for name in parts["callbacks"]]),
        "shuffle": parts["shuffle"],
        "epochs": parts["epochs"],
        "initial_epoch": parts["initial_epoch"],
        "validation_freq": parts["frequency"],
        **_compiled(parts["compiled"]),
        **_validated(parts["validation"], arrays),
    }
    if parts["metrics"]:
        options["weighted_metrics" if parts["weighted"] else "metrics"] = rate(METRICS[parts["metrics"]])
    if parts["classes"]:
        options["class_weight"] = {0: 0.3, 2: 2.0}
    if not parts["read"]:
        options["batch_size"] = parts["batch_size"]
    if parts["steps_per_epoch"]:
        options["steps_per_epoch"] = parts["steps_per_epoch"]
    limits: dict[Any, Callable[[], Any]] = {
        "epochs": lambda: limited(epochs=2),
        "steps": lambda: limited(steps=2),
        None: nullcontext,
    }
    return Situation(
        told(parts),
        model,
        given,
        options,
        None,
        plain=not parts["shuffle"],
        fits=parts["fits"],
        within=limits[parts["limits"]],
    )


def _compiled(how: str | None) -> Mapping[str, Any]:
    options: dict[Any, Mapping[str, Any]] = {
        None: {},
        "run_eagerly": {"run_eagerly": True},
        "not jit_compile": {"jit_compile": False},
        "steps_per_execution": {"steps_per_execution": 2},
    }
    return options[how]


def _validated(how: Any, arrays: Callable[[], Any]) -> Mapping[str, Any]:
    if how is None:
        return {}
    if isinstance(how, float):
        return {"validation_split": how}
    if how == "arrays":
        return {"validation_ds": arrays()}
    makers = {**READ, "a data set of one's own": lambda: data.Noted("v", 2)}
    return {"validation_ds": rate(makers[how])}


def told(parts: Combination) -> str:
    """Describes a combination by the parts in which it differs from the plainest."""
    own = {name: each for name, each in parts.items() if each != PLAINEST[name]}
    return ", ".join(f"{name}={each!r}" for name, each in own.items()) or "the plainest"


def made_small(parts: Combination) -> Combination:
    """Returns the combination with every part made plain that is not needed for the results to differ."""
    for name, plain in PLAINEST.items():
        simpler = {**parts, name: plain}
        if simpler != parts and unequal(simpler):
            parts = simpler
    return parts


def unequal(parts: Combination) -> list[str]:
    """Returns the faults that `faults` finds in a combination."""
    with tempfile.TemporaryDirectory() as folder:
        return faults(as_situation(parts), Path(folder))


def main() -> int:
    """Trains many combinations; returns 1 if the results of some differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--skip", type=int, default=0, help="so many of the first are left out")
    asked = parser.parse_args()
    with pytest.MonkeyPatch.context() as patch:
        record_soon(patch.setattr)
        return _run(asked)


def _run(asked: argparse.Namespace) -> int:
    failed, start = 0, time.perf_counter()
    for number, parts in enumerate(combinations(asked.seed, asked.count)):
        if number < asked.skip:
            continue
        found = unequal(parts)
        if found:
            failed += 1
            smaller = made_small(parts)
            say(f"{number}: {told(smaller)}", *(unequal(smaller) or found)[:6], sep="\n    ")
        elif number % 50 == 0:
            say(f"{number} combinations, {time.perf_counter() - start:.0f} s")
    say(f"{asked.count - asked.skip} combinations on {keras.config.backend()}: {failed} are not equal.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
