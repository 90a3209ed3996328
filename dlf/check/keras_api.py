"""What the installed Keras offers by name, read from its files: importing it would take seconds and a framework."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
from pathlib import Path

from dlf.utils.errors import MissingPackageError

__all__ = ["OPS", "arguments_of", "has_name", "keras_version", "names_in"]

OPS = "keras.ops"


@functools.cache
def names_in(package: str) -> frozenset[str]:
    """Returns the names that a package of Keras offers; none where there is no such package.

    Args:
        package: Its dotted name, such as ``"keras.ops"``.

    Raises:
        MissingPackageError: Keras is not installed.

    Example:
        >>> "concatenate" in names_in("keras.ops"), "concat" in names_in("keras.ops")
        (True, False)
    """
    if not _package(package):
        return frozenset()
    folder = _folder().joinpath(*package.split(".")[1:])
    names = {each.name for each in folder.iterdir() if each.is_dir() and (each / "__init__.py").is_file()}
    for node in _package(package):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {each.asname or each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return frozenset(names)


def has_name(name: str, *, by_tensorflow: bool = False) -> bool:
    """Whether Keras has a public name; True of what stands below something that is no package, such as a method.

    Args:
        name: The dotted name.
        by_tensorflow: Whether it is reached through ``tensorflow.keras``.

    Example:
        >>> has_name("keras.layers.Dense"), has_name("keras.layers.CuDNNLSTM"), has_name("keras.Model.from_config")
        (True, False, True)
    """
    package, *rest = name.split(".")
    if by_tensorflow:
        package += "._tf_keras.keras"
    for each in rest:
        known = names_in(package)
        if not known or each.startswith("__") or each == "src":
            return True
        if each not in known:
            return False
        package += f".{each}"
    return True


@functools.cache
def arguments_of(name: str) -> tuple[str, ...]:
    """Returns the names of a public function's arguments; nothing where it is no function, or takes any.

    Args:
        name: The dotted name.

    Example:
        >>> arguments_of("keras.ops.argsort"), arguments_of("keras.layers.Dense")
        (('x', 'axis'), ())
    """
    package, _, last = name.rpartition(".")
    for node in _package(package):
        if isinstance(node, ast.ImportFrom):
            for each in node.names:
                if (each.asname or each.name) == last:
                    return _functions_in(f"{node.module}").get(each.name, ())
    return ()


@functools.cache
def _package(package: str) -> list[ast.stmt]:
    """The statements by which a package of Keras gets its names; none where there is no such package."""
    file = _folder().joinpath(*package.split(".")[1:], "__init__.py")
    return ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []


@functools.cache
def _functions_in(module: str) -> dict[str, tuple[str, ...]]:
    """The functions of a module of Keras that take no other arguments than they name, and those."""
    file = _folder().joinpath(*module.split(".")[1:]).with_suffix(".py")
    nodes = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    return {
        each.name: tuple(one.arg for one in (*each.args.posonlyargs, *each.args.args, *each.args.kwonlyargs))
        for each in nodes
        if isinstance(each, ast.FunctionDef) and each.args.kwarg is None
    }


@functools.cache
def keras_version() -> str:
    """Returns the version of the installed Keras."""
    _folder()
    return importlib.metadata.version("keras")


@functools.cache
def _folder() -> Path:
    found = importlib.util.find_spec("keras")
    if found is None or found.origin is None:
        raise MissingPackageError("dlf check", package="keras", command="pip install keras")
    return Path(found.origin).parent
