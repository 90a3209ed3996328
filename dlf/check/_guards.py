"""Conditions by which code asks first what there is."""

from __future__ import annotations

import ast
import re

__all__ = ["is_guard", "leaves"]


def is_guard(test: ast.expr) -> bool:
    """Whether a condition asks which backend, version or name there is.

    Example:
        >>> is_guard(ast.parse("keras.backend.backend() == 'jax'", mode="eval").body)
        True
    """
    for each in ast.walk(test):
        if isinstance(each, ast.Constant) and each.value in _BACKENDS:
            return True
        if isinstance(each, ast.Call) and ast.unparse(each.func).rpartition(".")[2] in _ASKING:
            return True
        name = each.attr if isinstance(each, ast.Attribute) else each.id if isinstance(each, ast.Name) else ""
        if name in {"__version__", "TYPE_CHECKING"} or "VERSION" in name or _OF_FRAMEWORK.search(name.lower()):
            return True
    return False


_BACKENDS = ("jax", "tensorflow", "torch")
_ASKING = frozenset({"backend", "hasattr", "find_spec", "is_keras_tensor"})
_OF_FRAMEWORK = re.compile(r"backend|(^|_)(tf|tensorflow|torch|pytorch|jax)(_|$)")


def leaves(body: list[ast.stmt]) -> bool:
    """Whether what follows a block is not reached through it."""
    return bool(body) and isinstance(body[-1], ast.Return | ast.Raise | ast.Continue)
