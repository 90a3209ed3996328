"""Plants faults on a backend, and registers the models of the bench.

The name of a target ends with the backend that is to have the fault, as in ``faults_layers.py:epsilon_on_torch``;
without one, as in ``faults_layers.py:epsilon``, nothing is planted. The files with models are imported anew for each
target, but this module is not: the target that was looked up last counts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

__all__ = ["Fault", "Faults", "Sound", "SoundModels", "off", "plant", "planted"]

Build = Callable[[], Any]

_place: list[str | None] = [None]


def plant(backend: str | None) -> None:
    """Sets the backend that has the fault from now on."""
    _place[:] = [backend]


def planted() -> bool:
    """Tells whether this process has the fault. Layers ask when they are called, which may be long after the build."""
    return bool(keras.config.backend() == _place[0])


def off(factor: float) -> float:
    """The factor by which a number is off: 1 unless the fault is planted."""
    return factor if planted() else 1.0


@dataclass(frozen=True)
class Fault:
    """A model with a fault, and where the fault begins."""

    name: str
    stage: str
    """The stage; ``"data"`` if the data themselves are faulty, which may be refused too."""
    layer: str | None
    variable: str | None
    data: str | None
    """A function ``(size, random) -> (x, y)`` of the same file, for a model that needs it."""
    build: Build
    verdict: str = "diverge"
    """The expected verdict; ``"not finite"`` where results are NaN or infinite on several backends or on all."""
    planted: bool = True
    """Whether one backend differs; results that are not finite may be so on all backends."""
    where: tuple[str, ...] = ()
    """The backends that can have the fault; none means all. A fault of Keras's own has one."""
    known: bool = False
    """Whether the report has to give its reason, as one of the known differences."""


@dataclass(frozen=True)
class Sound:
    """A model that must not be called faulty."""

    name: str
    planted: bool
    """Whether one backend computes the same in another way, which is planted like a fault."""
    data: str | None
    build: Build
    backends: tuple[str, ...] = ()
    """The backends that can run the model; none means all."""


class Faults(dict[str, Fault]):
    """The faults of one file, by name."""

    def fault(
        self,
        stage: str,
        layer: str | None = None,
        variable: str | None = None,
        data: str | None = None,
        **expected: Any,
    ) -> Callable[[Build], Build]:
        """Registers a function that builds a model; `expected` are further fields of `Fault`."""

        def register(build: Build) -> Build:
            name = build.__name__
            self[name] = Fault(name, stage, layer, variable, data, build, **expected)
            return _without_fault(build)

        return register

    def find(self, name: str) -> Build:
        """What a module's `__getattr__` has to do: see `_find`."""
        return _find({each.name: each.build for each in self.values()}, name)


class SoundModels(dict[str, Sound]):
    """The sound models of one file, by name."""

    def sound(
        self, *, planted: bool = False, data: str | None = None, backends: tuple[str, ...] = ()
    ) -> Callable[[Build], Build]:
        """Registers a function that builds a model."""

        def register(build: Build) -> Build:
            name = build.__name__
            self[name] = Sound(name, planted, data, build, backends)
            return _without_fault(build)

        return register

    def find(self, name: str) -> Build:
        """What a module's `__getattr__` has to do: see `_find`."""
        return _find({each.name: each.build for each in self.values() if each.planted}, name)


def _find(builds: dict[str, Build], address: str) -> Build:
    """Splits ``name_on_backend``, plants the fault there and returns what builds the model."""
    name, _, backend = address.rpartition("_on_")
    if name not in builds:
        raise AttributeError(address)
    plant(backend)
    return builds[name]


def _without_fault(build: Build) -> Build:
    @functools.wraps(build)
    def control() -> Any:
        plant(None)
        return build()

    return control
