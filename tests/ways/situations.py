"""The table: ways of training that people use, each with its expected engine and, if it is Keras's, the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import way_callbacks as seen
import way_data as data
import way_models as models
from ways_of_training import Fresh, Situation

callbacks, optimizers, losses, metrics = keras.callbacks, keras.optimizers, keras.losses, keras.metrics
BACKEND = keras.config.backend()
LOSS = losses.SparseCategoricalCrossentropy(from_logits=True)
NOT_TENSORFLOW = ("jax", "torch")
"""For situations that differ on TensorFlow, where tf.data reads ahead and renames errors, and where a step without a
batch counts as an update."""
BOTH = {"kind": LOSS, "size": "mse"}


def situation(
    name: str, model: Callable[[], keras.Model] = models.dense, given: Callable[[], Any] = data.arrays, **options: Any
) -> Situation:
    """Returns one row; options that are not fields of `Situation` are options of `compile_and_fit`."""
    fields = {each: options.pop(each) for each in ("refused", "only", "plain", "fits", "within") if each in options}
    return Situation(name, model, given, {"loss": LOSS, "batch_size": data.BATCH, **options}, **fields)


def made(*makers: Callable[[], Any]) -> Fresh:
    """Returns callbacks that are made anew for each way of training."""
    return Fresh(lambda _: [make() for make in makers])


def rate(make: Callable[[], Any]) -> Fresh:
    return Fresh(lambda _: make())


@contextmanager
def limited(epochs: int | None = None, steps: int | None = None) -> Iterator[None]:
    keras.config.set_max_epochs(epochs)
    keras.config.set_max_steps_per_epoch(steps)
    try:
        yield
    finally:
        keras.config.set_max_epochs(None)
        keras.config.set_max_steps_per_epoch(None)


@contextmanager
def policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def own_data(name: str = "", **options: Any) -> Callable[[], Any]:
    return lambda: data.Noted(name, **options)


MODELS = [
    situation("a model that the first batch builds", models.deferred),
    situation("dropout", models.noisy, metrics=["accuracy"], epochs=3),
    situation("batch normalization", models.normalized),
    situation("regularizers and a constraint", models.regularized),
    situation("a frozen layer", models.frozen),
    situation("a layer that is shared", models.shared),
    situation("a model inside of a model", models.nested),
    situation("a recurrent model", models.recurrent, data.series),
    situation("a stateful model of a fixed batch size", models.stateful, data.series, epochs=3),
    situation("masks from an embedding", models.masked, data.tokens),
    situation(
        "masked steps with labels of their own",
        models.labelled_steps,
        lambda: (data.SERIES, data.SERIES[..., :1] * 2),
        loss="mse",
        metrics=["mae"],
        weighted_metrics=["mse"],
    ),
    situation("a convolution", models.convolutional, data.series),
    situation("a loss that a layer adds", models.added_loss),
    situation("a compute_loss of its own", models.own_loss, loss=None),
    situation("a compute_metrics of its own", models.own_metrics, metrics=["accuracy"]),
    situation("a model that is compiled already", models.compiled, loss=None, optimizer=None, metrics=None),
    situation("a compile of its own", models.OwnCompile, loss=None, optimizer=None, g_optimizer="sgd", strength=0.5),
    situation(
        "a compile of its own, called already",
        lambda: models.own_compile(g_optimizer="sgd"),
        loss=None,
        optimizer=None,
        validation_ds=(data.X, data.Y),
    ),
    situation("a train_step of its own", models.own_step, validation_ds=(data.X, data.Y)),
    situation("bfloat16", models.dense, within=lambda: policy("mixed_bfloat16")),
    situation("float16 with its loss scaled", models.dense, within=lambda: policy("mixed_float16"), optimizer="adam"),
]

DATA = [
    situation("a sparse matrix", given=data.sparse_matrix, validation_split=0.3, refused="a csr_matrix"),
    situation("a sparse tensor", given=data.sparse_tensor, only=("tensorflow",), refused="a SparseTensor"),
    situation("ragged tokens", models.pooled, data.ragged_tokens, only=("tensorflow",), refused="a RaggedTensor"),
    situation("inputs in a list", models.two_inputs, data.in_a_list, validation_split=0.3),
    situation("inputs in a tuple", models.two_inputs, data.in_a_tuple),
    situation("inputs in a list, by a subclass", models.Unpacked, data.in_a_list),
    situation(
        "inputs in a list, run eagerly", models.two_inputs, data.in_a_list, run_eagerly=True, refused="run_eagerly"
    ),
    situation("inputs by name", models.named_inputs, data.by_name),
    situation("inputs without labels", models.inputs_alone, lambda: (data.X,), loss=None),
    situation("an array of inputs alone", models.inputs_alone, lambda: data.X, loss=None, validation_split=0.3),
    situation("a list of inputs alone", models.restored, lambda: data.in_a_list()[0], loss=None),
    situation("inputs by name, alone", models.restored, lambda: data.by_name()[0], loss=None),
    situation("inputs alone, from tf.data", models.inputs_alone, data.inputs_as_tf_data, loss=None, batch_size=None),
    situation("inputs and no labels", models.own_loss, lambda: (data.X, None), loss=None),
    situation("outputs in a list", models.two_outputs, data.two_labels, loss=[LOSS, "mse"], metrics=[["accuracy"], []]),
    situation("outputs by name", models.named_outputs, data.named_labels, loss=BOTH, metrics={"kind": ["accuracy"]}),
    situation(
        "weighed outputs", models.named_outputs, data.named_labels, loss=BOTH, loss_weights={"kind": 0.3, "size": 2.0}
    ),
    situation(
        "weights of each output's examples",
        models.two_outputs,
        lambda: (data.X, [data.Y, data.SIZES], [data.WEIGHTS, data.WEIGHTS]),
        loss=[LOSS, "mse"],
    ),
    situation(
        "one weight for all outputs", models.two_outputs, lambda: (*data.two_labels(), data.WEIGHTS), loss=[LOSS, "mse"]
    ),
    situation("weights of examples", models.dense, data.weighted, weighted_metrics=["accuracy"], metrics=["accuracy"]),
    situation("weights of examples as an option", sample_weight=data.WEIGHTS, validation_split=0.4),
    situation("weights of classes", class_weight={0: 1.0, 1: 0.2, 2: 3.0}, validation_split=0.3),
    situation("a batch size of one", batch_size=1, epochs=1),
    situation("a last batch of one", models.normalized, batch_size=11, metrics=["accuracy"]),
    situation("a last batch of one, from tf.data", given=lambda: data.as_tf_data(size=11), batch_size=None),
    situation("a last batch of one and every hook", batch_size=11, callbacks=made(seen.Batches)),
    situation("a batch that is larger than the data", batch_size=50),
    situation("no batch size", batch_size=None),
    situation("labels of one column", given=lambda: (data.X, data.Y[:, None]), class_weight={2: 3.0}),
    situation(
        "labels of 64 bits floating", models.own_loss, lambda: (data.X.astype("float64"), data.Y * 1.0), loss=None
    ),
    situation("a data set of somebody's own", given=own_data(), batch_size=None, epochs=3),
    situation(
        "a data set of one's own, of inputs alone",
        models.own_loss,
        own_data(make=lambda x, y: (x,)),
        batch_size=None,
        loss=None,
    ),
    situation(
        "a data set of one's own, of weighed examples",
        given=own_data(make=lambda x, y: (x, y, y + 1.0)),
        batch_size=None,
    ),
    situation(
        "a data set of one's own, and another to validate",
        given=own_data(),
        batch_size=None,
        epochs=3,
        validation_ds=Fresh(lambda _: data.Noted("v", 2)),
    ),
    situation(
        "a data set that validates now and then",
        epochs=3,
        validation_ds=Fresh(lambda _: data.Noted("v", 2)),
        validation_freq=2,
    ),
    situation("a data set of one's own, twice", given=own_data(), batch_size=None, fits=2),
    situation("a data set that becomes shorter", given=data.Shrinking, batch_size=None, only=NOT_TENSORFLOW),
    situation(
        "a data set that becomes shorter, and every hook",
        given=data.Shrinking,
        batch_size=None,
        callbacks=made(seen.Batches),
        only=NOT_TENSORFLOW,
    ),
    situation(
        "a data set that is stopped",
        given=own_data(),
        batch_size=None,
        callbacks=made(seen.StopAt),
        epochs=3,
        only=NOT_TENSORFLOW,
    ),
    situation(
        "a data set, shuffled by Keras", given=own_data(), batch_size=None, shuffle=True, plain=False, refused="shuffle"
    ),
    situation(
        "a data set with weights of classes",
        given=own_data(),
        batch_size=None,
        class_weight={1: 2.0},
        refused="class_weight",
    ),
    situation("batches of dlf", given=lambda: data.as_pipeline(shuffled=False), batch_size=None),
    situation("batches of dlf, shuffled", given=data.as_pipeline, batch_size=None, plain=False, epochs=3),
    situation(
        "batches of dlf with weights of classes",
        given=data.as_pipeline,
        batch_size=None,
        plain=False,
        class_weight={1: 2.0},
        refused="class_weight",
    ),
    situation("arrays in dlf's order", shuffle=True, plain=False, validation_split=0.2, epochs=3),
    situation("tf.data", given=data.as_tf_data, batch_size=None, epochs=3),
    situation(
        "tf.data with a shuffle of its own", given=lambda: data.as_tf_data(shuffled=True), batch_size=None, epochs=3
    ),
    situation(
        "tf.data with a shuffle of its own, twice",
        given=lambda: data.as_tf_data(shuffled=True),
        batch_size=None,
        fits=2,
    ),
    situation("tf.data to validate", validation_ds=Fresh(lambda _: data.as_tf_data(shuffled=True)), epochs=3),
    situation(
        "tf.data of unknown length", given=lambda: data.as_tf_data(known=False), batch_size=None, refused="unknown"
    ),
    situation(
        "tf.data without end",
        given=lambda: data.as_tf_data(repeated=True),
        batch_size=None,
        steps_per_epoch=3,
        refused="steps_per_epoch",
    ),
    situation("a generator", given=data.endless, batch_size=None, steps_per_epoch=3, refused="steps_per_epoch"),
    situation(
        "a generator to validate",
        validation_ds=Fresh(lambda _: data.endless()),
        validation_steps=2,
        refused="validation_steps",
    ),
    situation("steps to validate", validation_ds=(data.X, data.Y), validation_steps=2),
    situation("another batch size to validate", validation_ds=(data.X, data.Y), validation_batch_size=5),
    situation("weighed examples to validate", validation_ds=data.weighted(), weighted_metrics=["accuracy"]),
    situation("a loader", given=data.as_loader, batch_size=None, refused="DataLoader"),
    situation(
        "a loader that shuffles", given=lambda: data.as_loader(shuffled=True), batch_size=None, refused="DataLoader"
    ),
    situation("fewer steps than batches", steps_per_epoch=2, refused="steps_per_epoch"),
    situation("at most so many epochs", epochs=3, within=lambda: limited(epochs=2)),
    situation(
        "at most so many steps", validation_ds=(data.X, data.Y), within=lambda: limited(steps=2), refused="max_steps"
    ),
]

OPTIMIZERS = [
    situation(
        "averaged weights", optimizer=rate(lambda: optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5)), epochs=3
    ),
    situation(
        "averaged weights that are written back",
        optimizer=rate(lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)),
    ),
    situation(
        "averaged weights, broken off",
        optimizer=rate(lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)),
        callbacks=made(seen.Raise),
        epochs=3,
    ),
    situation(
        "averaged weights, interrupted",
        optimizer=rate(lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)),
        callbacks=made(lambda: seen.Raise(KeyboardInterrupt)),
        epochs=3,
    ),
    situation(
        "averaged weights, broken off at a batch",
        optimizer=rate(lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)),
        callbacks=made(lambda: seen.RaiseWithin(within=True)),
        epochs=3,
    ),
    situation(
        "averaged weights, and data that break off",
        given=data.Breaking,
        batch_size=None,
        optimizer=rate(lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)),
        epochs=4,
        only=NOT_TENSORFLOW,
    ),
    situation(
        "gradients that add up", optimizer=rate(lambda: optimizers.Adam(0.05, gradient_accumulation_steps=3)), epochs=3
    ),
    situation("clipped gradients", optimizer=rate(lambda: optimizers.SGD(0.5, clipnorm=0.1))),
    situation(
        "gradients that are clipped together", optimizer=rate(lambda: optimizers.RMSprop(0.05, global_clipnorm=0.1))
    ),
    situation(
        "clipped values and a momentum",
        optimizer=rate(lambda: optimizers.SGD(0.5, momentum=0.9, nesterov=True, clipvalue=0.05)),
    ),
    situation(
        "a scaled loss",
        optimizer=rate(
            lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.05), initial_scale=64.0, dynamic_growth_steps=3)
        ),
        epochs=3,
    ),
    situation("a schedule", optimizer=rate(lambda: optimizers.SGD(optimizers.schedules.CosineDecay(0.5, 6))), epochs=3),
    situation("weights that decay", optimizer=rate(lambda: optimizers.AdamW(0.05, weight_decay=0.1))),
    situation("the optimizer of the fit before", fits=2, optimizer="adam"),
]

METRICS = [
    situation(
        "a metric whose result is a dictionary",
        metrics=Fresh(lambda _: [models.Counts(), "accuracy"]),
        validation_ds=(data.X[:6], data.Y[:6]),
    ),
    situation(
        "a metric whose result has several numbers", metrics=Fresh(lambda _: [models.ByClass()]), validation_split=0.3
    ),
    situation(
        "a metric whose result has one number in a list",
        models.inputs_alone,
        lambda: (data.X,),
        loss=None,
        metrics=Fresh(lambda _: [models.ByClass(models.FEATURES)]),
    ),
    situation(
        "metrics whose names are out of order",
        metrics=Fresh(
            lambda _: [
                "accuracy",
                metrics.SparseTopKCategoricalAccuracy(2, name="a_top"),
                metrics.MeanMetricWrapper(LOSS, name="zz"),
            ]
        ),
        validation_split=0.3,
    ),
    situation(
        "metrics with a state of their own",
        models.dense,
        lambda: (data.X, keras.utils.to_categorical(data.Y, 3)),
        loss=losses.BinaryCrossentropy(from_logits=True),
        metrics=Fresh(
            lambda _: [
                metrics.AUC(from_logits=True, name="auc"),
                metrics.Precision(0.0, name="found"),
                metrics.F1Score(average=None),
            ]
        ),
    ),
    situation(
        "weighed and other metrics",
        given=data.weighted,
        metrics=["accuracy"],
        weighted_metrics=Fresh(lambda _: [models.Counts()]),
    ),
]

CALLBACKS = [
    situation("every hook", callbacks=made(seen.Batches), validation_split=0.3, metrics=["accuracy"]),
    situation(
        "every hook and dictionaries",
        callbacks=made(seen.Batches),
        metrics=Fresh(lambda _: [models.Counts(), models.ByClass()]),
        validation_split=0.3,
    ),
    situation(
        "early stopping",
        callbacks=made(
            lambda: callbacks.EarlyStopping("val_loss", patience=0, min_delta=1.0, restore_best_weights=True)
        ),
        validation_split=0.3,
        epochs=5,
    ),
    situation(
        "early stopping at a metric in a dictionary",
        callbacks=made(lambda: callbacks.EarlyStopping("val_n_examples", patience=1)),
        metrics=Fresh(lambda _: [models.Counts()]),
        validation_split=0.3,
        epochs=5,
    ),
    situation(
        "a learning rate by epochs",
        callbacks=made(lambda: callbacks.LearningRateScheduler(lambda epoch, lr: lr / 2)),
        epochs=3,
    ),
    situation(
        "a learning rate by plateaus",
        callbacks=made(lambda: callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=1.0)),
        epochs=4,
    ),
    situation("a rate and a log of one's own", callbacks=made(seen.NewRate), epochs=3),
    situation(
        "checkpoints",
        callbacks=Fresh(
            lambda folder: [
                callbacks.ModelCheckpoint(
                    folder / "best.weights.h5", save_best_only=True, monitor="loss", save_weights_only=True
                )
            ]
        ),
    ),
    situation(
        "checkpoints by batches",
        callbacks=Fresh(
            lambda folder: [
                callbacks.ModelCheckpoint(folder / "{epoch}-{batch}.weights.h5", save_freq=3, save_weights_only=True)
            ]
        ),
    ),
    situation("a backup", callbacks=Fresh(lambda folder: [callbacks.BackupAndRestore(folder / "backup")])),
    situation("a table", callbacks=Fresh(lambda folder: [callbacks.CSVLogger(str(folder / "log.csv"))])),
    situation("a stop at NaN", callbacks=made(callbacks.TerminateOnNaN)),
    situation(
        "functions",
        callbacks=made(
            lambda: callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: None, on_train_batch_end=lambda batch, logs: None
            )
        ),
    ),
    situation("a history of one's own", callbacks=made(callbacks.History)),
    situation(
        "swapped averages",
        optimizer=rate(lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)),
        callbacks=made(lambda: callbacks.SwapEMAWeights(swap_on_epoch=True)),
        epochs=3,
    ),
    situation(
        "swapped averages to validate",
        optimizer=rate(lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)),
        callbacks=made(callbacks.SwapEMAWeights),
        epochs=3,
        validation_split=0.3,
    ),
    situation("a stop within an epoch", callbacks=made(seen.StopAt), epochs=3, validation_split=0.3),
    situation(
        "a stop within a validation",
        callbacks=made(seen.StopTesting),
        validation_ds=(data.X, data.Y),
        metrics=["accuracy"],
    ),
    situation("a later first epoch", initial_epoch=2, epochs=4),
    situation("validation now and then", validation_split=0.3, validation_freq=[2, 3], epochs=3),
    situation("several steps in one call", steps_per_execution=2, only=("jax", "tensorflow")),
    situation(
        "several steps in one call, and every hook",
        steps_per_execution=2,
        callbacks=made(seen.Batches),
        refused="steps_per_execution",
    ),
    situation("run eagerly", run_eagerly=True, refused="run_eagerly"),
    situation(
        "a layer that cannot be compiled",
        models.not_to_be_compiled,
        refused="looks cannot be compiled" if BACKEND == "jax" else "",
    ),
    situation("not compiled", jit_compile=False, refused="jit_compile" if BACKEND == "jax" else ""),
]

TABLE = [each for each in (*MODELS, *DATA, *OPTIMIZERS, *METRICS, *CALLBACKS) if BACKEND in each.only]
