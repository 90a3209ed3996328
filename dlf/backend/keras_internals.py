"""The only module that uses Keras's private API; each function says why no public API will do.

Each private name is looked up when it is used. If Keras has changed, the error says which name was expected.
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

from dlf.utils.errors import BackendError, gone

__all__ = [
    "as_logs",
    "build_for",
    "builds_while_tracing",
    "call_symbolically",
    "data_adapter",
    "decay_of_weights",
    "draw_key",
    "dtype_policy_kept",
    "epoch_to_resume_at",
    "float32_widened",
    "float64_kept",
    "functions_heard",
    "mask_of",
    "profiles_batches",
    "random_functions",
    "random_functions_replaced",
    "set_global_seed",
    "stop_gradient_undone",
    "tensorflow_hidden",
    "tensors_freed",
    "variables_updated_by",
    "waits_for_a_batch",
    "with_mask",
]


@contextmanager
def tensorflow_hidden() -> Iterator[None]:
    """Keeps Keras from importing TensorFlow on another backend, for as long as the context lasts.

    `keras.utils.set_random_seed`, `Model.save` and every function that serializes a configuration check whether
    TensorFlow is available. The check imports TensorFlow if it is installed, which costs seconds and hundreds of MiB
    for nothing. No public switch turns that off.

    Raises:
        BackendError: Keras no longer keeps the flag where it did.
    """
    if keras.config.backend() == "tensorflow" or "tensorflow" in sys.modules:
        yield
        return
    from keras.src.utils import module_utils

    module: Any = getattr(module_utils, "tensorflow", None)
    if not hasattr(module, "_available"):
        raise _gone("keras.src.utils.module_utils.tensorflow._available")
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
    """Returns the functions with which Keras's layers draw random numbers at present, by name.

    There is no public function between `keras.layers.Dropout` and its mask: layers call the backend's `random` module
    directly.

    Raises:
        BackendError: Keras no longer has one of the functions, or its arguments have changed.

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
            raise _gone(
                f"keras.src.backend.random.{name}({', '.join(arguments)})",
                f"found {'nothing' if found is None else list(found)}",
            )
    return {name: getattr(module, name) for name in _RANDOM_ARGUMENTS}


@contextmanager
def random_functions_replaced(replacements: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replaces some of the `random_functions`, for as long as the context lasts.

    Args:
        replacements: Functions by name, with the same arguments as the functions that they replace.

    Raises:
        BackendError: As for `random_functions`.
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
    """Reports every call of the named functions of Keras's backend, for as long as the context lasts.

    `keras.ops`, layers and losses all call these functions; there is no public function that all of them call.

    Args:
        names: Names such as ``"nn.average_pool"``; a name that this version of Keras does not have is ignored.
        hear: Called before each call, with the function's name and its arguments by name.

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
    """Makes `keras.ops.stop_gradient` return its argument with its gradient, for as long as the context lasts.

    Layers and user code may have imported `stop_gradient` already, so replacing the public name would not reach them.
    All of them call the backend's function, which is replaced here.

    Args:
        note: Called at each call of `stop_gradient`.

    Raises:
        BackendError: Keras's backend no longer has the function.

    Example:
        >>> with stop_gradient_undone(lambda: print("called")):
        ...     _ = keras.ops.stop_gradient(keras.ops.ones(1))
        called
    """
    from keras.src import backend

    core: Any = getattr(backend, "core", None)
    before = getattr(core, "stop_gradient", None)
    if before is None:
        raise _gone("keras.src.backend.core.stop_gradient")

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

    `SeedGenerator.next` is public, but the way Keras treats a plain integer or None is not.

    Args:
        seed: An integer, a `keras.random.SeedGenerator`, None for the global generator, or a key, which is returned.

    Raises:
        BackendError: Keras no longer has the two functions.
    """
    if keras.ops.is_tensor(seed):
        return seed
    seed_generator = _seed_generators()
    if seed is not None or keras.config.backend() == "jax":
        return seed_generator.draw_seed(seed)
    # The global generator advances by a product, which would overflow differently in each backend's integer type.
    state = seed_generator.global_seed_generator().state
    key = _uint32(keras.ops.cast(state.value, "int64"))
    state.assign(keras.ops.cast(_uint32(_uint32(key + 1) * 5387) % 933199, state.dtype))
    return key


def set_global_seed(number: int) -> None:
    """Puts the generator from which Keras draws where no seed is given in a state that depends on a number alone.

    Args:
        number: Not negative; of the same number, the same draws follow on every backend.

    Raises:
        BackendError: Keras no longer has this generator.

    Example:
        >>> set_global_seed(3)
        >>> first = keras.random.uniform((2,))
        >>> set_global_seed(3)
        >>> bool(keras.ops.all(keras.random.uniform((2,)) == first))
        True
    """
    state = _seed_generators().global_seed_generator().state
    state.assign(keras.ops.convert_to_tensor([number, 0], state.dtype))


def _seed_generators() -> Any:
    from keras.src.random import seed_generator

    if not hasattr(seed_generator, "draw_seed") or not hasattr(seed_generator, "global_seed_generator"):
        raise _gone("keras.src.random.seed_generator.draw_seed and global_seed_generator")
    return seed_generator


def _uint32(numbers: Any) -> Any:
    return keras.ops.bitwise_and(numbers, keras.ops.cast(2**32 - 1, "int64"))


@contextmanager
def dtype_policy_kept() -> Iterator[None]:
    """Puts the global dtype policy back in the end; where none was set, it goes on following `floatx`.

    `keras.config.dtype_policy` sets one where there is none: a `keras.config.set_floatx` after it has no effect on it.

    Raises:
        BackendError: Keras no longer keeps the policy under this name.

    Example:
        >>> with dtype_policy_kept():
        ...     keras.config.set_dtype_policy("mixed_bfloat16")
        >>> keras.config.dtype_policy().name
        'float32'
    """
    from keras.src.backend.common import global_state

    if not hasattr(global_state, "get_global_attribute") or not hasattr(global_state, "set_global_attribute"):
        raise _gone("keras.src.backend.common.global_state.get_global_attribute and set_global_attribute")
    policy = global_state.get_global_attribute("dtype_policy")
    try:
        yield
    finally:
        global_state.set_global_attribute("dtype_policy", policy)


@contextmanager
def float64_kept() -> Iterator[None]:
    """Makes Keras's operations return float64 for float64 arguments, for as long as the context lasts.

    On JAX and PyTorch, a table in Keras demotes the results of `keras.ops.matmul`, `var` and others to float32,
    whatever `keras.config.set_floatx` says. No public switch turns that off. With `floatx` float64, Keras also widens
    Python integers, as in `keras.ops.arange`; TensorFlow then refuses to compare them with a model's own int32.
    Inside the context, Python integers keep the width that they have with `floatx` float32.

    Raises:
        BackendError: Keras no longer has the table or the function, or no longer uses them.

    Example:
        >>> with float64_kept():
        ...     keras.backend.result_type("float64", "float64"), keras.backend.result_type("uint8", int)
        ('float64', 'uint8')
    """
    with ExitStack() as stack:
        # Keras demotes complex128 to complex64, too.
        for dtype in ("float64", "complex128"):
            ask = partial(keras.backend.result_type, dtype, dtype)
            stack.enter_context(_dtype_replaced("BIT64_TO_BIT32_DTYPE", dtype, dtype, ask))
        stack.enter_context(_integers_as_they_are())
        yield


@contextmanager
def _integers_as_they_are() -> Iterator[None]:
    """Gives Python integers the width that they have with `floatx` float32, for as long as the context lasts."""
    from keras.src.backend.common import dtypes

    resolve = getattr(dtypes, "_resolve_weak_type", None)
    if resolve is None or list(inspect.signature(resolve).parameters) != ["dtype", "precision"]:
        raise _gone("keras.src.backend.common.dtypes._resolve_weak_type(dtype, precision)")

    def resolve_as_in_float32(dtype: str, precision: str = "32") -> Any:
        return resolve(dtype, precision="32" if "int" in dtype else precision)

    dtypes._resolve_weak_type = resolve_as_in_float32
    try:
        yield
    finally:
        dtypes._resolve_weak_type = resolve


@contextmanager
def float32_widened() -> Iterator[None]:
    """Makes the dtype name ``"float32"`` mean float64 to Keras, for as long as the context lasts.

    Some of Keras's layers ask for float32 by name, whatever their own dtype is. Keras looks dtype names up in a private
    table, and no public function changes it.

    Raises:
        BackendError: Keras no longer has the table, or no longer uses it.

    Example:
        >>> with float32_widened():
        ...     keras.backend.standardize_dtype("float32")
        'float64'
    """
    with _dtype_replaced("PYTHON_DTYPES_MAP", "float32", "float64", lambda: keras.backend.standardize_dtype("float32")):
        yield


@contextmanager
def _dtype_replaced(name: str, key: str, dtype: str, ask: Callable[[], str]) -> Iterator[None]:
    """Replaces the entry `key` of one of Keras's dtype tables, and checks with `ask` that Keras uses the entry."""
    from keras.src.backend.common import dtypes

    table: Any = getattr(dtypes, name, {})
    before = table.get(key)
    table[key] = dtype
    try:
        if ask() != dtype:
            raise _gone(
                f"keras.src.backend.common.dtypes.{name} to say what {key} stands for",
                "and it is gone or no longer does",
            )
        yield
    finally:
        if before is None:
            del table[key]
        else:
            table[key] = before


@contextmanager
def tensors_freed() -> Iterator[None]:
    """Makes Functional models free each tensor once its last consumer has it, for as long as the context lasts.

    Keras keeps every tensor of a Functional or Sequential model until the whole model has run. No public switch turns
    that off.

    Raises:
        BackendError: Keras no longer has the functions that run such a model.
    """
    from keras.src.ops import function, symbolic_arguments

    graph, arguments = function.Function, symbolic_arguments.SymbolicArguments
    run, fill_in = getattr(graph, "_run_through_graph", None), getattr(arguments, "fill_in", None)
    if run is None or fill_in is None or list(inspect.signature(fill_in).parameters) != ["self", "tensor_dict"]:
        raise _gone(
            "keras.src.ops.function.Function._run_through_graph and "
            "keras.src.ops.symbolic_arguments.SymbolicArguments.fill_in(self, tensor_dict)"
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
            # Only the values are dropped: Keras reads from the keys which tensors were computed.
            tensor_dict.update(dict.fromkeys(running[-1].get(id(self), ())))
        return filled

    graph._run_through_graph, arguments.fill_in = run_and_free, fill_in_and_free
    try:
        yield
    finally:
        graph._run_through_graph, arguments.fill_in = run, fill_in


def _last_uses(graph: Any) -> dict[int, set[int]]:
    """Returns the tensors that no node needs any more after each node: sets of tensor ids, by id of its arguments."""
    if not hasattr(graph, "_nodes_by_depth"):
        raise _gone("keras.Function._nodes_by_depth")
    later, found = {id(each) for each in graph.outputs}, {}
    # From the outputs, of depth 0, to the inputs.
    for depth in sorted(graph._nodes_by_depth):
        for node in reversed(graph._nodes_by_depth[depth]):
            taken = {id(each) for each in node.input_tensors}
            found[id(node.arguments)] = taken - later
            later |= taken
    return found


def build_for(model: keras.Model, batch: Any, when_read: Callable[[], object] = lambda: None) -> None:
    """Creates all variables of a compiled model, its metrics and its optimizer, as Keras's `fit` does at its start.

    `Model.build` creates the model's own variables alone. Those of metrics and losses are created inside `fit`.

    Args:
        model: A compiled model.
        batch: A batch of tensors.
        when_read: Called when Keras reads the batch; it does so only if it needs one to build something.

    Raises:
        BackendError: Keras no longer has the method.
    """
    build = getattr(model, "_symbolic_build", None)
    if build is None or "iterator" not in inspect.signature(build).parameters:
        raise _gone("keras.Model._symbolic_build(iterator=)")

    def read() -> Iterator[Any]:
        when_read()
        yield 0, 0, (batch,)

    build(iterator=read())


def builds_while_tracing(model: keras.Model) -> bool:
    """Tells whether Keras's `fit` creates this model's missing variables while it traces the first step.

    It does so on TensorFlow, and traces the step again if any variable was created.
    """
    return keras.config.backend() == "tensorflow" and bool(model.built)


def call_symbolically(model: keras.Model, batch: Any) -> Any:
    """Calls a built model on symbolic inputs of a batch's shapes and dtypes, and returns the symbolic outputs.

    A public call on a `keras.KerasTensor` would add nodes to the graph of the model.

    Args:
        model: The model.
        batch: A batch of tensors.

    Raises:
        BackendError: Keras no longer has the function.
    """
    from keras.src import backend

    if not hasattr(backend, "compute_output_spec"):
        raise _gone("keras.src.backend.compute_output_spec")
    inputs = keras.utils.unpack_x_y_sample_weight(batch)[0]
    symbols = keras.tree.map_structure(
        lambda each: keras.KerasTensor(each.shape, keras.backend.standardize_dtype(each.dtype)), inputs
    )
    return backend.compute_output_spec(model, symbols, training=False)


def waits_for_a_batch(model: keras.Model, *, compiled: bool = True) -> bool:
    """Tells whether Keras has to read a batch before the first epoch, to build the parts that are not built yet.

    Args:
        model: A model.
        compiled: Whether losses and metrics must be built, too, as for `fit` and `evaluate`.

    Raises:
        BackendError: Keras no longer has these attributes of a model.
    """
    layers = getattr(model, "_flatten_layers", None)
    if layers is None or not hasattr(model, "_compile_loss") or not hasattr(model, "_compile_metrics"):
        raise _gone("keras.Model._flatten_layers, _compile_loss and _compile_metrics")
    needed = [*layers(), *((model._compile_loss, model._compile_metrics) if compiled else ())]
    return not all(each.built for each in needed if each is not None)


def data_adapter() -> type:
    """Returns Keras's `DataAdapter`, whose instances `fit` accepts unchanged and reads batches from.

    The public way is a `keras.utils.PyDataset`. With it, TensorFlow's trainer accepts no lists and loses the batch
    size, and every trainer puts inputs without labels into a tuple.

    Raises:
        BackendError: Keras no longer has the class, or one of the methods is gone.
    """
    from keras.src.trainers import data_adapters

    found: Any = getattr(getattr(data_adapters, "data_adapter", None), "DataAdapter", None)
    methods = ("get_jax_iterator", "get_tf_dataset", "get_torch_dataloader", "num_batches", "on_epoch_begin")
    if found is None or not all(hasattr(found, name) for name in methods):
        raise _gone(f"keras.src.trainers.data_adapters.data_adapter.DataAdapter with {', '.join(methods)}")
    adapter: type = found
    return adapter


def as_logs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the logs of a step or of metrics as Keras's `evaluate` does: to a flat dictionary of Python floats.

    Args:
        values: Tensors and dictionaries of tensors, by name.

    Raises:
        BackendError: Keras no longer has the function.

    Example:
        >>> import numpy as np
        >>> as_logs({"loss": np.float32(0.5), "counts": {"b": 2, "a": 1}})
        {'a': 1.0, 'b': 2.0, 'loss': 0.5}
    """
    from keras.src.utils import python_utils

    if not hasattr(python_utils, "pythonify_logs"):
        raise _gone("keras.src.utils.python_utils.pythonify_logs")
    logs: dict[str, Any] = python_utils.pythonify_logs(values)
    return logs


def decay_of_weights(optimizer: keras.optimizers.Optimizer) -> Callable[[Any], bool] | None:
    """Returns a function that tells whether weight decay applies to a variable.

    `exclude_from_weight_decay` is public, but Keras keeps its arguments under private names.

    Args:
        optimizer: A Keras optimizer.

    Returns:
        The function, or None if `exclude_from_weight_decay` was not called.

    Raises:
        BackendError: Keras no longer keeps the arguments under these names.

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
        raise _gone("keras.optimizers.Optimizer._exclude_from_weight_decay and _use_weight_decay")
    if not hasattr(optimizer, "_exclude_from_weight_decay"):
        return None
    decays: Callable[[Any], bool] = optimizer._use_weight_decay
    return decays


def variables_updated_by(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Returns the variables that an optimizer was built for, in the order in which `stateless_apply` takes gradients.

    Args:
        optimizer: A Keras optimizer that is built.

    Raises:
        BackendError: Keras no longer keeps them under this name.

    Example:
        >>> optimizer, variable = keras.optimizers.SGD(), keras.Variable([1.0])
        >>> optimizer.build([variable])
        >>> variables_updated_by(optimizer)[0] is variable
        True
    """
    if not hasattr(optimizer, "_trainable_variables"):
        raise _gone("keras.optimizers.Optimizer._trainable_variables")
    return list(optimizer._trainable_variables)


def epoch_to_resume_at(model: keras.Model) -> int:
    """Returns the epoch at which `keras.callbacks.BackupAndRestore` wants training to resume, or 0.

    The callback stores the number in a private attribute of the model, where `fit` reads it.

    Raises:
        BackendError: Keras no longer keeps the number there.
    """
    if not hasattr(model, "_initial_epoch"):
        raise _gone("keras.Model._initial_epoch")
    return int(model._initial_epoch or 0)


def profiles_batches(callback: keras.callbacks.TensorBoard) -> bool:
    """Tells whether Keras's TensorBoard callback was given a `profile_batch`, which only a private attribute shows.

    Args:
        callback: The callback.

    Raises:
        BackendError: Keras no longer has the attribute.
    """
    if not hasattr(callback, "_should_trace"):
        raise _gone("keras.callbacks.TensorBoard._should_trace")
    return bool(callback._should_trace)


def mask_of(tensor: Any) -> Any:
    """Returns the mask that Keras has attached to a tensor, or None."""
    return _masking().get_keras_mask(tensor) if keras.ops.is_tensor(tensor) else None


def with_mask(tensor: Any, mask: Any) -> Any:
    """Attaches a mask to a tensor, where Keras's layers look for it, and returns the tensor.

    No public function attaches a mask to a tensor that is then passed to a model.

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
            raise _gone(f"keras.src.backend.{name}")
    return backend


def _gone(expected: str, what: str | None = None) -> BackendError:
    return gone("Keras", keras.__version__, expected, what)
