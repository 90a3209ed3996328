"""The graph of a model as plain data, on the backend that Keras runs on."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import keras
import pytest
from keras import layers

from dlf.utils.errors import BackendError, InvalidArgumentError
from dlf.visualization._model_graph import ModelGraph, model_graph


def arrows(graph: ModelGraph) -> set[tuple[str, str]]:
    return {(graph.nodes[edge.source].name, graph.nodes[edge.target].name) for edge in graph.edges}


def residual() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    stem = layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(image)
    normal = layers.BatchNormalization(name="normal")(stem)
    total = layers.Add(name="total")([stem, normal])
    return keras.Model(image, total, name="residual")


@keras.saving.register_keras_serializable()
class Split(keras.layers.Layer):  # type: ignore[misc]
    """A layer with three outputs in a nested structure, and with a property that raises an error."""

    def call(self, x: Any) -> Any:
        return {"low": x[:, :1], "rest": (x[:, 1:], x * 2)}

    @property
    def units(self) -> int:
        raise RuntimeError("not yet")


class NoConfig(keras.layers.Layer):  # type: ignore[misc]
    """A layer without a configuration, so that a model that contains it has none either."""

    def __init__(self, function: Any) -> None:
        super().__init__(name="no_config")
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def test_sequential() -> None:
    model = keras.Sequential(
        [keras.Input((28, 28), name="image"), layers.Flatten(name="flat"), layers.Dense(10, "relu", name="scores")],
        name="digits",
    )
    graph = model_graph(model)
    assert (graph.name, graph.class_name) == ("digits", "Sequential")
    assert [node.name for node in graph.nodes] == ["image", "flat", "scores"]
    assert [node.kind for node in graph.nodes] == ["input", "layer", "layer"]
    assert [node.family for node in graph.nodes] == ["input", "reshaping", "core"]
    assert graph.inputs == (0,)
    assert graph.outputs == ((2, 0),)
    assert arrows(graph) == {("image", "flat"), ("flat", "scores")}
    scores = graph.nodes[2]
    assert (scores.class_name, scores.setting, scores.activation) == ("Dense", "10 units", "relu")
    assert scores.input_shapes == ((None, 784),)
    assert scores.output_shapes == ((None, 10),)
    assert scores.output_dtypes == ("float32",)
    assert scores.path == model.layers[-1].path
    assert (scores.parameters, scores.trainable_parameters, scores.non_trainable_parameters) == (7850, 7850, 0)
    assert graph.parameters == model.count_params()


def test_skip_connection_and_partly_trainable_layer() -> None:
    graph = model_graph(residual())
    assert arrows(graph) == {("image", "stem"), ("stem", "normal"), ("stem", "total"), ("normal", "total")}
    nodes = {node.name: node for node in graph.nodes}
    assert nodes["stem"].setting == "4 filters, 3\N{MULTIPLICATION SIGN}3, stride 2"
    assert nodes["normal"].setting == ""
    assert (nodes["normal"].trainable_parameters, nodes["normal"].non_trainable_parameters) == (8, 8)
    assert not nodes["normal"].frozen
    assert nodes["total"].input_shapes == ((None, 4, 4, 4),) * 2
    assert [edge.target_input for edge in graph.edges if edge.target == nodes["total"].index] == [0, 1]


def test_layer_called_twice_is_two_nodes_that_share() -> None:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = layers.Dense(3, name="shared")
    model = keras.Model({"left": left, "right": right}, {"sum": layers.Add(name="sum")([shared(left), shared(right)])})
    graph = model_graph(model)
    calls = [node for node in graph.nodes if node.name == "shared"]
    assert [(node.call, node.calls, node.shared) for node in calls] == [(1, 2, True), (2, 2, True)]
    assert graph.parameters == model.count_params() == 15
    assert {graph.nodes[index].name for index in graph.inputs} == {"left", "right"}
    assert [node.shared for node in graph.nodes if node.name == "sum"] == [False]


def test_operations_and_several_outputs() -> None:
    x = keras.Input((5,), name="x", dtype="float32")
    parts = Split(name="split")(x)
    activated = keras.ops.tanh(parts["rest"][1] + 1.0)
    model = keras.Model(x, [parts["low"], activated])
    graph = model_graph(model)
    split = next(node for node in graph.nodes if node.name == "split")
    assert split.output_shapes == ((None, 1), (None, 4), (None, 5))
    assert split.setting == ""
    assert split.family == "custom"
    assert graph.outputs[0] == (split.index, 0)
    tanh = graph.nodes[graph.outputs[1][0]]
    assert (tanh.class_name, tanh.kind, tanh.family, tanh.parameters) == ("Tanh", "operation", "op", 0)
    into_ops = [edge for edge in graph.edges if edge.source == split.index]
    assert [edge.source_output for edge in into_ops] == [2]


def test_the_same_tensor_twice_is_two_edges() -> None:
    x = keras.Input((2,), name="x")
    graph = model_graph(keras.Model(x, layers.Multiply(name="square")([x, x])))
    assert [(edge.source, edge.target, edge.target_input) for edge in graph.edges] == [(0, 1, 0), (0, 1, 1)]


def test_nested_model_is_one_node() -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)], name="inner")
    inner.trainable = False
    graph = model_graph(keras.Sequential([keras.Input((4,)), inner, layers.Dense(1)]))
    node = graph.nodes[1]
    assert (node.name, node.kind, node.nested, node.frozen, node.setting) == ("inner", "model", True, True, "2 layers")
    assert (node.trainable_parameters, node.non_trainable_parameters) == (0, 23)
    assert (graph.trainable_parameters, graph.non_trainable_parameters) == (3, 23)


def test_wrapped_layers_are_described() -> None:
    model = keras.Sequential([keras.Input((7, 4)), layers.Bidirectional(layers.LSTM(8))])
    assert model_graph(model).nodes[1].setting == "LSTM: 8 units"
    assert model_graph(model).nodes[1].activation == "tanh"


def test_layer_without_configuration() -> None:
    x = keras.Input((2,))
    model = keras.Model(x, NoConfig(keras.ops.abs)(x))
    with pytest.raises(NotImplementedError):
        model.get_config()
    assert [node.name for node in model_graph(model).nodes][1:] == ["no_config"]


def test_unused_input_and_model_inside_a_model() -> None:
    used, unused = keras.Input((2,), name="used"), keras.Input((2,), name="unused")
    hidden = layers.Dense(3, name="hidden")(used)
    graph = model_graph(keras.Model([used, unused], layers.Dense(1, name="out")(hidden)))
    assert {graph.nodes[index].name for index in graph.inputs} == {"used", "unused"}
    part = model_graph(keras.Model(used, hidden))
    assert [node.name for node in part.nodes] == ["used", "hidden"]


def test_nodes_stand_in_an_order_that_can_be_run() -> None:
    for model in (residual(), keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3))):
        graph = model_graph(model)
        assert [node.index for node in graph.nodes] == list(range(len(graph.nodes)))
        assert all(edge.source < edge.target for edge in graph.edges)
        assert graph.parameters == model.count_params()


def test_graph_is_plain_data() -> None:
    graph = model_graph(residual())
    assert pickle.loads(pickle.dumps(graph)) == graph  # noqa: S301  It was written one call ago.


def test_model_that_is_not_built() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"expected a model that has been built.*model\.build\(input_shape\)"
    ):
        model_graph(keras.Sequential([layers.Dense(1)]))


def test_subclassed_model() -> None:
    class Mine(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(InvalidArgumentError, match=r"A subclassed model .* keras\.Model\(inputs, outputs\)"):
        model_graph(Mine())


@pytest.mark.parametrize("wrong", ["model.keras", None, layers.Dense(1)])
def test_something_else(wrong: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"Pass the keras\.Model itself\."):
        model_graph(wrong)


def test_the_private_names_of_keras() -> None:
    """Fails if a Keras release changes what `dlf.visualization._model_graph` reads: then fix `_private`'s callers."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    functional = model._functional
    assert isinstance(functional, keras.Function)
    assert isinstance(functional, keras.Model)
    assert sorted(functional._nodes_by_depth) == [0, 1]
    (call,), (entry,) = functional._nodes_by_depth[0], functional._nodes_by_depth[1]
    assert (call.operation, entry.operation) == (model.layers[0], functional.layers[0])
    assert len(call.input_tensors) == 1
    assert call.input_tensors[0] is entry.output_tensors[0] is functional.inputs[0]
    assert call.output_tensors[0] is functional.outputs[0]
    assert layers.Dense.__module__.startswith("keras.src.layers.core.")


def test_a_keras_that_has_changed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    calls = type(model._functional._nodes_by_depth[0][0])
    monkeypatch.delattr(calls, "output_tensors")
    with pytest.raises(BackendError, match=rf"Keras {keras.__version__} .* Node\.output_tensors, .* Update dlf"):
        model_graph(model)


def test_importing_it_imports_no_framework() -> None:
    program = "import sys, dlf.visualization._model_graph, dlf.visualization.plots; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert {"keras", "numpy", "matplotlib", "grandalf", "jax", "torch", "tensorflow"}.isdisjoint(modules)
