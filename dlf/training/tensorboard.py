"""Event files that TensorBoard opens, in the layout and with the tags of Keras's own callback, without TensorFlow.

Requirements:

* the files are in ``train/`` and ``validation/``, with the tags ``epoch_<metric>``, ``epoch_learning_rate`` and
  ``evaluation_<metric>_vs_iterations``, as tensor values of the plugin ``scalars``;
* nothing is done at a batch, since a callback that looks at one makes JAX wait for the device every time;
* at the end of every epoch, everything so far has been written to the files.

Source of the layout: `keras.callbacks.TensorBoard` in Keras 3.15, ``keras/src/callbacks/tensorboard.py``.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np

from dlf.backend.keras_internals import tensorflow_hidden

# If PyTorch is installed, tensorboardX imports it, which takes seconds, to accept its tensors. Here it is given none.
_hides_torch = "torch" not in sys.modules
if _hides_torch:
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way of saying that it cannot be imported.
try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboardX.proto.tensor_pb2 import TensorProto
    from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
finally:
    if _hides_torch:
        del sys.modules["torch"]

__all__ = ["TensorBoard"]

_DT_FLOAT, _DT_STRING = 1, 7  # As tensorflow/core/framework/types.proto numbers them.


class TensorBoard(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Writes each epoch's metrics, and the model's graph, as event files.

    Args:
        log_dir: The folder that TensorBoard is pointed at; made where it does not exist.
        write_graph: Whether to write the model's layers, for TensorBoard's graphs page.

    Example:
        >>> import tempfile
        >>> log_dir = tempfile.mkdtemp()
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(loss="mse")
        >>> _ = model.fit(np.ones((4, 1)), np.ones((4, 1)), callbacks=[TensorBoard(log_dir)], verbose=0)
        >>> sorted(path.name for path in Path(log_dir).iterdir())
        ['train']
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, write_graph: bool = True) -> None:
        super().__init__()
        self.log_dir = Path(log_dir)
        self.write_graph = write_graph
        self._writers: dict[str, EventsWriter] = {}
        self._broken = False

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Writes the model's graph."""
        if not self.write_graph:
            return
        try:
            with tensorflow_hidden():
                graph = self.model.to_json()
        except Exception as error:  # noqa: BLE001 - a layer's own get_config may raise anything; the run goes on.
            warnings.warn(f"TensorBoard will not show the model's graph: {error}", stacklevel=2)
            return
        metadata = _metadata("graph_keras_model", b"1")
        tensor = TensorProto(dtype=_DT_STRING, tensor_shape=TensorShapeProto(), string_val=[graph.encode()])
        self._write("train", [Summary.Value(tag="keras", metadata=metadata, tensor=tensor)], step=0)

    def on_test_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Writes the results of an evaluation against the number of training steps so far."""
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None and logs:
            step = int(keras.ops.convert_to_numpy(optimizer.iterations))
            self._write_scalars("validation", {f"evaluation_{k}_vs_iterations": v for k, v in logs.items()}, step)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Writes the epoch's metrics and learning rate."""
        logs = logs or {}
        train = {f"epoch_{name}": value for name, value in logs.items() if not name.startswith("val_")}
        validation = {f"epoch_{name[4:]}": value for name, value in logs.items() if name.startswith("val_")}
        self._write_scalars("train", {"epoch_learning_rate": self._learning_rate(), **train}, epoch)
        if validation:
            self._write_scalars("validation", validation, epoch)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            with suppress(OSError):  # There was a warning already, when a write failed.
                writer.close()
        self._writers.clear()

    def _learning_rate(self) -> float:
        # In mixed precision, the optimizer that has the learning rate is inside one that scales the loss.
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        return float(keras.ops.convert_to_numpy(optimizer.learning_rate))

    def _write_scalars(self, folder: str, values: Mapping[str, float], step: int) -> None:
        metadata = _metadata("scalars")
        self._write(
            folder,
            [
                Summary.Value(
                    tag=tag,
                    metadata=metadata,
                    tensor=TensorProto(dtype=_DT_FLOAT, tensor_shape=TensorShapeProto(), float_val=[float(value)]),
                )
                for tag, value in values.items()
                if np.ndim(value) == 0  # A metric may be a vector, one number a class: no curve to draw.
            ],
            step,
        )

    def _write(self, folder: str, values: list[Summary.Value], step: int) -> None:
        if self._broken:
            return
        try:
            self._append(folder, Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        except OSError as error:
            # A full disk must not cost the model that is being trained.
            self._broken = True
            warnings.warn(f"{self.log_dir}: no more event files are written ({error.strerror or error})", stacklevel=2)

    def _append(self, folder: str, event: Event) -> None:
        # Not tensorboardX's FileWriter: its thread may write what `flush` was called for only after `flush` returned.
        if folder not in self._writers:
            (self.log_dir / folder).mkdir(parents=True, exist_ok=True)
            # tensorboardX names a file by the second: another training in the same second would overwrite it. The
            # suffix begins with the time, since TensorBoard reads files of a folder in alphabetical order.
            suffix = f".{time.time_ns()}.{os.getpid()}.v2"
            self._writers[folder] = EventsWriter(str(self.log_dir / folder / "events"), filename_suffix=suffix)
        self._writers[folder].write_event(event)
        self._writers[folder].flush()


def _metadata(plugin: str, content: bytes = b"") -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))
