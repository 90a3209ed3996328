"""Lists the backends, loads one of them, and selects the backend of this process.

Requirements:

* listing the backends imports nothing; loading one imports its own package and no framework;
* the error for an unknown name lists the known names; the error for an absent framework has the install command;
* Keras reads ``KERAS_BACKEND`` once, at ``import keras``, so selecting another backend afterwards raises an error.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from importlib import metadata
from typing import Any

from dlf.backend.default import is_importable
from dlf.backend.protocol import Backend
from dlf.utils.errors import BackendError, InvalidArgumentError, MissingPackageError, did_you_mean

__all__ = [
    "backend_names",
    "check_installed",
    "current_backend",
    "installed_backends",
    "is_installed",
    "load_backend",
    "select_backend",
]

ENTRY_POINT_GROUP = "dlf.backends"

# The order of choice where several are installed. JAX first: the smallest download, and dlf was first made for it.
_PREFERENCE = ("jax", "tensorflow", "torch")


@functools.cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    """Returns the entry points by name, in order of preference and then alphabetically."""
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name in found and found[point.name].value != point.value:
            warnings.warn(
                f"two packages declare the dlf backend {point.name!r}: {found[point.name].value} is used, "
                f"{point.value} is not",
                stacklevel=2,
            )
            continue
        found[point.name] = point
    ranked = sorted(found, key=lambda name: (_PREFERENCE.index(name) if name in _PREFERENCE else 99, name))
    return {name: found[name] for name in ranked}


def backend_names() -> tuple[str, ...]:
    """Returns the names of the backends that are declared, whether or not their frameworks are installed.

    Returns:
        The names, in the order in which dlf chooses one by default.

    Example:
        >>> backend_names()[:3]
        ('jax', 'tensorflow', 'torch')
    """
    return tuple(_entry_points())


@functools.cache
def load_backend(name: str, argument: str = "backend") -> Backend:
    """Returns the backend of this name, without importing its framework.

    Args:
        name: One of `backend_names()`.
        argument: The name of the caller's argument, for the error message.

    Returns:
        The backend; the same object at every call.

    Raises:
        InvalidArgumentError: There is no backend of this name.
        BackendError: Its package cannot be imported, or does not supply a `Backend` of that name.

    Example:
        >>> load_backend("jax").keras_backend
        'jax'
    """
    points = _entry_points()
    if name not in points:
        raise InvalidArgumentError(
            argument,
            expected=f"one of {', '.join(points)}",
            received=name,
            advice=did_you_mean(name, points),
        )
    try:
        backend = points[name].load()
    except Exception as error:
        raise BackendError(
            f"the backend {name!r} ({points[name].value}) does not load: {error}. "
            "Reinstall the package that declares it."
        ) from error
    if not isinstance(backend, Backend) or backend.name != name:
        raise BackendError(
            f"the backend {name!r} ({points[name].value}): expected an object that satisfies "
            f"dlf.backend.protocol.Backend and is called {name!r}, received {backend!r}. "
            "See CONTRIBUTING.md for the four steps that add a backend."
        )
    return backend


def is_installed(backend: Backend) -> bool:
    """Returns whether all packages that the backend requires are installed, without importing them."""
    return _absent_package(backend) is None


def installed_backends() -> tuple[str, ...]:
    """Returns the names of the backends whose frameworks are installed, in the order of `backend_names`.

    Example:
        >>> current_backend().name in installed_backends()
        True
    """
    return tuple(name for name in backend_names() if is_installed(load_backend(name)))


def check_installed(backend: Backend, purpose: str) -> None:
    """Raises an error unless all packages that the backend requires are installed.

    Args:
        backend: The backend.
        purpose: What needs the backend; the error message begins with it.

    Raises:
        MissingPackageError: A package is not installed; the message holds the command that installs it.
    """
    absent = _absent_package(backend)
    if absent:
        raise MissingPackageError(purpose, package=absent, command=backend.install_command)


def _absent_package(backend: Backend) -> str | None:
    return next((package for package in backend.requires if not is_importable(package)), None)


def _named(name: str, argument: str) -> Backend:
    """Returns the backend called `name`, or else the first that runs on Keras's backend `name`."""
    if name not in backend_names():
        for candidate in map(load_backend, backend_names()):
            if candidate.keras_backend == name:
                return candidate
    return load_backend(name, argument)


def select_backend(name: str | None = None) -> Backend:
    """Selects the backend of this process and sets its environment variables, without importing a framework.

    Args:
        name: The backend; by default the one that ``KERAS_BACKEND`` names, else the first that is installed.

    Returns:
        The backend.

    Raises:
        InvalidArgumentError: There is no backend of this name.
        MissingPackageError: Its framework is not installed; the message holds the command that installs it.
        BackendError: Keras already runs on another backend in this process.

    Example:
        >>> select_backend().name == current_backend().name
        True
    """
    # An empty environment variable counts as unset; an empty argument is a mistake.
    asked = name if name is not None else os.environ.get("KERAS_BACKEND") or None
    if asked is not None:
        backend = _named(asked, "KERAS_BACKEND" if name is None else "backend")
    else:
        candidates = [load_backend(each) for each in backend_names()]
        backend = next(filter(is_installed, candidates), candidates[0])
    check_installed(backend, f"the backend {backend.name!r}")
    running = _running_keras_backend()
    if running not in (None, backend.keras_backend):
        raise BackendError(
            f"backend: expected {running!r}, on which Keras already runs in this process, received {backend.name!r}. "
            "Start a new process: Keras reads KERAS_BACKEND once, when it is imported."
        )
    if running is None:
        for variable, value in backend.environment().items():
            os.environ.setdefault(variable, value)
        os.environ["KERAS_BACKEND"] = backend.keras_backend
    os.environ["DLF_BACKEND"] = backend.name
    return backend


def current_backend() -> Backend:
    """Returns the backend that this process runs on.

    Returns:
        The backend that was selected, or else the one for the backend that Keras runs on.

    Raises:
        BackendError: dlf has no backend for the one that Keras runs on.
    """
    import keras

    running = keras.config.backend()
    selected = os.environ.get("DLF_BACKEND")
    if selected in backend_names() and load_backend(selected).keras_backend == running:
        return load_backend(selected)
    try:
        return _named(running, "KERAS_BACKEND")
    except InvalidArgumentError as error:
        raise BackendError(
            f"Keras runs on {running!r}, for which dlf has no backend (it has {', '.join(backend_names())}). "
            "Set KERAS_BACKEND to one of them before Keras is imported."
        ) from error


def _running_keras_backend() -> str | None:
    """Returns the name of Keras's backend, or None if Keras is not imported."""
    keras: Any = sys.modules.get("keras")
    return str(keras.config.backend()) if hasattr(keras, "config") else None
