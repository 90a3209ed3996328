"""What functions from outside of the files give, and what is wrong with calling them where Keras traces the code."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from dlf.check._entries import FUNCTION_ARGUMENTS
from dlf.check._names import FRAMEWORKS
from dlf.check._values import Class, Function, Given, Instance, Kind, Name, Scope, Self, Value, holds_tensors
from dlf.check.equivalents import NOTHING, equivalent
from dlf.check.gone import ARGUMENTS, METHODS, SAVING
from dlf.check.keras_api import arguments_of

if TYPE_CHECKING:
    from dlf.check._expressions import Expressions

__all__ = ["NO_TENSORS", "TAPE", "Outside"]

TAPE = Instance(Name("tensorflow.GradientTape"))
"""What `tf.GradientTape()` stands for."""

NO_TENSORS = frozenset({"shape", "ndim", "dtype", "is_tensor", "convert_to_numpy", "rank", "size"})
"""Functions of tensors, of any framework, that return something else."""

_NOT_COMPUTING = {
    "tensorflow": "data io config distribute saved_model lookup train lite TensorShape TensorSpec types "
    "executing_eagerly errors estimator test version sysconfig keras autograph DType Tensor "
    "RaggedTensor experimental name_scope control_dependencies init_scope get_logger Module Graph Session",
    "torch": "cuda device dtype utils optim manual_seed backends version Size is_tensor distributed jit load save hub "
    "compile set_default_dtype Tensor",
    "jax": "config devices sharding tree tree_util Array experimental distributed typing jit local_devices core "
    "default_backend device_put device_count ShapeDtypeStruct",
    "numpy": "ndarray dtype ndim shape isscalar size iinfo finfo issubdtype random",
}
"""What of a framework does not compute with tensors: pipelines, devices, types."""
_OUTSIDE = {package: frozenset(names.split()) for package, names in _NOT_COMPUTING.items()}

_GRADIENTS = frozenset(
    {"tensorflow.GradientTape", "tensorflow.gradients", "jax.grad", "jax.value_and_grad", "torch.autograd.grad"}
)
_OF_GRADIENTS = (
    "keras.Model.compute_loss, if it is what the model trains by; in a loop of your own, dlf.value_and_grad or "
    "dlf.TrainingLoop"
)
_RANDOM = frozenset({"random", "uniform", "randint", "choice", "gauss", "sample", "shuffle", "normalvariate"})
_SEEDED = "keras.random, with seed= a keras.random.SeedGenerator that the layer or the model makes in __init__"
_TRAINING = frozenset({"workers", "use_multiprocessing", "max_queue_size"})


class Outside:
    """Reads calls of what is not in the files.

    Args:
        reader: What reads the files.
    """

    def __init__(self, reader: Expressions) -> None:
        self._reader = reader

    def call(self, node: ast.Call, function: Name, given: Given) -> Value:
        """Returns what a call of something from outside stands for."""
        reader, place = self._reader, self._reader.place
        package, _, name = function.dotted.partition(".")
        if function.dotted in _GRADIENTS and not place.pipeline:
            by_inputs = "for a derivative by inputs, keras.ops.jvp; else " * place.inside
            reader.report(node, "own-gradient", by_inputs + _OF_GRADIENTS, ast.unparse(node.func))
            return Instance(function)
        if package == "keras":
            return self._of_keras(node, name, given)
        if package in FRAMEWORKS:
            return self._of_framework(node, package, name, given)
        if package == "random" and name in _RANDOM:
            self._draw(node)
            return None
        if package in {"functools", "copy"}:
            return given.arguments[0] if given.arguments else None
        return Kind.TENSOR if given.has_tensor and place.inside else None

    def check_method(self, node: ast.Call, function: ast.Attribute, owner: Value, scope: Scope) -> None:
        """Notes a call of a method that not every framework, or not this Keras, has.

        Args:
            node: The call.
            function: The method.
            owner: What it is called on.
            scope: The names there.
        """
        reader, name = self._reader, function.attr
        if name == "backward" and not node.args and scope.imports("torch") and not isinstance(owner, Kind):
            reader.report(function, "own-gradient", _OF_GRADIENTS)
        if name == "compile":
            self._compile(node, scope)
        if name in _ASSIGNING and reader.place.branch:
            advice = "variable.assign(keras.ops.where(condition, new, variable)), outside of the branch"
            reader.report(node, "assign-in-branch", advice)
        if isinstance(owner, Self | Instance) and _is_of_keras(owner.of):
            self._check_method_of_keras(node, function)

    def _check_method_of_keras(self, node: ast.Call, function: ast.Attribute) -> None:
        reader, name = self._reader, function.attr
        if name in METHODS:
            reader.report(function, "gone-method", METHODS[name])
        first = node.args[0] if node.args else None
        if name == "add_weight" and isinstance(first, ast.Constant) and isinstance(first.value, str):
            reader.report(first, "gone-argument", "name=..., since the shape comes first")
        for each in node.keywords:
            if name in {"fit", "evaluate", "predict"} and each.arg in _TRAINING:
                reader.report(each.value, "gone-argument", "arguments of a keras.utils.PyDataset", f"{each.arg}=")
            if name == "save" and each.arg == "save_format":
                reader.report(each.value, "saved-model", "a file name that ends in .keras", "save_format=")
        endings = {"save": (".keras", ".h5", ".hdf5"), "save_weights": (".weights.h5",)}.get(name, ())
        ending = _ending(first)
        if endings and ending and not ending.endswith(endings):
            reader.report(node, "saved-model", f"a file name that ends in {endings[0]}")

    def _compile(self, node: ast.Call, scope: Scope) -> None:
        """Reads the functions that `compile` is given as losses and metrics."""
        given = [*node.args[1:], *(each.value for each in node.keywords if each.arg in _COMPILED)]
        for inner in (inner for each in given for inner in ast.walk(each)):
            if isinstance(inner, ast.Name | ast.Lambda | ast.Call):
                with self._reader.findings.unreported():
                    value = self._reader.value(inner, scope)
                if isinstance(value, Function):
                    self._reader.call(value, traced=True)

    def _of_keras(self, node: ast.Call, name: str, given: Given) -> Value:
        family, _, last = name.rpartition(".")
        self._check_arguments(node, f"keras.{name}")
        if last == "Input":
            return Kind.TENSOR
        if family == "tree":
            return self._of_tree(last, given)
        if name == "callbacks.ModelCheckpoint":
            self._check_checkpoint(node)
        self._read_functions(node, last, given)
        if family.partition(".")[0] == "ops" and last not in NO_TENSORS:
            return self._of_ops(node, last, given)
        if family == "random" and last != "shuffle" and not last[:1].isupper():
            seed = next((each.value for each in node.keywords if each.arg == "seed"), None)
            unknown = any(each.arg is None for each in node.keywords)
            if isinstance(seed, ast.Constant) or (seed is None and not unknown):
                self._draw(node)
        if last == "Variable":
            return Kind.VARIABLE
        if last[:1].isupper() or family.partition(".")[0] == "applications":
            return Instance(Name(f"keras.{name}"))
        return Kind.TENSOR if given.has_tensor and family != "utils" and last not in NO_TENSORS else None

    def _of_ops(self, node: ast.Call, name: str, given: Given) -> Value:
        reader, place = self._reader, self._reader.place
        if place.pipeline:
            advice = f"TensorFlow's function for it (tf.{name}, say), or the same in a layer"
            reader.report(node, "ops-in-tf-data", advice, ast.unparse(node.func))
        if place.inside and (name == "nonzero" or (name == "where" and len(node.args) + len(node.keywords) == 1)):
            advice = "keras.ops.where(condition, x, y), or a product with the condition"
            reader.report(node, "shape-by-values", advice, ast.unparse(node))
        for each in given.functions if name in _BRANCHING and place.inside else ():
            reader.call(each, traced=True, branch=True)
        return Kind.TENSOR if given.has_tensor or place.inside else None

    def _check_checkpoint(self, node: ast.Call) -> None:
        keywords = {each.arg: each.value for each in node.keywords}
        weights = keywords.get("save_weights_only")
        alone = isinstance(weights, ast.Constant) and weights.value is True
        endings = (".weights.h5",) if alone else (".keras", ".h5", ".hdf5")
        ending = _ending(node.args[0] if node.args else keywords.get("filepath"))
        if ending and not ending.endswith(endings) and (weights is None or isinstance(weights, ast.Constant)):
            self._reader.report(node, "saved-model", f"a file name that ends in {endings[0]}", "ModelCheckpoint(...)")

    def _of_tree(self, name: str, given: Given) -> Value:
        if not given.has_tensor:
            return None
        if given.functions:
            made = self._reader.call(given.functions[0], traced=self._reader.place.inside)
            return Kind.CONTAINER if holds_tensors(made) else None
        return Kind.CONTAINER if name in {"flatten", "pack_sequence_as", "map_structure"} else None

    def _read_functions(self, node: ast.Call, name: str, given: Given) -> None:
        """Reads the functions that a class of Keras's is given, and will call with tensors."""
        called = [value for key, value in given.keywords.items() if key in FUNCTION_ARGUMENTS]
        if name in {"Lambda", "Activation"}:
            called += given.arguments[:1]
        for each in called:
            if isinstance(each, Function):
                self._reader.call(each, traced=True)
            elif isinstance(each, Name) and each.package in FRAMEWORKS:
                package, _, function = each.dotted.partition(".")
                self._reader.report(node, FRAMEWORKS[package], equivalent(package, function) or NOTHING, each.dotted)

    def _check_arguments(self, node: ast.Call, name: str) -> None:
        known = arguments_of(name)
        for each in node.keywords if known else ():
            if each.arg and each.arg not in known:
                advice = f"one of {name}'s own arguments: {', '.join(known)}"
                self._reader.report(each.value, "gone-argument", advice, f"{each.arg}=")
        for pattern, argument, advice in ARGUMENTS:
            for each in node.keywords:
                if each.arg == argument and pattern.fullmatch(name):
                    self._reader.report(each.value, "gone-argument", advice, f"{argument}=")

    def _of_framework(self, node: ast.Call, package: str, name: str, given: Given) -> Value:
        reader, place = self._reader, self._reader.place
        first, last, shown = name.partition(".")[0], name.rpartition(".")[2], ast.unparse(node.func)
        if package == "tensorflow" and name in SAVING:
            reader.report(node, "saved-model", SAVING[name], shown)
        elif package == "tensorflow" and name.startswith("data.") and "Dataset" in name:
            return Kind.DATASET
        if (package, first) == ("numpy", "random"):
            self._draw(node)
        if package == "tensorflow" and last.endswith("_initializer"):
            reader.report(node, "tensorflow-op", _advice(node, package, name), shown)
            return None
        outside = last == "as_dtype" or (first in _OUTSIDE[package] and not (first in _OF_TENSORFLOW and place.inside))
        if place.pipeline or outside:
            return None
        held = place.preparing and package != "numpy"
        if (package, last) in _VARIABLES and (place.inside or held):
            reader.report(node, "framework-variable", "self.add_weight(shape=..., initializer=...)", shown)
            return Kind.VARIABLE
        if not (given.has_tensor or held or (place.inside and package != "numpy")):
            return None
        if not last[:1].isupper() or package == "torch" or last in {"Assert", "Print", *_OF_TENSORFLOW}:
            reader.report(node, FRAMEWORKS[package], _advice(node, package, name), shown)
        # Of `tf.map_fn`, `tf.cond` and the like; those of `tf.numpy_function` are given arrays.
        for each in given.functions if not last.endswith(("numpy_function", "py_function")) else ():
            reader.call(each, traced=True)
        return None if last in NO_TENSORS else Kind.TENSOR

    def _draw(self, node: ast.Call) -> None:
        if self._reader.place.inside and not self._reader.place.pipeline:
            self._reader.report(node, "random-in-call", _SEEDED, ast.unparse(node.func))


_ASSIGNING = frozenset({"assign", "assign_add", "assign_sub"})
_BRANCHING = frozenset({"cond", "fori_loop", "map", "scan", "switch", "vectorized_map", "while_loop"})
_OF_TENSORFLOW = frozenset({"RaggedTensor", "SparseTensor", "TensorArray"})
_COMPILED = frozenset({"loss", "metrics", "weighted_metrics"})
_VARIABLES = frozenset({("tensorflow", "Variable"), ("torch", "Parameter")})


def _advice(node: ast.Call, package: str, name: str) -> str:
    """What to write in place of a call of a framework's function."""
    advice = equivalent(package, name) or NOTHING
    known = arguments_of(advice)
    lacking = [f"{each.arg}=" for each in node.keywords if known and each.arg and each.arg not in known]
    if lacking:
        return f"{advice}, which takes {', '.join(known)}, and not {', '.join(lacking)}"
    has_axis = len(node.args) > 1 or any(each.arg == "axis" for each in node.keywords)
    function, _, default = advice.partition("(x, axis=0): ")
    return function if default and has_axis else advice


def _is_of_keras(of: Class | Name) -> bool:
    return of.package == "keras" if isinstance(of, Name) else of.kind is not None


def _ending(node: ast.expr | None) -> str:
    """The end of a text, as far as it is written out."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.BinOp(op=ast.Add(), right=right):
            return _ending(right)
        case ast.JoinedStr(values=[*_, last]):
            return _ending(last)
    return ""
