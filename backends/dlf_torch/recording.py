"""A step of a Keras model as the tensor operations that it comes to, recorded once and played back.

Most of a small step's time goes into Python: Keras decides shapes, dtypes and scopes anew at each call. `make_fx`
records the operations of a step, its backward pass and the optimizer included. Played back, they run with little Python
between them: the same operations in the same order, and so the same numbers.

A recording is refused where it could mean something else than the step: where the step's course depends on numbers,
where it draws random numbers outside of PyTorch and Keras, or where it changes what is not a variable of the model.
"""

from __future__ import annotations

import random
from types import FunctionType
from typing import Any

import keras
import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

__all__ = ["NotRecordedError", "Recording", "python_attributes", "record"]


class NotRecordedError(Exception):
    """The step cannot be recorded; the message says why."""


class Recording:
    """The operations of one step, as a function of the variables' values and a batch."""

    def __init__(self, variables: list[Any], graph: torch.fx.GraphModule, structure: Any) -> None:
        self.variables = variables
        self._operations = graph.forward
        self._structure = structure

    def play(self, values: list[Any], batch: Any) -> tuple[Any, list[Any]]:
        """Returns what the step returns, and the variables' new values; some change where they lie."""
        flat = self._operations(*values, *keras.tree.flatten(batch))
        results = len(flat) - len(values)
        return pytree.tree_unflatten(flat[:results], self._structure), flat[results:]


def record(model: keras.Model, kind: str, batch: Any) -> Recording:
    """Records one step of a model, and changes nothing.

    Args:
        model: A compiled model that is built.
        kind: ``"train_step"``, ``"test_step"`` or ``"predict_step"``.
        batch: What the step is given; the recording is good for batches of this shape.

    Returns:
        The recording.

    Raises:
        NotRecordedError: The step cannot be recorded.
    """
    trains = kind == "train_step"
    variables = _variables(model)
    learnt = {id(variable) for variable in model.trainable_variables} if trains else set()
    structure: list[Any] = []

    def step(*arguments: Any) -> list[Any]:
        values, parts = arguments[: len(variables)], arguments[len(variables) :]
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            result = getattr(model, kind)(keras.tree.pack_sequence_as(batch, list(parts)))
        if scope.state_mapping.keys() - {id(variable) for variable in variables}:
            raise NotRecordedError("it changes a variable that is not the model's")
        flat, specification = pytree.tree_flatten(result)
        structure[:] = [specification]
        new = [scope.get_current_value(variable) for variable in variables]
        new = [old if value is None else value for old, value in zip(values, new, strict=True)]
        return [torch.as_tensor(each).detach() for each in (*flat, *new)]

    values = [each.value.detach().clone().requires_grad_(id(each) in learnt) for each in variables]
    if any(isinstance(each, keras.layers.TorchModuleWrapper) for each in model.modules()):
        raise NotRecordedError("it holds a module of PyTorch, whose parameters are not Keras's")
    drawn, attributes = _random_states(), python_attributes(model)
    try:
        with torch.set_grad_enabled(trains):
            graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*values, *keras.tree.flatten(batch))
    except NotRecordedError:
        raise
    except Exception as error:
        raise NotRecordedError(
            f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}"
        ) from error
    finally:
        changed = _put_back(model, attributes)
    if changed:
        raise NotRecordedError(f"it changes the attribute {changed!r}")
    if drawn != _random_states():
        raise NotRecordedError("it draws random numbers outside of PyTorch and Keras")
    _check(graph, [id(each) in learnt for each in variables])
    return Recording(variables, _without_detours(graph), structure[0])


def python_attributes(model: keras.Model) -> dict[tuple[int, str], Any]:
    """Returns the numbers, texts and so on that the model and what it holds keep as attributes.

    A recording holds what they were: where one of them is changed, by a callback say, the step is another.
    """
    owners = [*model.modules(), model.optimizer, getattr(model, "loss", None)]
    return {
        (id(owner), name): value
        for owner in owners
        for name, value in getattr(owner, "__dict__", {}).items()
        if name not in _FLAGS and (value is None or isinstance(value, _PLAIN))
    }


_PLAIN = (bool, int, float, str, torch.Tensor, np.random.Generator, random.Random, FunctionType)
_FLAGS = ("training", "stop_training", "stop_evaluating", "stop_predicting")  # What the loop itself sets.


def _put_back(model: keras.Model, before: dict[tuple[int, str], Any]) -> str:
    """Undoes what recording did to attributes; returns the name of one that it changed, or nothing."""
    owners = {id(owner): owner for owner in [*model.modules(), model.optimizer, getattr(model, "loss", None)]}
    changed = ""
    for (owner, name), value in python_attributes(model).items():
        if before.get((owner, name), value) is not value:
            vars(owners[owner])[name], changed = before[owner, name], name
        if isinstance(value, np.random.Generator | random.Random):
            changed = name
    return changed


def _variables(model: keras.Model) -> list[Any]:
    """Every variable that a step may read or change, once."""
    optimizer = model.optimizer.variables if model.optimizer is not None else []
    groups = (model.trainable_variables, model.non_trainable_variables, optimizer, model.metrics_variables)
    return list({id(variable): variable for group in groups for variable in group}.values())


def _random_states() -> tuple[Any, ...]:
    state: Any = np.random.get_state()  # noqa: NPY002 - whether somebody draws from it is the question.
    return random.getstate(), state[1].tobytes(), state[2]


def _check(graph: torch.fx.GraphModule, learnt: list[bool]) -> None:
    """Raises where the recording changes what is not a variable, or no variable that should be learnt."""
    nodes = list(graph.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    changed = {_origin(node.args[0]) for node in nodes if _is_in_place(node) and not isinstance(node.args[0], list)}
    changed |= {
        _origin(each)
        for node in nodes
        if _is_in_place(node) and isinstance(node.args[0], list | tuple)
        for each in node.args[0]
    }
    if any(node.op == "get_attr" for node in changed):
        raise NotRecordedError("it changes a tensor that is no variable of the model")
    (outputs,) = nodes[-1].args
    new = outputs[len(outputs) - len(learnt) :]
    moved = [old in changed or _origin(value) is not old for old, value in zip(inputs, new, strict=False)]
    if any(learnt) and not any(move for move, wanted in zip(moved, learnt, strict=True) if wanted):
        raise NotRecordedError("it changes no trainable variable of the model by Keras's means")


def _is_in_place(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable  # noqa: SLF001


def _origin(node: torch.fx.Node) -> torch.fx.Node:
    while node.target in _VIEWS:
        node = node.args[0]
    return node


_VIEWS = (torch.ops.aten.detach.default, torch.ops.aten.view.default, torch.ops.aten.alias.default)


def _without_detours(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Leaves out what only matters to autograd: nothing is differentiated when the operations are played back."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph
