"""Every architecture of Keras's applications, without trained weights.

Requirements:

* each takes the smallest images that it can, and has ten classes;
* gradients are compared for the smaller ones only, since they take long for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras

from zoo.entry import Case, Entry, build_function, entries_of, public_functions

__all__ = ["CASES", "NOT_APPLICABLE", "entries"]

NOT_APPLICABLE: dict[str, str] = {}

_SIZES = {
    **dict.fromkeys(("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"), 32),
    **dict.fromkeys(("DenseNet121", "DenseNet169", "DenseNet201"), 32),
    **{f"EfficientNetB{number}": 32 for number in range(8)},
    **{f"EfficientNetV2{which}": 32 for which in ("B0", "B1", "B2", "B3", "S", "M", "L")},
    **dict.fromkeys(("InceptionResNetV2", "InceptionV3"), 75),
    **dict.fromkeys(("MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small"), 32),
    **dict.fromkeys(("NASNetLarge", "NASNetMobile"), 32),
    **{f"ResNet{depth}{version}": 32 for depth in (50, 101, 152) for version in ("", "V2")},
    **dict.fromkeys(("VGG16", "VGG19"), 32),
    "Xception": 71,
}

_SMALL = {
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetB1",
    "EfficientNetB2",
    "EfficientNetV2B0",
    "EfficientNetV2B1",
    "EfficientNetV2B2",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Large",
    "MobileNetV3Small",
    "NASNetMobile",
}
"""Architectures of less than about ten million parameters."""


def _built(name: str, size: int) -> Any:
    model = getattr(keras.applications, name)(weights=None, classes=10, input_shape=(size, size, 3))
    model.compile("sgd", "mse")
    return model


CASES: dict[str, Case] = {
    name: Case(
        partial(_built, name, size),
        stages=("build", "forward", "gradient") if name in _SMALL else ("build", "forward"),
        steps=1,
    )
    for name, size in _SIZES.items()
}


def entries() -> Iterator[Entry]:
    """Yields every architecture.

    Example:
        >>> [each.target for each in entries() if each.name == "VGG16"]
        ['zoo.applications:VGG16']
    """
    return entries_of("applications", __name__, public_functions(keras.applications), CASES, NOT_APPLICABLE)


def __getattr__(name: str) -> Callable[[], Any]:
    return build_function(CASES, name)
