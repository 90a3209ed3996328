"""Records the tensor operations of a step of a Keras model once, and plays them back.

A small step spends most of its time in Python: Keras works out shapes, dtypes and scopes anew at each call. `make_fx`
records the operations of a step, including its backward pass and the optimizer. Played back, they run with little
Python between them: the same operations in the same order, and therefore the same numbers.

A recording is refused if it could differ from the step: if the step's control flow depends on values of tensors, if it
draws random numbers outside of PyTorch and Keras, if it changes something that is not a variable of the model, or if
the recording gives other results when it is tried beside the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from dlf.training.engine.python_state import PythonState

__all__ = ["NotRecordedError", "OtherNumbersError", "Recording", "record", "try_beside"]


class NotRecordedError(Exception):
    """The step cannot be recorded; the message says why."""


class Recording:
    """The operations of one step, as a function of the variables' values and a batch."""

    def __init__(self, variables: list[Any], graph: torch.fx.GraphModule, structure: Any) -> None:
        self.variables = variables
        self._operations = graph.forward
        self._structure = structure

    def play(self, values: list[Any], batch: Any) -> tuple[Any, list[Any]]:
        """Returns the step's result and the variables' new values; some of `values` are changed in place."""
        flat = self._operations(*values, *keras.tree.flatten(batch))
        results = len(flat) - len(values)
        return pytree.tree_unflatten(flat[:results], self._structure), flat[results:]


def record(model: keras.Model, kind: str, batch: Any) -> Recording:
    """Records one step of a model without changing any state.

    Args:
        model: A compiled, built model.
        kind: ``"train_step"``, ``"test_step"`` or ``"predict_step"``.
        batch: The batch of the step; the recording is valid for batches of this shape.

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
        with (
            keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope,
            _OnlyOperations(),
            _OnlyTensors(),
        ):
            result = getattr(model, kind)(keras.tree.pack_sequence_as(batch, list(parts)))
        if scope.state_mapping.keys() - {id(variable) for variable in variables}:
            raise NotRecordedError("it changes a variable that is not the model's")
        flat, specification = pytree.tree_flatten(result)
        structure[:] = [specification]
        new = [scope.get_current_value(variable) for variable in variables]
        new = [old if value is None else value for old, value in zip(values, new, strict=True)]
        return [torch.as_tensor(each).detach() for each in (*flat, *new)]

    values = [each.value.detach().clone().requires_grad_(id(each) in learnt) for each in variables]
    before = PythonState(model)
    if any(_has_parameters_of_its_own(each) for each in before.objects):
        raise NotRecordedError("it holds a module of PyTorch, whose parameters are not Keras's")
    changed = drawn = ""
    try:
        with torch.set_grad_enabled(trains):
            graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*values, *keras.tree.flatten(batch))
        changed, drawn = before.changed(), before.drawn_from()
    except NotRecordedError as error:
        raise _as_raised(error) from error
    except Exception as error:
        raise NotRecordedError(
            f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}"
        ) from error
    finally:
        before.put_back()
    if changed:
        raise NotRecordedError(f"it changes {changed}")
    if drawn:
        raise NotRecordedError(f"it draws random numbers from {drawn}")
    _check(graph, [id(each) in learnt for each in variables])
    return Recording(variables, _without_detours(graph), structure[0])


def try_beside(recording: Recording, model: keras.Model, step: Callable[[], Any], batch: Any) -> Any:
    """Runs a step as Keras does, plays its recording on copies of the variables, and compares the two.

    Args:
        recording: A recording of the step.
        model: The model.
        step: A function that runs the step.
        batch: The batch of the step.

    Returns:
        The step's result.

    Raises:
        OtherNumbersError: The recording gives other results than the step. The step itself has been run.
    """
    old = [variable.value.detach().clone() for variable in recording.variables]
    before = PythonState(model)
    result = step()
    after = PythonState(model)
    # Reset the generators, so that both draw the same random numbers; afterwards they are as after one run.
    before.put_back()
    try:
        with torch.no_grad():
            played, new = recording.play([each.clone() for each in old], batch)
    finally:
        after.put_back()
    results = zip(pytree.tree_leaves(result), pytree.tree_leaves(played), strict=True)
    if not all(_is_close(torch.as_tensor(one), torch.as_tensor(other)) for one, other in results):
        raise OtherNumbersError(result, "it returns other numbers")
    for variable, start, value in zip(recording.variables, old, new, strict=True):
        if not _moved_alike(start, variable.value.detach(), value):
            raise OtherNumbersError(result, f"it changes {variable.path} in another way")
    return result


class _OnlyOperations(TorchDispatchMode):  # type: ignore[misc]  # PyTorch is skipped, so its classes are `Any`.
    """Raises an error at an operation that a recording cannot hold."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable and any(map(_is_real, pytree.tree_leaves(args[:1]))):  # noqa: SLF001 - as below.
            raise NotRecordedError("it changes a tensor that is no variable of the model")
        result = func(*args, **(kwargs or {}))
        if func is _AS_NUMBER and isinstance(result, bool | int | float | complex):
            # For a tensor that the step computes, PyTorch returns a symbolic number. A plain number is that of a tensor
            # from elsewhere, and the recording would hold it as a constant.
            raise NotRecordedError("it asks for the number of a tensor that is no variable of the model")
        return result


_AS_NUMBER = torch.ops.aten._local_scalar_dense.default  # noqa: SLF001 - an operation's public name begins so.


class _OnlyTensors(TorchFunctionMode):  # type: ignore[misc]  # As above.
    """Raises an error at `Tensor.tolist`, the only way to read a tensor's numbers that is no operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.tolist:
            raise NotRecordedError("it asks for the numbers of a tensor")
        return func(*args, **(kwargs or {}))


def _as_raised(error: BaseException) -> BaseException:
    """Returns the original error, which Keras wraps once for each layer that is being called."""
    while isinstance(error.__context__, NotRecordedError):
        error = error.__context__
    return error


def _is_real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)


class OtherNumbersError(NotRecordedError):
    """A recording does something else than its step when it is played back; `result` is the step's result."""

    def __init__(self, result: Any, difference: str) -> None:
        super().__init__(f"what was recorded is not what the step does: {difference}")
        self.result = result


def _moved_alike(start: torch.Tensor, by_step: torch.Tensor, by_recording: torch.Tensor) -> bool:
    if not start.is_floating_point():
        return bool(torch.equal(by_step, by_recording))
    if start.device.type != "cpu":
        # On a GPU, sums may be in any order, and an optimizer may turn a gradient that is rounding alone into a large
        # update. So this compares only whether the variable has changed.
        return bool(torch.equal(start, by_step)) == bool(torch.equal(start, by_recording))
    return _is_close(by_step - start, by_recording - start, torch.finfo(start.dtype).eps * start.norm().item())


def _is_close(one: torch.Tensor, other: torch.Tensor, rounding: float = 0.0) -> bool:
    """Tells whether two tensors differ by at most 1% of the first's norm plus a bound of the rounding errors."""
    one, other = one.double().nan_to_num(), other.double().nan_to_num()
    return bool((one - other).norm() <= 1e-2 * one.norm() + 4 * rounding + torch.finfo(torch.float32).tiny)


def _has_parameters_of_its_own(value: Any) -> bool:
    if not isinstance(value, torch.nn.Module) or isinstance(value, keras.layers.Layer | torch.nn.ParameterDict):
        return False
    return any(True for _ in value.parameters()) or any(True for _ in value.buffers())


def _variables(model: keras.Model) -> list[Any]:
    """Returns every variable that a step may read or change, each once."""
    optimizer = model.optimizer.variables if model.optimizer is not None else []
    groups = (model.trainable_variables, model.non_trainable_variables, optimizer, model.metrics_variables)
    return list({id(variable): variable for group in groups for variable in group}.values())


def _check(graph: torch.fx.GraphModule, learnt: list[bool]) -> None:
    """Raises an error if the recording changes a tensor that is no variable, or none of the variables to be learnt."""
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
    """Removes `detach` operations, which matter only to autograd: nothing is differentiated during playback."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph
