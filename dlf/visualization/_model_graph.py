"""The graph of a Keras model as plain data: each call of a layer or op, with its inputs and outputs.

Requirements:

* there is a node for each *call*, so that a layer called twice appears twice and is known to share its weights;
* custom layers without ``get_config`` work, so the graph is read from the model and not from its configuration;
* the graph holds no tensor, layer or other object of a framework: it can be drawn, compared, pickled and printed;
* Keras has no public way to read the graph, so every private name of Keras that dlf's drawings need is used in this
  module alone. Each is looked up when it is used, and the error names it if a release of Keras has removed it.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dlf.utils.errors import BackendError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["GraphEdge", "GraphNode", "ModelGraph", "Shape", "model_graph"]

Shape = tuple[int | None, ...]
"""The lengths of a tensor's axes; `None` for an unknown length, such as that of the batch."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One call of a layer, of a nested model or of a `keras.ops` function."""

    index: int
    """The index of this node in `ModelGraph.nodes`."""
    name: str
    """The name of the layer or op; calls of the same layer have the same name."""
    class_name: str
    kind: Literal["input", "layer", "model", "operation"]
    family: str
    """The folder of `keras.layers` with the class: `core`, `merging`, ...; or `custom`, `input`, `model`, `op`."""
    path: str
    """The layer's path in its model, with which the paths of its variables begin; its name if it has no path."""
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    output_dtypes: tuple[str, ...]
    trainable_parameters: int
    non_trainable_parameters: int
    setting: str
    """The layer's main settings in a few words: `32 filters, stride 2`; may be empty."""
    activation: str
    """The activation built into the layer; empty for none and for the identity."""
    trainable: bool
    """The layer's `trainable`, whether or not it has weights."""
    call: int
    """Which call of this layer this is, from 1."""
    calls: int
    """How often this graph calls this layer; each of these nodes counts the same weights."""

    @property
    def parameters(self) -> int:
        """The number of all parameters of the layer."""
        return self.trainable_parameters + self.non_trainable_parameters

    @property
    def nested(self) -> bool:
        """Whether the node is a whole model."""
        return self.kind == "model"

    @property
    def shared(self) -> bool:
        """Whether the graph calls this layer more than once."""
        return self.calls > 1

    @property
    def frozen(self) -> bool:
        """Whether the layer has weights and its `trainable` is False."""
        return self.parameters > 0 and not self.trainable


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """A tensor between two nodes: output `source_output` of node `source` is input `target_input` of node `target`."""

    source: int
    source_output: int
    target: int
    target_input: int


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """The nodes of a model, in an order in which they can be run, and the edges between them."""

    name: str
    class_name: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    inputs: tuple[int, ...]
    """The input node of each of the model's inputs, in the model's order."""
    outputs: tuple[tuple[int, int], ...]
    """For each output of the model, its node and the number of that node's output."""
    trainable_parameters: int
    """Shared weights count once, so this may be less than the sum over the nodes."""
    non_trainable_parameters: int

    @property
    def parameters(self) -> int:
        """The number of all parameters of the model."""
        return self.trainable_parameters + self.non_trainable_parameters


def model_graph(model: Any) -> ModelGraph:
    """Reads the graph of a Sequential or Functional Keras model.

    A nested model is one node. Operations that Keras adds, such as the mask of an `Embedding`, are part of Keras's
    graph and therefore of this one.

    Args:
        model: The model; a Sequential one must know the shape of its input.

    Returns:
        The graph, as plain data.

    Raises:
        InvalidArgumentError: The model is not a Keras model, has not been built, or has no graph because it is a
            subclass with its own `call`.
        BackendError: This release of Keras stores graphs in another way.

    Example:
        >>> import keras
        >>> graph = model_graph(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="scores")]))
        >>> graph.nodes[-1].name, graph.nodes[-1].setting, graph.nodes[-1].output_shapes, graph.parameters
        ('scores', '2 units', ((None, 2),), 10)
        >>> graph.edges
        (GraphEdge(source=0, source_output=0, target=1, target_input=0),)
    """
    functional = _functional_form(model)
    by_depth = _private(functional, "_nodes_by_depth")
    # The depth is the distance from the outputs, so this is the order in which Keras itself runs the calls.
    calls = [call for depth in sorted(by_depth, reverse=True) for call in by_depth[depth]]
    origin = {
        id(tensor): (index, number)
        for index, call in enumerate(calls)
        for number, tensor in enumerate(_private(call, "output_tensors"))
    }
    total = Counter(id(_private(call, "operation")) for call in calls)
    seen: Counter[int] = Counter()
    nodes = []
    for index, call in enumerate(calls):
        seen[id(call.operation)] += 1
        nodes.append(_node(index, call, seen[id(call.operation)], total[id(call.operation)]))
    return ModelGraph(
        name=model.name,
        class_name=type(model).__name__,
        nodes=tuple(nodes),
        edges=tuple(
            GraphEdge(*origin[id(tensor)], target=index, target_input=number)
            for index, call in enumerate(calls)
            for number, tensor in enumerate(_private(call, "input_tensors"))
        ),
        inputs=tuple(origin[id(tensor)][0] for tensor in functional.inputs),
        outputs=tuple(origin[id(tensor)] for tensor in functional.outputs),
        trainable_parameters=_size(model.trainable_weights),
        non_trainable_parameters=_size(model.non_trainable_weights),
    )


def _functional_form(model: Any) -> Any:
    """Returns the object that holds the graph: a Functional model itself, or the one inside a Sequential model."""
    import keras

    if isinstance(model, keras.Sequential):
        functional = _private(model, "_functional")
        if functional is None:
            raise InvalidArgumentError(
                "model",
                expected="a model that has been built",
                received=model,
                advice="Start the model with keras.Input(shape), or call model.build(input_shape) first. "
                "If that was done, a layer cannot tell its output's shape: give it compute_output_shape().",
            )
        return functional
    if isinstance(model, keras.Function) and isinstance(model, keras.Model):
        return model
    is_model = isinstance(model, keras.Model)
    raise InvalidArgumentError(
        "model",
        expected="a Sequential or Functional Keras model",
        received=model,
        advice="A subclassed model is Python code and keeps no graph: write it as keras.Model(inputs, outputs), "
        "or pass one of the Functional models inside it."
        if is_model
        else "Pass the keras.Model itself.",
    )


def _private(owner: Any, attribute: str) -> Any:
    """Returns a private attribute of a Keras object, or raises an error that names it."""
    try:
        return getattr(owner, attribute)
    except AttributeError:
        import keras

        raise BackendError(
            f"Keras {keras.__version__} cannot be asked for a model's graph: {type(owner).__name__}.{attribute}, which "
            "earlier releases had, is gone. Update dlf, or install a release of Keras that dlf was tested with."
        ) from None


def _node(index: int, call: Any, number: int, calls: int) -> GraphNode:
    operation = call.operation
    kind = _kind(operation)
    outputs = call.output_tensors
    return GraphNode(
        index=index,
        name=operation.name,
        class_name=type(operation).__name__,
        kind=kind,
        family=_family(type(operation)) if kind == "layer" else {"operation": "op"}.get(kind, kind),
        path=getattr(operation, "path", None) or operation.name,
        input_shapes=tuple(tuple(tensor.shape) for tensor in call.input_tensors),
        output_shapes=tuple(tuple(tensor.shape) for tensor in outputs),
        output_dtypes=tuple(str(tensor.dtype) for tensor in outputs),
        trainable_parameters=_size(getattr(operation, "trainable_weights", ())),
        non_trainable_parameters=_size(getattr(operation, "non_trainable_weights", ())),
        setting=_setting(operation),
        activation=_activation(operation),
        trainable=bool(getattr(operation, "trainable", False)),
        call=number,
        calls=calls,
    )


def _kind(operation: Any) -> Literal["input", "layer", "model", "operation"]:
    import keras

    if isinstance(operation, keras.layers.InputLayer):
        return "input"
    if isinstance(operation, keras.Model):
        return "model"
    return "layer" if isinstance(operation, keras.layers.Layer) else "operation"


def _family(layer_class: type) -> str:
    """Returns the folder of `keras.layers` that defines the layer's class or its nearest Keras ancestor."""
    for ancestor in layer_class.__mro__:
        folder, _, rest = ancestor.__module__.partition(".layers.")[2].partition(".")
        if ancestor.__module__.startswith("keras.") and rest:
            return folder
    return "custom"


def _size(variables: Iterable[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _times(value: Any) -> str:
    """Formats a size: one number, or one for each axis with multiplication signs between them."""
    return (
        "\N{MULTIPLICATION SIGN}".join(str(axis) for axis in value) if isinstance(value, tuple | list) else f"{value:,}"
    )


def _step(value: Any) -> str:
    """Formats a step, such as a stride; a step that is the same along all axes is written once."""
    return _times(value[:1] if isinstance(value, tuple | list) and len(set(value)) == 1 else value)


_SETTINGS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("filters", "{} filters", _times),
    ("units", "{} units", _times),
    ("output_dim", "{} dimensions", _times),
    ("kernel_size", "{}", _times),
    ("pool_size", "pool {}", _times),
    ("strides", "stride {}", _step),
    ("dilation_rate", "dilation {}", _step),
    ("num_heads", "{} heads", _times),
    ("key_dim", "key size {}", _times),
    ("rate", "rate {}", str),
    ("target_shape", "to {}", str),
    ("max_value", "at most {}", str),
    ("negative_slope", "slope {}", str),
    ("axis", "axis {}", str),
)


def _setting(operation: Any) -> str:
    """Returns the main settings in a few words, without those that have no effect, such as a stride of 1."""
    if _kind(operation) == "model":
        return f"{len(operation.layers)} layers"
    inner = _wrapped(operation)
    if inner is not None:
        return f"{type(inner).__name__}: {_setting(inner)}".rstrip(": ")
    words = []
    for attribute, template, shown in _SETTINGS:
        value = _attribute(operation, attribute)
        axes = value if isinstance(value, tuple | list) else (value,)
        if not axes or any(isinstance(axis, bool) or not isinstance(axis, int | float) for axis in axes):
            continue
        if attribute in ("strides", "dilation_rate") and set(axes) == {1}:
            continue
        if attribute == "strides" and value == _attribute(operation, "pool_size"):
            continue
        if attribute == "axis" and _family(type(operation)) == "normalization":
            continue
        if attribute == "negative_slope" and not value:
            continue
        words.append((template.removesuffix("s") if value == 1 else template).format(shown(value)))
    return ", ".join(words)


def _wrapped(operation: Any) -> Any:
    """Returns the layer inside a wrapper such as `TimeDistributed` or `Bidirectional`, or `None`."""
    import keras

    inner = _attribute(operation, "layer") or _attribute(operation, "forward_layer")
    return inner if isinstance(inner, keras.layers.Layer) and inner is not operation else None


def _activation(operation: Any) -> str:
    activation = _attribute(operation, "activation")
    if activation is None:
        activation = _attribute(_wrapped(operation), "activation")
    if activation is None:
        return ""
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", type(activation).__name__)
    return "" if name == "linear" else name


def _attribute(owner: Any, name: str) -> Any:
    """Returns an attribute of a layer, or `None` if reading it fails: a custom layer's property may raise any error."""
    with contextlib.suppress(Exception):
        return getattr(owner, name)
    return None
