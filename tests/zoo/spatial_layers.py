"""Cases of layers over one, two and three dimensions: convolutions, pooling, borders.

Requirements:

* both paddings, strides, dilation and both data formats have cases, in each number of dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from keras import layers

from zoo.entry import Case
from zoo.models import Spec, given

__all__ = ["CASES"]

Makers = Mapping[str, Callable[[], Any]]

_SHAPES = {
    "channels_last": ((9, 3), (8, 7, 3), (5, 6, 4, 2)),
    "channels_first": ((3, 9), (3, 8, 7), (2, 5, 6, 4)),
}


def _in_every_format(makers: Callable[[str, int], Makers]) -> dict[str, Case]:
    """Cases for one, two and three dimensions, with channels last, and with channels first."""
    found: dict[str, Case] = {}
    for data_format, shapes in _SHAPES.items():
        for rank, shape in enumerate(shapes, 1):
            for name, make in makers(data_format, rank).items():
                suffix = "" if data_format == "channels_last" else "_first" if "__" in name else "__first"
                found |= given(Spec(shape))(**{name + suffix: make})
    return found


def _convolutions(data_format: str, rank: int) -> Makers:
    kind, size = partial(getattr(layers, f"Conv{rank}D"), 4, data_format=data_format), (3, 2, 3)[:rank]
    back = partial(getattr(layers, f"Conv{rank}DTranspose"), 4, data_format=data_format)
    return {
        f"Conv{rank}D": lambda: kind(size, activation="relu"),
        f"Conv{rank}D__same": lambda: kind(size, padding="same"),
        f"Conv{rank}D__same_strides": lambda: kind(3, padding="same", strides=2),
        f"Conv{rank}D__valid_strides": lambda: kind(2, strides=2, use_bias=False),
        f"Conv{rank}D__dilated": lambda: kind(2, padding="same", dilation_rate=2),
        f"Conv{rank}DTranspose": lambda: back(size),
        f"Conv{rank}DTranspose__same_strides": lambda: back(3, padding="same", strides=2),
        f"Conv{rank}DTranspose__even_same_strides": lambda: back(2, padding="same", strides=3),
        f"Conv{rank}DTranspose__valid_strides": lambda: back(3, strides=2),
        f"Conv{rank}DTranspose__output_padding": lambda: back(3, strides=2, output_padding=1),
        f"Conv{rank}DTranspose__dilated": lambda: back(2, dilation_rate=2),
    }


def _separable(data_format: str, rank: int) -> Makers:
    if rank == 3:
        return {}
    depthwise = partial(getattr(layers, f"DepthwiseConv{rank}D"), data_format=data_format)
    separable = partial(getattr(layers, f"SeparableConv{rank}D"), 4, data_format=data_format)
    return {
        f"DepthwiseConv{rank}D": lambda: depthwise(3, depth_multiplier=2),
        f"DepthwiseConv{rank}D__same_strides": lambda: depthwise(3, padding="same", strides=2),
        f"DepthwiseConv{rank}D__dilated": lambda: depthwise(2, padding="same", dilation_rate=2),
        f"SeparableConv{rank}D": lambda: separable(3, depth_multiplier=2),
        f"SeparableConv{rank}D__same_strides": lambda: separable(3, padding="same", strides=2),
        f"SeparableConv{rank}D__dilated": lambda: separable(2, padding="same", dilation_rate=2),
    }


def _poolings(data_format: str, rank: int) -> Makers:
    found: dict[str, Callable[[], Any]] = {}
    for name in ("AveragePooling", "MaxPooling"):
        kind = partial(getattr(layers, f"{name}{rank}D"), data_format=data_format)
        found |= {
            f"{name}{rank}D": partial(kind, 2),
            f"{name}{rank}D__same": partial(kind, 2, strides=1, padding="same"),
            f"{name}{rank}D__same_strides": partial(kind, 3, strides=2, padding="same"),
            f"{name}{rank}D__valid_strides": partial(kind, 3, strides=1),
        }
        whole = partial(getattr(layers, f"Global{name}{rank}D"), data_format=data_format)
        found |= {
            f"Global{name}{rank}D": whole,
            f"Global{name}{rank}D__keepdims": partial(whole, keepdims=True),
        }
        adaptive = partial(getattr(layers, f"Adaptive{name}{rank}D"), data_format=data_format)
        found |= {
            f"Adaptive{name}{rank}D": partial(adaptive, (4, 3, 2)[:rank]),
            f"Adaptive{name}{rank}D__one": partial(adaptive, 1),
        }
    return found


def _borders(data_format: str, rank: int) -> Makers:
    # In one dimension only padding has a data format.
    keywords = {"data_format": data_format} if rank > 1 else {}
    pairs: Any = ((1, 2), (0, 1), (2, 0))[:rank] if rank > 1 else (1, 2)
    if data_format == "channels_first" and rank == 1:
        return {"ZeroPadding1D": lambda: layers.ZeroPadding1D((1, 2), data_format=data_format)}
    return {
        f"Cropping{rank}D": lambda: getattr(layers, f"Cropping{rank}D")(pairs, **keywords),
        f"UpSampling{rank}D": lambda: getattr(layers, f"UpSampling{rank}D")(
            (2, 3, 2)[:rank] if rank > 1 else 2, **keywords
        ),
        f"ZeroPadding{rank}D": lambda: getattr(layers, f"ZeroPadding{rank}D")(pairs, **keywords),
        f"SpatialDropout{rank}D": lambda: getattr(layers, f"SpatialDropout{rank}D")(0.3, seed=7, **keywords),
    }


CASES: dict[str, Case] = {
    name: case
    for makers in (_convolutions, _separable, _poolings, _borders)
    for name, case in _in_every_format(makers).items()
}
