"""Describes a backend on this machine: versions, devices, numeric settings, gradient paths.

Requirements:

* `ask_backend` never imports the framework into the calling process: it starts a worker process for the answer;
* ``python -m dlf.backend.report NAME`` is that worker; it prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypedDict

from dlf.backend.protocol import Backend
from dlf.backend.quick_import import import_keras_quickly
from dlf.backend.registry import current_backend, is_installed, load_backend, select_backend
from dlf.utils.errors import BackendError

__all__ = [
    "BackendDescription",
    "ask_backend",
    "backend_environment",
    "describe_backend",
    "package_versions",
    "print_versions",
]


class BackendDescription(TypedDict):
    """A backend on this machine."""

    name: str
    versions: dict[str, str]
    """Of Keras, and of each package that the backend requires."""
    devices: list[str]
    """The first is the default, such as ``"cpu:0"``."""
    numeric_settings: dict[str, str]
    tensor_float_32: str | None
    """The setting that turns TF32 off, or None where it is off."""
    gradient_paths: list[str]


def print_versions() -> None:
    """Prints one line: the versions of dlf, Keras, the backend's packages and Python, and the devices.

    Example:
        >>> print_versions()  # doctest: +ELLIPSIS
        dlf ... · keras ... · ... · Python ... · ...:0...
    """
    print(version_line(current_backend()))


def version_line(backend: Backend) -> str:
    """Returns the line that `print_versions` prints; call it in a process that runs on this backend."""
    versions = {"dlf": _version("dlf"), "keras": _version("keras"), **package_versions(backend)}
    parts = [f"{package} {version}" for package, version in versions.items()]
    return " · ".join([*parts, f"Python {platform.python_version()}", ", ".join(backend.devices())])


def package_versions(backend: Backend) -> dict[str, str]:
    """Returns the versions of the packages that a backend requires, without importing them."""
    return {package: _version(package) for package in backend.requires}


def describe_backend(backend: Backend) -> BackendDescription:
    """Returns the description of a backend as JSON types; call it in a process that runs on this backend."""
    return {
        "name": backend.name,
        "versions": {"keras": _version("keras"), **package_versions(backend)},
        "devices": list(backend.devices()),
        "numeric_settings": dict(backend.numeric_settings()),
        "tensor_float_32": backend.tensor_float_32(),
        "gradient_paths": list(backend.gradient_paths()),
    }


def backend_environment(backend: Backend) -> dict[str, str]:
    """Returns the environment variables to start a process of this backend with."""
    return {**backend.environment(), **os.environ, "KERAS_BACKEND": backend.keras_backend, "DLF_BACKEND": backend.name}


def ask_backend(name: str, timeout: float = 120.0) -> Mapping[str, Any]:
    """Runs `describe_backend` in a worker process of that backend and returns the result.

    Args:
        name: One of `dlf.backend.registry.backend_names()`.
        timeout: Seconds after which the process is ended.

    Returns:
        The description; for a backend that is not installed, its name and the command that installs it.

    Raises:
        BackendError: The process failed or took too long.

    Example:
        >>> from dlf.backend.registry import current_backend
        >>> len(ask_backend(current_backend().name)["devices"]) > 0
        True
    """
    backend = load_backend(name)
    if not is_installed(backend):
        return {"name": name, "install": backend.install_command}
    command = [sys.executable, "-m", "dlf.backend.report", name]
    try:
        worker = subprocess.run(
            command, env=backend_environment(backend), capture_output=True, text=True, timeout=timeout, check=True
        )
        answer: dict[str, Any] = json.loads(worker.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"the backend {name!r}: expected an answer within {timeout:.0f} s, received none."
        ) from error
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        shown = (getattr(error, "stderr", "") or "").strip().splitlines()
        raise BackendError(
            f"the backend {name!r} is installed but does not start: {shown[-1] if shown else error}. "
            f"See the whole message with: {' '.join(command)}"
        ) from error
    return answer


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"  # Importable, but its distribution has another name, such as tensorflow-cpu.


if __name__ == "__main__":
    import_keras_quickly()
    print(json.dumps(describe_backend(select_backend(sys.argv[1]))))
