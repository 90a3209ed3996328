"""Names, arguments and methods of Keras 2 and TensorFlow that Keras 3 does not have, and what stands in their place."""

from __future__ import annotations

import re

__all__ = ["ARGUMENTS", "METHODS", "NAMES", "RAISING", "SAVING"]

NAMES = {
    "keras.engine": "keras.layers.Layer, keras.layers.InputSpec, keras.Model",
    "keras.initializers.normal": "keras.initializers.RandomNormal",
    "keras.initializers.uniform": "keras.initializers.RandomUniform",
    "keras.layers.CuDNNGRU": "keras.layers.GRU",
    "keras.layers.CuDNNLSTM": "keras.layers.LSTM",
    "keras.layers.Highway": "a layer of your own",
    "keras.layers.LocallyConnected1D": "a layer of your own",
    "keras.layers.LocallyConnected2D": "a layer of your own",
    "keras.layers.Merge": "keras.layers.Concatenate, Add or another of the merging layers",
    "keras.layers.MaxoutDense": "a layer of your own",
    "keras.layers.ThresholdedReLU": "keras.layers.ReLU(threshold=...)",
    "keras.layers.advanced_activations": "keras.layers",
    "keras.layers.convolutional": "keras.layers",
    "keras.layers.core": "keras.layers",
    "keras.layers.embeddings": "keras.layers",
    "keras.layers.experimental.SyncBatchNormalization": "keras.layers.BatchNormalization(synchronized=True)",
    "keras.layers.experimental": "keras.layers",
    "keras.layers.merge": "keras.layers",
    "keras.layers.noise": "keras.layers",
    "keras.layers.normalization": "keras.layers",
    "keras.layers.pooling": "keras.layers",
    "keras.layers.recurrent": "keras.layers",
    "keras.layers.wrappers": "keras.layers",
    "keras.losses.Reduction": 'the text, such as reduction="none"',
    "keras.mixed_precision.experimental": "keras.mixed_precision",
    "keras.models.Functional": "keras.Model",
    "keras.objectives": "keras.losses",
    "keras.optimizers.experimental": "keras.optimizers",
    "keras.optimizers.legacy": "keras.optimizers",
    "keras.optimizers.schedules.experimental": "keras.optimizers.schedules",
    "keras.preprocessing.text": "keras.layers.TextVectorization",
    "keras.utils.generic_utils": "keras.saving",
    "keras.utils.multi_gpu_model": "keras.distribution.DataParallel",
    "keras.utils.np_utils.to_categorical": "keras.utils.to_categorical",
    "keras.utils.np_utils": "keras.utils",
    "keras.utils.vis_utils": "keras.utils.plot_model, or dlf.visualize_model",
    "keras.wrappers.scikit_learn": "keras.wrappers",
}
"""What to write in place of a name, and of all names below it."""

RAISING = frozenset({"keras.optimizers.legacy"})
"""Names that are still there, but raise when they are used."""

_OPTIMIZERS = r"keras\.optimizers\.\w+"
_LAYERS = r"keras\.layers\.\w+"

ARGUMENTS = tuple(
    (re.compile(pattern), argument, advice)
    for pattern, argument, advice in (
        (_OPTIMIZERS, "lr", "learning_rate="),
        (_OPTIMIZERS, "decay", "learning_rate=keras.optimizers.schedules.InverseTimeDecay(...)"),
        (_LAYERS, "weights", "layer.set_weights(...) after it is built"),
        (_LAYERS, "time_major", "inputs whose first axis is the batch"),
        (_LAYERS, "nb_filter", "filters="),
        (_LAYERS, "nb_row", "kernel_size="),
        (_LAYERS, "border_mode", "padding="),
        (_LAYERS, "subsample", "strides="),
        (_LAYERS, "dim_ordering", "data_format="),
        (_LAYERS, "init", "kernel_initializer="),
        (_LAYERS, "W_regularizer", "kernel_regularizer="),
        (_LAYERS, "b_regularizer", "bias_regularizer="),
        (r"keras\.layers\.(Input|InputLayer)|keras\.Input", "ragged", "a dense tensor with a mask"),
        (r"keras\.layers\.(Input|InputLayer)|keras\.Input", "type_spec", "shape= and dtype="),
        (r"keras\.Model", "input", "inputs="),
        (r"keras\.Model", "output", "outputs="),
        (r"keras\.callbacks\.ModelCheckpoint", "period", 'save_freq="epoch"'),
        (r"keras\.callbacks\.TensorBoard", "write_grads", "nothing: leave it out"),
        (r"keras\.callbacks\.ReduceLROnPlateau", "epsilon", "min_delta="),
        (r"keras\.layers\.BatchNormalization", "mode", "nothing: leave it out"),
        (r"keras\.layers\.BatchNormalization", "renorm", "nothing: leave it out"),
        (r"keras\.layers\.BatchNormalization", "virtual_batch_size", "nothing: leave it out"),
        (r"keras\.layers\.BatchNormalization", "fused", "nothing: leave it out"),
    )
)
"""The pattern of the name of what takes an argument no longer, the argument, and what to write."""

METHODS = {
    "add_metric": "a metric that the layer holds and updates: self.metric.update_state(...)",
    "add_update": "variable.assign(...) in call",
    "compiled_loss": "self.compute_loss(x, y, y_pred)",
    "fit_generator": "fit",
    "evaluate_generator": "evaluate",
    "predict_generator": "predict",
    "get_input_at": "input",
    "get_output_at": "output",
    "predict_classes": "keras.ops.argmax(model.predict(x), axis=-1)",
    "predict_proba": "predict",
    "reset_states": "reset_state",
    "get_updates": "apply",
    "minimize": "dlf.value_and_grad, and apply",
    "get_gradients": "dlf.value_and_grad",
    "_create_all_weights": "build",
    "reset_metrics_states": "reset_metrics",
    "get_layer_by_index": "get_layer(index=...)",
    "to_yaml": "to_json",
}
"""What to call in place of a method."""

SAVING = {
    "saved_model.save": "model.save with a file name that ends in .keras, or model.export",
    "saved_model.load": "keras.models.load_model of a .keras file, or keras.layers.TFSMLayer",
    "lite.TFLiteConverter.from_keras_model": "model.export, on the TensorFlow backend",
    "train.Checkpoint": "model.save_weights with a file name that ends in .weights.h5",
    "train.CheckpointManager": "keras.callbacks.ModelCheckpoint, or keras.callbacks.BackupAndRestore",
}
"""What to write in place of TensorFlow's own ways to save."""
