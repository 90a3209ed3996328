"""Cases of preprocessing and augmentation.

Requirements:

* images have values from 0 to 255, as real ones do;
* random layers have a seed; for these and for layers that round, outputs are compared, but no gradients.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.entry import Case
from zoo.models import Spec, given

__all__ = ["CASES", "NOT_APPLICABLE", "Held"]


class Held(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Always calls the layer that it holds in training mode.

    It is for layers that do not work in a Keras model by themselves. Equalization would be left out, since its
    `compute_output_spec` returns the same tensor that it was given. RandomCrop does not crop at inference, but infers
    the shape of cropped images.

    Args:
        inner: The layer.
        **keywords: Arguments of a layer.

    Example:
        >>> Held(layers.RandomCrop(2, 2))(keras.ops.ones((1, 4, 4, 3))).shape == (1, 2, 2, 3)
        True
    """

    def __init__(self, inner: Any, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.inner = inner

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the output shape of the inner layer."""
        return self.inner.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> Any:
        """Returns the outputs of the inner layer."""
        return self.inner(inputs, training=True)


_TENSORFLOW = "works on strings or tables of TensorFlow on every backend: there is nothing to compare"

_DRAWN = "draws from a distribution, or in a way, that has no common stream: other numbers on each backend"

NOT_APPLICABLE = {
    "AugMix": _DRAWN,
    "CutMix": _DRAWN,
    "MixUp": _DRAWN,
    "RandomElasticTransform": _DRAWN,
    "HashedCrossing": _TENSORFLOW,
    "Hashing": _TENSORFLOW,
    "IntegerLookup": _TENSORFLOW,
    "StringLookup": _TENSORFLOW,
    "TextVectorization": _TENSORFLOW,
}

_OUTPUTS = ("build", "forward")
_BYTES = 1 / 255

_NUMBERS = (
    given(Spec((6,)), stages=_OUTPUTS)(
        Discretization=lambda: layers.Discretization(bin_boundaries=[-1.0, 0.0, 0.5]),
        Discretization__one_hot=lambda: layers.Discretization(bin_boundaries=[-1.0, 0.0, 0.5], output_mode="one_hot"),
        Discretization__count=lambda: layers.Discretization(bin_boundaries=[-1.0, 0.0, 0.5], output_mode="count"),
    )
    | given(Spec((5,), "int32"), stages=_OUTPUTS)(
        CategoryEncoding=lambda: layers.CategoryEncoding(10),
        CategoryEncoding__count=lambda: layers.CategoryEncoding(10, output_mode="count"),
        CategoryEncoding__one_hot=lambda: layers.CategoryEncoding(10, output_mode="one_hot"),
    )
    | given(Spec((6,)))(
        Normalization=lambda: layers.Normalization(mean=np.arange(6.0), variance=np.arange(1.0, 7.0)),
        Normalization__tenths=lambda: layers.Normalization(mean=[0.1] * 6, variance=[0.7] * 6),
        Normalization__invert=lambda: layers.Normalization(mean=0.5, variance=4.0, invert=True),
        Rescaling=lambda: layers.Rescaling(0.5, offset=-1.0),
        Pipeline=lambda: layers.Pipeline([layers.Rescaling(2.0, name="one"), layers.Rescaling(0.5, name="two")]),
    )
    | given(Spec((64, 1)))(
        **{
            f"STFTSpectrogram__{mode}": lambda mode=mode: layers.STFTSpectrogram(mode, 16, frame_step=6)
            for mode in ("angle", "imag", "log", "magnitude", "psd", "real", "stft")
        }
    )
    | given(Spec((64, 2)))(
        STFTSpectrogram__same_padded=lambda: layers.STFTSpectrogram(
            "magnitude", 12, frame_step=5, fft_length=16, padding="same", scaling="spectrum", window="hamming"
        ),
        STFTSpectrogram__expand=lambda: layers.STFTSpectrogram("magnitude", 16, window=None, expand_dims=True),
    )
    | given(Spec((96,)))(
        MelSpectrogram=lambda: layers.MelSpectrogram(32, 8, num_mel_bins=6, sampling_rate=1000),
        MelSpectrogram__power=lambda: layers.MelSpectrogram(
            32, 8, sequence_length=24, num_mel_bins=6, sampling_rate=1000, power_to_db=False
        ),
    )
)

_GEOMETRY = given(Spec((8, 7, 3)), data="images", scale=_BYTES)(
    CenterCrop=lambda: layers.CenterCrop(5, 4),
    CenterCrop__larger=lambda: layers.CenterCrop(10, 9),
    Resizing=lambda: layers.Resizing(5, 11),
    Resizing__antialias=lambda: layers.Resizing(4, 3, antialias=True),
    Resizing__bicubic=lambda: layers.Resizing(5, 11, interpolation="bicubic"),
    Resizing__crop=lambda: layers.Resizing(4, 5, crop_to_aspect_ratio=True),
    Resizing__nearest=lambda: layers.Resizing(5, 11, interpolation="nearest"),
    Resizing__pad=lambda: layers.Resizing(10, 9, pad_to_aspect_ratio=True, fill_value=3.0),
) | given(Spec((3, 8, 7)))(
    CenterCrop__first=lambda: layers.CenterCrop(5, 4, data_format="channels_first"),
    Resizing__first=lambda: layers.Resizing(5, 11, data_format="channels_first"),
)

# PyTorch has no lanczos, and TensorFlow no gradient of it in float64: only outputs are compared.
_LANCZOS = given(Spec((8, 7, 3)), data="images", scale=_BYTES, stages=_OUTPUTS)(
    Resizing__lanczos3=lambda: layers.Resizing(5, 11, interpolation="lanczos3"),
    Resizing__lanczos5=lambda: layers.Resizing(5, 11, interpolation="lanczos5"),
)

_COLORS = given(Spec((8, 7, 3)), data="images", scale=_BYTES, stages=_OUTPUTS)(
    AutoContrast=layers.AutoContrast,
    ContrastLimitedAdaptiveHistogramEqualization=lambda: layers.ContrastLimitedAdaptiveHistogramEqualization(
        tile_grid_size=(2, 2)
    ),
    Equalization=lambda: Held(layers.Equalization(name="equalization")),
    Equalization__few_bins=lambda: Held(layers.Equalization(bins=16, name="equalization")),
    RandAugment=lambda: layers.RandAugment(seed=7),
    RandomBrightness=lambda: layers.RandomBrightness(0.4, seed=7),
    RandomColorDegeneration=lambda: layers.RandomColorDegeneration(0.7, seed=7),
    RandomColorJitter=lambda: layers.RandomColorJitter(
        brightness_factor=0.3, contrast_factor=0.4, saturation_factor=0.5, hue_factor=0.2, seed=7
    ),
    RandomContrast=lambda: layers.RandomContrast(0.4, seed=7),
    RandomErasing=lambda: layers.RandomErasing(seed=7),
    RandomErasing__filled=lambda: layers.RandomErasing(fill_value=3.0, seed=7),
    RandomGaussianBlur=lambda: layers.RandomGaussianBlur(seed=7),
    RandomGrayscale=lambda: layers.RandomGrayscale(seed=7),
    RandomHue=lambda: layers.RandomHue(0.3, seed=7),
    RandomInvert=lambda: layers.RandomInvert(0.5, seed=7),
    RandomPosterization=lambda: layers.RandomPosterization(4, seed=7),
    RandomSaturation=lambda: layers.RandomSaturation(0.6, seed=7),
    RandomSharpness=lambda: layers.RandomSharpness(0.6, seed=7),
    Solarization=lambda: layers.Solarization(threshold_factor=(0.4, 0.6), addition_factor=0.1, seed=7),
)


def _moves(data_format: str) -> dict[str, Any]:
    keywords = {"seed": 7, "data_format": data_format}
    return {
        "RandomPerspective": lambda: layers.RandomPerspective(0.9, scale=0.4, **keywords),
        "RandomRotation": lambda: layers.RandomRotation(0.2, **keywords),
        "RandomRotation__constant": lambda: layers.RandomRotation(
            0.2, fill_mode="constant", fill_value=9.0, **keywords
        ),
        "RandomShear": lambda: layers.RandomShear(0.3, 0.2, **keywords),
        "RandomShear__wrap": lambda: layers.RandomShear(0.3, 0.2, fill_mode="wrap", **keywords),
        "RandomTranslation": lambda: layers.RandomTranslation(0.3, 0.2, **keywords),
        "RandomTranslation__nearest": lambda: layers.RandomTranslation(
            0.3, 0.2, fill_mode="nearest", interpolation="nearest", **keywords
        ),
        "RandomZoom": lambda: layers.RandomZoom(0.3, 0.2, **keywords),
        "RandomZoom__wrap": lambda: layers.RandomZoom(0.3, fill_mode="wrap", **keywords),
    }


_MOVES = given(Spec((8, 7, 3)), data="images", scale=_BYTES, stages=_OUTPUTS)(
    RandomCrop=lambda: Held(layers.RandomCrop(5, 4, seed=7, name="random_crop")),
    RandomFlip=lambda: layers.RandomFlip(seed=7),
    **_moves("channels_last"),
) | given(Spec((3, 8, 7)), stages=_OUTPUTS)(
    **{f"{name}__first": make for name, make in _moves("channels_first").items() if "__" not in name}
)

# Keras infers wrong shapes for layers that crop or resize where boxes come with the images.
_BOXES = given(
    Spec((8, 7, 3)),
    Spec((3, 4)),
    Spec((3,)),
    call=lambda layer, images, boxes, labels: layer(
        {"images": images, "bounding_boxes": {"boxes": boxes, "labels": labels}}
    ),
    data="boxes",
    scale=_BYTES,
    stages=_OUTPUTS,
)(
    MaxNumBoundingBoxes=lambda: layers.MaxNumBoundingBoxes(2, bounding_box_format="xyxy"),
    MaxNumBoundingBoxes__more=lambda: layers.MaxNumBoundingBoxes(5, bounding_box_format="xyxy"),
    **{
        f"{name}__boxes": lambda name=name, more=more: getattr(layers, name)(*more, bounding_box_format="xyxy")
        for name, more in {
            "RandomFlip": (),
            "RandomRotation": (0.2,),
            "RandomTranslation": (0.3, 0.2),
            "RandomZoom": (0.3, 0.2),
        }.items()
    },
)

CASES: dict[str, Case] = {**_NUMBERS, **_GEOMETRY, **_LANCZOS, **_COLORS, **_MOVES, **_BOXES}
