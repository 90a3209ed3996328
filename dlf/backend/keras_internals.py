"""The one place that touches what Keras keeps private, each piece with the reason why nothing public will do.

Every piece is probed when it is used: where Keras has changed, the error says what was looked for.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np  # noqa: F401 - the examples use it.

from dlf.utils.errors import BackendError

__all__ = [
    "as_logs",
    "build_for",
    "builds_while_tracing",
    "call_symbolically",
    "data_adapter",
    "decay_of_weights",
    "draw_key",
    "epoch_to_resume_at",
    "float32_widened",
    "float64_kept",
    "functions_heard",
    "mask_of",
    "profiles_batches",
    "random_functions",
    "random_functions_replaced",
    "stop_gradient_undone",
    "tensorflow_hidden",
    "tensors_freed",
    "waits_for_a_batch",
    "with_mask",
]


@contextmanager
def tensorflow_hidden() -> Iterator[None]:
    """Keeps Keras from importing TensorFlow on another backend, for as long as the context lasts.

    `keras.utils.set_random_seed`, `Model.save` and whatever writes a configuration down ask whether TensorFlow is
    available, and asking imports it wherever it is installed: seconds and hundreds of MiB for nothing. No public switch
    turns that off.

    Raises:
        BackendError: Keras no longer keeps the flag where it did.
    """
    if keras.config.backend() == "tensorflow" or "tensorflow" in sys.modules:
        yield
        return
    from keras.src.utils import module_utils

    module: Any = getattr(module_utils, "tensorflow", None)
    if not hasattr(module, "_available"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.utils.module_utils.tensorflow._available, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    before = module._available
    module._available = False
    try:
        yield
    finally:
        module._available = before


_RANDOM_ARGUMENTS = {
    "dropout": ("inputs", "rate", "noise_shape", "seed"),
    "normal": ("shape", "mean", "stddev", "dtype", "seed"),
    "randint": ("shape", "minval", "maxval", "dtype", "seed"),
    "shuffle": ("x", "axis", "seed"),
    "truncated_normal": ("shape", "mean", "stddev", "dtype", "seed"),
    "uniform": ("shape", "minval", "maxval", "dtype", "seed"),
}


def random_functions() -> dict[str, Callable[..., Any]]:
    """Returns the functions that Keras's layers draw random numbers with, as they are now, by name.

    Nothing public lies between `keras.layers.Dropout` and its mask: layers call the backend's module by itself.

    Raises:
        BackendError: Keras no longer has one of them, or it takes other arguments.

    Example:
        >>> "dropout" in random_functions()
        True
    """
    from keras.src import backend

    module = getattr(backend, "random", None)
    for name, arguments in _RANDOM_ARGUMENTS.items():
        function = getattr(module, name, None)
        found = tuple(inspect.signature(function).parameters) if callable(function) else None
        if found != arguments:
            raise BackendError(
                f"keras {keras.__version__}: expected keras.src.backend.random.{name}({', '.join(arguments)}), "
                f"found {'nothing' if found is None else list(found)}. "
                "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
            )
    return {name: getattr(module, name) for name in _RANDOM_ARGUMENTS}


@contextmanager
def random_functions_replaced(replacements: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replaces functions of `random_functions`, for as long as the context lasts.

    Args:
        replacements: Functions by name, with the arguments of the ones that they replace.

    Raises:
        BackendError: As `random_functions`.
    """
    from keras.src import backend

    before = random_functions()
    try:
        for name, function in replacements.items():
            setattr(backend.random, name, function)
        yield
    finally:
        for name in replacements:
            setattr(backend.random, name, before[name])


@contextmanager
def functions_heard(names: Iterable[str], hear: Callable[[str, Mapping[str, Any]], None]) -> Iterator[None]:
    """Hears when anything calls functions of Keras's backend, for as long as the context lasts.

    `keras.ops` and Keras's layers and losses all lead there; nothing public lies on every one of these ways.

    Args:
        names: Such as ``"nn.average_pool"``; one that this version of Keras does not have is not called either.
        hear: Is given the name and the arguments by name.

    Example:
        >>> with functions_heard(["nn.celu"], lambda name, arguments: print(name, arguments["alpha"])):
        ...     _ = keras.layers.Activation(lambda x: keras.ops.celu(x, 0.5))(np.ones((1, 1)))
        nn.celu 0.5
    """
    from keras.src import backend

    before: list[tuple[Any, str, Callable[..., Any]]] = []

    def heard(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            hear(name, bound.arguments)
            return function(*args, **kwargs)

        return call

    try:
        for name in names:
            module, _, function = name.partition(".")
            found = getattr(getattr(backend, module, None), function, None)
            if found is not None:
                before.append((getattr(backend, module), function, found))
                setattr(getattr(backend, module), function, heard(name, found))
        yield
    finally:
        for place, function, original in before:
            setattr(place, function, original)


@contextmanager
def stop_gradient_undone(note: Callable[[], None]) -> Iterator[None]:
    """Lets `keras.ops.stop_gradient` leave derivatives as they are, for as long as the context lasts.

    What layers and people's code have imported of it leads to the backend's function, which alone can be replaced.

    Args:
        note: Is called whenever it is.

    Raises:
        BackendError: Keras no longer has it there.

    Example:
        >>> with stop_gradient_undone(lambda: print("called")):
        ...     _ = keras.ops.stop_gradient(keras.ops.ones(1))
        called
    """
    from keras.src import backend

    core: Any = getattr(backend, "core", None)
    before = getattr(core, "stop_gradient", None)
    if before is None:
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.backend.core.stop_gradient, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )

    def stop_gradient(variable: Any) -> Any:
        note()
        return keras.ops.convert_to_tensor(variable)

    core.stop_gradient = stop_gradient
    try:
        yield
    finally:
        core.stop_gradient = before


def draw_key(seed: Any) -> Any:
    """Returns the two integers that Keras draws from a seed, and advances the seed as Keras does on JAX.

    `SeedGenerator.next` is public; how Keras takes a plain integer or None is not.

    Args:
        seed: An integer, a `keras.random.SeedGenerator`, None, or a key.

    Raises:
        BackendError: Keras no longer has the two functions.
    """
    from keras.src.random import seed_generator

    if keras.ops.is_tensor(seed):
        return seed
    if not hasattr(seed_generator, "draw_seed") or not hasattr(seed_generator, "global_seed_generator"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.random.seed_generator.draw_seed and global_seed_generator, "
            "which are gone. Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    if seed is not None or keras.config.backend() == "jax":
        return seed_generator.draw_seed(seed)
    # The global generator steps by a product that overflows differently in the integer type of each backend.
    state = seed_generator.global_seed_generator().state
    key = _uint32(keras.ops.cast(state.value, "int64"))
    state.assign(keras.ops.cast(_uint32(_uint32(key + 1) * 5387) % 933199, state.dtype))
    return key


def _uint32(numbers: Any) -> Any:
    return keras.ops.bitwise_and(numbers, keras.ops.cast(2**32 - 1, "int64"))


@contextmanager
def float64_kept() -> Iterator[None]:
    """Lets Keras's operations return float64 for float64, for as long as the context lasts.

    On JAX and PyTorch a table of Keras's demotes results of `keras.ops.matmul`, `var` and others to float32, whatever
    `keras.config.set_floatx` says. No public switch turns that off. And where the default is float64, Keras makes
    Python's integers wider too, as those of `keras.ops.arange`, which TensorFlow then does not compare with a model's
    own int32: what is of another width here is floating point alone.

    Raises:
        BackendError: Keras no longer has the table or the function, or they no longer do what they did.

    Example:
        >>> with float64_kept():
        ...     keras.backend.result_type("float64", "float64"), keras.backend.result_type("uint8", int)
        ('float64', 'uint8')
    """
    with ExitStack() as stack:
        # Of complex numbers both parts are demoted.
        for dtype in ("float64", "complex128"):
            ask = partial(keras.backend.result_type, dtype, dtype)
            stack.enter_context(_dtype_replaced("BIT64_TO_BIT32_DTYPE", dtype, dtype, ask))
        stack.enter_context(_integers_as_they_are())
        yield


@contextmanager
def _integers_as_they_are() -> Iterator[None]:
    """Lets an integer of Python's be as wide as where the default is float32, for as long as the context lasts."""
    from keras.src.backend.common import dtypes

    resolve = getattr(dtypes, "_resolve_weak_type", None)
    if resolve is None or list(inspect.signature(resolve).parameters) != ["dtype", "precision"]:
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.backend.common.dtypes._resolve_weak_type(dtype, precision)"
            ", which is gone. Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )

    def resolve_as_in_float32(dtype: str, precision: str = "32") -> Any:
        return resolve(dtype, precision="32" if "int" in dtype else precision)

    dtypes._resolve_weak_type = resolve_as_in_float32
    try:
        yield
    finally:
        dtypes._resolve_weak_type = resolve


@contextmanager
def float32_widened() -> Iterator[None]:
    """Gives float64 to whatever asks Keras for float32 by its name, for as long as the context lasts.

    Some of Keras's layers do, whatever their own dtype is. What a name stands for is in a table of Keras's, which
    nothing public changes.

    Raises:
        BackendError: Keras no longer has the table, or it no longer does what it did.

    Example:
        >>> with float32_widened():
        ...     keras.backend.standardize_dtype("float32")
        'float64'
    """
    with _dtype_replaced("PYTHON_DTYPES_MAP", "float32", "float64", lambda: keras.backend.standardize_dtype("float32")):
        yield


@contextmanager
def _dtype_replaced(name: str, key: str, dtype: str, ask: Callable[[], str]) -> Iterator[None]:
    """Lets a table of Keras's give another dtype for one, and checks that Keras goes by it."""
    from keras.src.backend.common import dtypes

    table: Any = getattr(dtypes, name, {})
    before = table.get(key)
    table[key] = dtype
    try:
        if ask() != dtype:
            raise BackendError(
                f"keras {keras.__version__}: expected keras.src.backend.common.dtypes.{name} to say what {key} stands "
                "for, and it is gone or no longer does. "
                "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
            )
        yield
    finally:
        if before is None:
            del table[key]
        else:
            table[key] = before


@contextmanager
def tensors_freed() -> Iterator[None]:
    """Lets Functional models let go of each tensor with the last layer that takes it, for as long as the context lasts.

    Keras keeps every tensor of such a model, and of a Sequential one, until all of it has run. No public switch turns
    that off.

    Raises:
        BackendError: Keras no longer runs such a model by these functions.
    """
    from keras.src.ops import function, symbolic_arguments

    graph, arguments = function.Function, symbolic_arguments.SymbolicArguments
    run, fill_in = getattr(graph, "_run_through_graph", None), getattr(arguments, "fill_in", None)
    if run is None or fill_in is None or list(inspect.signature(fill_in).parameters) != ["self", "tensor_dict"]:
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.ops.function.Function._run_through_graph and "
            "keras.src.ops.symbolic_arguments.SymbolicArguments.fill_in(self, tensor_dict), which are gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    running: list[dict[int, set[int]]] = []

    def run_and_free(self: Any, *args: Any, **kwargs: Any) -> Any:
        running.append(_last_uses(self))
        try:
            return run(self, *args, **kwargs)
        finally:
            running.pop()

    def fill_in_and_free(self: Any, tensor_dict: dict[int, Any]) -> Any:
        filled = fill_in(self, tensor_dict)
        if running:
            # The keys stay: Keras takes them for what was computed.
            tensor_dict.update(dict.fromkeys(running[-1].get(id(self), ())))
        return filled

    graph._run_through_graph, arguments.fill_in = run_and_free, fill_in_and_free
    try:
        yield
    finally:
        graph._run_through_graph, arguments.fill_in = run, fill_in


def _last_uses(graph: Any) -> dict[int, set[int]]:
    """What nobody takes any more after a node of the graph: numbers of tensors by that of the node's arguments."""
    if not hasattr(graph, "_nodes_by_depth"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.Function._nodes_by_depth, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    later, found = {id(each) for each in graph.outputs}, {}
    # From the outputs, of depth 0, to the inputs.
    for depth in sorted(graph._nodes_by_depth):
        for node in reversed(graph._nodes_by_depth[depth]):
            taken = {id(each) for each in node.input_tensors}
            found[id(node.arguments)] = taken - later
            later |= taken
    return found


def build_for(model: keras.Model, batch: Any, when_read: Callable[[], object] = lambda: None) -> None:
    """Makes every variable of a compiled model, of its metrics and of its optimizer, as Keras's `fit` does at first.

    `Model.build` makes the model's own alone; of metrics and losses Keras makes them on the way through `fit`.

    Args:
        model: A compiled model.
        batch: A batch of tensors.
        when_read: Called where Keras would read a batch to do it.

    Raises:
        BackendError: Keras no longer has the method.
    """
    build = getattr(model, "_symbolic_build", None)
    if build is None or "iterator" not in inspect.signature(build).parameters:
        raise BackendError(
            f"keras {keras.__version__}: expected keras.Model._symbolic_build(iterator=), which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )

    def read() -> Iterator[Any]:
        when_read()
        yield 0, 0, (batch,)

    build(iterator=read())


def builds_while_tracing(model: keras.Model) -> bool:
    """Tells whether Keras's `fit` makes what is missing of this model's variables while it traces the first step.

    On TensorFlow it does, and traces once more if there were any.
    """
    return keras.config.backend() == "tensorflow" and bool(model.built)


def call_symbolically(model: keras.Model, batch: Any) -> Any:
    """Calls a model that is built on what stands for a batch's inputs, and returns what stands for its outputs.

    Public calls of that kind leave their traces in the model's graph.

    Args:
        model: The model.
        batch: A batch of tensors.

    Raises:
        BackendError: Keras no longer has the function.
    """
    from keras.src import backend

    if not hasattr(backend, "compute_output_spec"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.backend.compute_output_spec, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    inputs = keras.utils.unpack_x_y_sample_weight(batch)[0]
    symbols = keras.tree.map_structure(
        lambda each: keras.KerasTensor(each.shape, keras.backend.standardize_dtype(each.dtype)), inputs
    )
    return backend.compute_output_spec(model, symbols, training=False)


def waits_for_a_batch(model: keras.Model, *, compiled: bool = True) -> bool:
    """Tells whether Keras has to look at a batch before the first epoch, to build what is not built.

    Args:
        model: A model.
        compiled: Whether losses and metrics are needed, too, as `fit` and `evaluate` need them.

    Raises:
        BackendError: Keras no longer keeps what it builds under these names.
    """
    layers = getattr(model, "_flatten_layers", None)
    if layers is None or not hasattr(model, "_compile_loss") or not hasattr(model, "_compile_metrics"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.Model._flatten_layers, _compile_loss and _compile_metrics, "
            "which are gone. Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    needed = [*layers(), *((model._compile_loss, model._compile_metrics) if compiled else ())]
    return not all(each.built for each in needed if each is not None)


def data_adapter() -> type:
    """Returns the class of what Keras's `fit` takes as it is, and reads batches from.

    Of a `keras.utils.PyDataset`, the public way, TensorFlow's trainer takes no lists and forgets the batch size, and
    every trainer puts inputs without labels into a tuple.

    Raises:
        BackendError: Keras no longer has the class, or it has other methods.
    """
    from keras.src.trainers import data_adapters

    found: Any = getattr(getattr(data_adapters, "data_adapter", None), "DataAdapter", None)
    methods = ("get_jax_iterator", "get_tf_dataset", "get_torch_dataloader", "num_batches", "on_epoch_begin")
    if found is None or not all(hasattr(found, name) for name in methods):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.trainers.data_adapters.data_adapter.DataAdapter with "
            f"{', '.join(methods)}, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    adapter: type = found
    return adapter


def as_logs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a step or the metrics say as Keras's `evaluate` does: flat, by name, numbers of Python's.

    Args:
        values: Tensors and dictionaries of them.

    Raises:
        BackendError: Keras no longer has the function.

    Example:
        >>> import numpy as np
        >>> as_logs({"loss": np.float32(0.5), "counts": {"b": 2, "a": 1}})
        {'a': 1.0, 'b': 2.0, 'loss': 0.5}
    """
    from keras.src.utils import python_utils

    if not hasattr(python_utils, "pythonify_logs"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.utils.python_utils.pythonify_logs, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    logs: dict[str, Any] = python_utils.pythonify_logs(values)
    return logs


def decay_of_weights(optimizer: keras.optimizers.Optimizer) -> Callable[[Any], bool] | None:
    """Returns what tells whether a variable's weights decay, or None where `exclude_from_weight_decay` was not called.

    That method is public; what it was told, Keras keeps under private names.

    Args:
        optimizer: An optimizer of Keras.

    Raises:
        BackendError: Keras no longer keeps it there.

    Example:
        >>> optimizer = keras.optimizers.AdamW()
        >>> optimizer.exclude_from_weight_decay(var_names=["bias"])
        >>> decays = decay_of_weights(optimizer)
        >>> variables = [keras.Variable([1.0], name=name) for name in ("kernel", "bias")]
        >>> [decays(each) for each in variables]
        [True, False]
    """
    told = keras.optimizers.SGD()
    told.exclude_from_weight_decay(var_names=["bias"])
    if not hasattr(told, "_exclude_from_weight_decay") or not hasattr(told, "_use_weight_decay"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.optimizers.Optimizer._exclude_from_weight_decay and "
            "_use_weight_decay, which are gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    if not hasattr(optimizer, "_exclude_from_weight_decay"):
        return None
    decays: Callable[[Any], bool] = optimizer._use_weight_decay
    return decays


def epoch_to_resume_at(model: keras.Model) -> int:
    """Returns the epoch that `keras.callbacks.BackupAndRestore` wants training to go on with, or 0.

    It leaves the number on the model, under a private name, for `fit` to find.

    Raises:
        BackendError: Keras no longer keeps the number there.
    """
    if not hasattr(model, "_initial_epoch"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.Model._initial_epoch, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    return int(model._initial_epoch or 0)


def profiles_batches(callback: keras.callbacks.TensorBoard) -> bool:
    """Tells whether Keras's TensorBoard was given a `profile_batch`, which it keeps under a private name only.

    Args:
        callback: The callback.

    Raises:
        BackendError: Keras no longer keeps it there.
    """
    if not hasattr(callback, "_should_trace"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.callbacks.TensorBoard._should_trace, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    return bool(callback._should_trace)


def mask_of(tensor: Any) -> Any:
    """Returns the mask that Keras has hung on a tensor, or None."""
    return _masking().get_keras_mask(tensor) if keras.ops.is_tensor(tensor) else None


def with_mask(tensor: Any, mask: Any) -> Any:
    """Hangs a mask on a tensor, as Keras's layers find it, and returns the tensor.

    Nothing public hands a mask on with a tensor that is passed to a model.

    Raises:
        BackendError: Keras no longer has the function.
    """
    if mask is not None:
        _masking().set_keras_mask(tensor, mask)
    return tensor


def _masking() -> Any:
    from keras.src import backend

    for name in ("get_keras_mask", "set_keras_mask"):
        if not hasattr(backend, name):
            raise BackendError(
                f"keras {keras.__version__}: expected keras.src.backend.{name}, which is gone. "
                "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
            )
    return backend
