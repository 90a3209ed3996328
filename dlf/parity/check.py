"""`dlf parity` as a function, for scripts and test suites."""

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

    Every layer is called with the same inputs, weights and incoming gradients on every backend. In float64, backends
    that compute the same agree to about 1e-14. Errors in float32, or in the dtype asked for, are given in noise floors:
    a noise floor is how far the float64 result moves when the inputs move by one unit in the last place.

    Each process imports the module of the target, so a script has to call this under ``if __name__ == "__main__":``.

    Args:
        target: A function without arguments that returns a Keras model, in a module that can be imported; or
            ``"file.py:name"``, ``"notebook.ipynb:name"`` or ``"package.module:name"``.
        **options: The fields of `dlf.parity.options.ParityOptions`, such as backends, data, batch_size, steps
            and seed.

    Returns:
        The report. It prints as text, and is true where everything was compared, is the same and is finite.
        ``report.verdict`` is ``"agree"``, ``"diverge"``, ``"not finite"`` or ``"not compared"``.
        ``report.first_divergence`` says at which stage, in which layer and variable and on which backend a difference
        starts. The report's items are those of ``dlf parity --json``: ``report["not_judged"]`` lists the stages that
        could not be judged, or not in full.

    Raises:
        InvalidArgumentError: The target cannot be imported, builds no model, or an option is invalid.
        MissingPackageError: A backend that was named is not installed.
        BackendError: Of several backends, fewer than two could be run.
    """
    if "batch" in options:  # As it was called once.
        options["batch_size"] = options.pop("batch")
    return ParityReport(run_parity(ParityOptions(target_of(target), **options)))


def target_of(target: str | Callable[[], Any]) -> str:
    """Returns the target as text: for a function, the module or file to import it from, a colon and its name.

    Raises:
        InvalidArgumentError: The function is defined inside another one, or not in a file.

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
    # Unwrapped: the function that a decorator returns may be in another file.
    code = getattr(inspect.unwrap(target), "__code__", None)
    # Another process often cannot import a test's module by name, but can load its file. A module in a package has to
    # be imported by name, for its relative imports.
    if code is None or _is_in_package(module) or not _is_local(module):
        return f"{module}:{name}"
    return f"{code.co_filename}:{name}"


def _is_in_package(module: str) -> bool:
    # pytest makes parent modules for folders, which have no file.
    parent = module.rpartition(".")[0]
    return bool(parent) and getattr(sys.modules.get(parent), "__file__", None) is not None


def _is_local(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not file.startswith((sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]))
