"""Reports which random numbers are the same on every backend, and which are not and why.

Requirements:

* the report promises nothing that the tests do not verify;
* for a model, it names each layer and initializer whose random numbers are not the same on every backend.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any

import keras

from dlf.models.layers import layers_by_path
from dlf.random._initializers import is_common

__all__ = ["RandomnessReport", "describe"]

_COMMON = (
    "initial weights, by Keras's own initializers (since dlf.set_seed)",
    "the order of examples, in every epoch (dlf.prepare_for_training, dlf.compile_and_fit)",
    "dropout masks, uniform numbers in [0, 1), integers, permutations, standard normal numbers",
    "    (in dlf.compile_and_fit, and elsewhere inside dlf.common_randomness)",
)
_NOT_COMMON = {
    "gamma, beta, binomial, categorical": "each framework draws its own (MixUp, CutMix and AugMix use them)",
    "scaling of noise to a range, mean or deviation": "a compiler may fuse it: the last bit can differ",
    "Keras's fit(shuffle=True)": "each backend has an order of its own",
    "a tf.data pipeline that draws random numbers or does not fit into memory": "tf.data shuffles it",
    "augmentation inside a tf.data pipeline": "TensorFlow draws it, whatever the backend",
}


@dataclass(frozen=True)
class RandomnessReport:
    """Which random numbers are the same on every backend; it prints as text.

    Args:
        seed: The seed that `dlf.set_seed` was given, or None.
        backend: Keras's name of the backend.
        common: What has the same bits on every backend, given the same seed.
        not_common: What differs between backends, and why.
        not_common_in_model: A line for each layer and initializer of the model that draws other numbers on each
            backend, with the reason; None without a model.
        fell_back: What Keras drew with its own generator since the seed was set, and why.
        own_draws: For each layer of the model that uses them, by its path: the random functions that differ between
            backends.
    """

    seed: int | None
    backend: str
    common: tuple[str, ...]
    not_common: Mapping[str, str]
    not_common_in_model: tuple[str, ...] | None
    fell_back: Mapping[str, str]
    own_draws: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as plain lists and dictionaries."""
        return asdict(self)

    def __repr__(self) -> str:
        seeded = "no seed was set" if self.seed is None else f"seed {self.seed}"
        lines = [f"Randomness on {self.backend}, {seeded}", "  the same bits on every backend:"]
        lines += [f"    {each}" for each in self.common]
        lines.append("  not the same:")
        lines += [f"    {what}: {why}" for what, why in self.not_common.items()]
        lines += [f"    {what}, drawn by Keras: {why}" for what, why in self.fell_back.items()]
        if self.not_common_in_model is not None:
            lines.append(
                "  in this model, not the same:" if self.not_common_in_model else "  in this model: all common"
            )
            lines += [f"    {each}" for each in self.not_common_in_model]
        return "\n".join(lines)


def describe(seed: int | None, model: Any, fell_back: Mapping[str, str]) -> RandomnessReport:
    """Returns the report; it covers the model's layers and initializers, unless the model is None."""
    layers = {} if model is None else {"": model, **layers_by_path(model)}
    draws = {path: found for path, layer in layers.items() if (found := tuple(_uncommon_draws(type(layer))))}
    lines = None if model is None else tuple(dict.fromkeys(_findings(layers, draws)))
    return RandomnessReport(seed, keras.config.backend(), _COMMON, dict(_NOT_COMMON), lines, dict(fell_back), draws)


def _findings(layers: Mapping[str, Any], draws: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for path, layer in layers.items():
        title = f"{layer.name} ({type(layer).__name__})"
        for attribute, value in vars(layer).items():
            holds_one = isinstance(value, keras.initializers.Initializer)
            if (holds_one or (attribute.endswith("initializer") and callable(value))) and not is_common(value):
                name = getattr(value, "__name__", type(value).__name__)
                yield f"{title}: {attribute.lstrip('_')} is {name}, which draws by itself"
        for draw in draws.get(path, ()):
            yield f"{title}: draws by {draw}, which is not common"


_UNCOMMON = ("beta", "binomial", "categorical", "gamma")
_OTHERS = {
    "jax": "JAX",
    "np": "NumPy",
    "numpy": "NumPy",
    "tf": "TensorFlow",
    "tensorflow": "TensorFlow",
    "torch": "PyTorch",
}


def _uncommon_draws(kind: type) -> list[str]:
    """Returns the random functions called in a layer's methods that differ between backends, such as `random.gamma`."""
    found = set[str]()
    for owner in kind.__mro__:
        if owner not in (keras.Layer, keras.Model, object):
            for method in vars(owner).values():
                if inspect.isfunction(method):
                    found |= _draws_in(method.__code__)
    return sorted(found)


@lru_cache(maxsize=4096)  # A model has a hundred layers of ten classes, and reading a method's code takes a while.
def _draws_in(code: CodeType) -> frozenset[str]:
    found = set()
    names = [str(each.argval) for each in dis.get_instructions(code) if isinstance(each.argval, str)]
    for before, module, name in zip(names, names[1:], names[2:], strict=False):
        if module == "random" and before in _OTHERS:
            found.add(f"{_OTHERS[before]}'s own random.{name}")
        elif "random" in (before, module) and name in _UNCOMMON and module in ("random", name):
            found.add(f"random.{name}")
    return frozenset(found)
