"""The same as `dlf parity`, for scripts and for other people's test suites."""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Callable
from typing import Any

from dlf.parity.options import ParityOptions
from dlf.parity.result import ParityReport
from dlf.parity.runner import run_parity
from dlf.utils.errors import InvalidArgumentError

__all__ = ["check_parity", "target_of"]


def check_parity(target: str | Callable[[], Any], **options: Any) -> ParityReport:
    """Compares a Keras model across backends, each in a process of its own.

    Every layer is called from the same inputs, weights and incoming gradients everywhere: in float64, where results
    that mean the same agree to about 1e-14, and in float32, whose errors are given in noise floors, which is how far
    the float64 result moves when what goes in moves by one unit in the last place.

    Each process imports the module that the target is in: a script calls this under ``if __name__ == "__main__":``.

    Args:
        target: A function without arguments that returns a Keras model, in a module that can be imported; or
            ``"file.py:function"`` or ``"package.module:function"``.
        **options: The fields of `dlf.parity.options.ParityOptions`, such as backends, data, batch_size, steps
            and seed.

    Returns:
        The report, which prints as text and is true where everything is the same: ``report.verdict`` is ``"agree"``,
        ``"diverge"``, ``"not finite"`` or ``"not compared"``; ``report.first_divergence`` says at which stage, in which
        layer and variable, on which backend it starts; its items are those of ``dlf parity --json``, of which
        ``report["not_judged"]`` lists the stages of which not everything could be judged.

    Raises:
        InvalidArgumentError: The target cannot be imported, builds no model, or an option means nothing.
        MissingPackageError: A backend that was named is not installed.
        BackendError: Fewer than two backends came through.
    """
    if "batch" in options:  # As it was called once.
        options["batch_size"] = options.pop("batch")
    return ParityReport(run_parity(ParityOptions(target_of(target), **options)))


def target_of(target: str | Callable[[], Any]) -> str:
    """Returns the target as text: for a function, the module that it can be imported from.

    Raises:
        InvalidArgumentError: It is defined inside another function, or in no file.

    Example:
        >>> import json
        >>> target_of(json.loads)
        'json:loads'
    """
    if isinstance(target, str):
        return target
    name, module = getattr(target, "__qualname__", ""), getattr(target, "__module__", "")
    if not name.isidentifier() or not module:
        raise InvalidArgumentError(
            "target",
            expected="a function at the top of a module: each backend's process imports it anew",
            received=target,
        )
    if module == "__main__" and not getattr(sys.modules[module], "__file__", None):
        raise InvalidArgumentError(
            "target",
            expected="a function in a file, which each backend's process imports",
            received=target,
            advice="Write it into a file: in a notebook, by the magic %%writefile.",
        )
    # A decorator's function is in another file.
    code = getattr(inspect.unwrap(target), "__code__", None)
    # A test's module is often not on the path of another process: its file is. One in a package has to be imported by
    # its name, for its relative imports.
    if code is None or _is_in_package(module) or not _is_local(module):
        return f"{module}:{name}"
    return f"{code.co_filename}:{name}"


def _is_in_package(module: str) -> bool:
    # pytest makes modules between, which stand for folders and have no file.
    parent = module.rpartition(".")[0]
    return bool(parent) and getattr(sys.modules.get(parent), "__file__", None) is not None


def _is_local(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not file.startswith((sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]))
