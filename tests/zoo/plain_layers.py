"""Cases of layers neither recurrent nor spatial: dense, activation, attention, normalization, merging, reshaping.

Requirements:

* masks, axes, broadcasting, regularizers and constraints have cases.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from zoo.entry import Case
from zoo.models import Spec, given

__all__ = ["CASES"]

_VECTOR = Spec((6,))
_SEQUENCE = Spec((7, 4))
_IMAGE = Spec((8, 7, 3))
_TOKENS = Spec((5,), "int32")
_QUERY, _VALUE, _VALUE_MASK = Spec((5, 4)), Spec((7, 4)), Spec((7,), "bool")

_DENSE = given(_VECTOR)(
    Dense=lambda: layers.Dense(5, activation="tanh"),
    Dense__no_bias=lambda: layers.Dense(5, use_bias=False),
    Dense__lora=lambda: layers.Dense(5, lora_rank=2),
    Dense__l1_l2=lambda: layers.Dense(
        5, kernel_regularizer=keras.regularizers.L1L2(0.01, 0.02), bias_regularizer="l2", activity_regularizer="l1"
    ),
    Dense__orthogonal=lambda: layers.Dense(
        5, kernel_regularizer=keras.regularizers.OrthogonalRegularizer(factor=0.01, mode="columns")
    ),
    Dense__max_norm=lambda: layers.Dense(5, kernel_constraint=keras.constraints.MaxNorm(0.5)),
    Dense__min_max_norm=lambda: layers.Dense(5, kernel_constraint=keras.constraints.MinMaxNorm(0.5, 0.9, rate=0.5)),
    Dense__non_negative=lambda: layers.Dense(5, kernel_constraint="non_neg"),
    Dense__unit_norm=lambda: layers.Dense(5, kernel_constraint="unit_norm"),
    SpectralNormalization=lambda: layers.SpectralNormalization(layers.Dense(5, name="inner"), power_iterations=2),
) | given(_SEQUENCE)(
    Dense__sequence=lambda: layers.Dense(5),
    EinsumDense=lambda: layers.EinsumDense("abc,cd->abd", output_shape=(7, 5), bias_axes="d"),
    EinsumDense__ellipsis=lambda: layers.EinsumDense("...x,xy->...y", output_shape=5, activation="relu"),
    EinsumDense__two_axes=lambda: layers.EinsumDense("abc,bcd->ad", output_shape=5),
    EinsumDense__lora=lambda: layers.EinsumDense("abc,cd->abd", output_shape=(7, 5), lora_rank=2),
)

_TABLES = given(_TOKENS)(
    Embedding=lambda: layers.Embedding(9, 3),
    Embedding__mask_zero=lambda: layers.Embedding(9, 3, mask_zero=True),
    Embedding__lora=lambda: layers.Embedding(9, 3, lora_rank=2),
    Embedding__constraint=lambda: layers.Embedding(9, 3, embeddings_constraint="unit_norm"),
    ReversibleEmbedding=lambda: layers.ReversibleEmbedding(9, 3),
) | given(_TOKENS, call=lambda layer, x: layer(layer(x), reverse=True))(
    ReversibleEmbedding__reverse=lambda: layers.ReversibleEmbedding(9, 3),
    ReversibleEmbedding__untied=lambda: layers.ReversibleEmbedding(9, 3, tie_weights=False, logit_soft_cap=2.0),
)

_ACTIVATIONS = given(_VECTOR)(
    Activation=lambda: layers.Activation("swish"),
    ELU=lambda: layers.ELU(alpha=0.7),
    LeakyReLU=lambda: layers.LeakyReLU(0.2),
    PReLU=lambda: layers.PReLU(alpha_initializer="random_uniform"),
    ReLU=layers.ReLU,
    ReLU__bounded=lambda: layers.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2),
    Softmax=layers.Softmax,
) | given(_SEQUENCE)(
    PReLU__shared=lambda: layers.PReLU(alpha_initializer="random_uniform", shared_axes=[1]),
    Softmax__axis=lambda: layers.Softmax(axis=1),
    Softmax__axes=lambda: layers.Softmax(axis=(1, 2)),
)

_MASKED_SOFTMAX = given(
    _VALUE,
    _VALUE_MASK,
    call=lambda layer, x, mask: layer(x, mask=layers.Reshape((7, 1), name="as_column")(mask)),
    data="masked_sequences",
)(Softmax__mask=lambda: layers.Softmax(axis=1))

_DROPOUT = given(_VECTOR)(
    ActivityRegularization=lambda: layers.ActivityRegularization(l1=0.01, l2=0.02),
    AlphaDropout=lambda: layers.AlphaDropout(0.3, seed=7),
    Dropout=lambda: layers.Dropout(0.3, seed=7),
    GaussianDropout=lambda: layers.GaussianDropout(0.3, seed=7),
    GaussianNoise=lambda: layers.GaussianNoise(0.3, seed=7),
) | given(_SEQUENCE)(
    AlphaDropout__noise_shape=lambda: layers.AlphaDropout(0.3, noise_shape=(None, 1, 4), seed=7),
    Dropout__noise_shape=lambda: layers.Dropout(0.3, noise_shape=(None, 1, 4), seed=7),
)

_ATTENTION = (
    given(_QUERY, _VALUE)(
        AdditiveAttention=layers.AdditiveAttention,
        AdditiveAttention__no_scale=lambda: layers.AdditiveAttention(use_scale=False, dropout=0.3, seed=7),
        Attention=layers.Attention,
        Attention__concat=lambda: layers.Attention(use_scale=True, score_mode="concat"),
        Attention__scale_dropout=lambda: layers.Attention(use_scale=True, dropout=0.3, seed=7),
    )
    | given(_QUERY, _VALUE, call=lambda layer, query, value: layer(query, value))(
        GroupQueryAttention=lambda: layers.GroupQueryAttention(3, 4, 2),
        GroupQueryAttention__dropout=lambda: layers.GroupQueryAttention(3, 4, 2, dropout=0.3, seed=7),
        MultiHeadAttention=lambda: layers.MultiHeadAttention(2, 3),
        MultiHeadAttention__dropout=lambda: layers.MultiHeadAttention(2, 3, dropout=0.3, seed=7),
        MultiHeadAttention__shapes=lambda: layers.MultiHeadAttention(2, 3, value_dim=5, output_shape=6, use_bias=False),
        MultiHeadAttention__no_flash=lambda: layers.MultiHeadAttention(2, 3, flash_attention=False),
    )
    | given(_VALUE, call=lambda layer, x: layer(x, x, use_causal_mask=True))(
        GroupQueryAttention__causal=lambda: layers.GroupQueryAttention(3, 4, 2),
        GroupQueryAttention__window_gate=lambda: layers.GroupQueryAttention(3, 4, 2, sliding_window=2, use_gate=True),
        MultiHeadAttention__causal=lambda: layers.MultiHeadAttention(2, 3),
    )
    | given(_VALUE, call=lambda layer, x: layer([x, x], use_causal_mask=True, return_attention_scores=True))(
        AdditiveAttention__causal_scores=layers.AdditiveAttention, Attention__causal_scores=layers.Attention
    )
    # Keras infers the right shape of the scores only where queries and values have the same length.
    | given(_VALUE, call=lambda layer, x: layer(x, x, return_attention_scores=True))(
        GroupQueryAttention__scores=lambda: layers.GroupQueryAttention(3, 4, 2),
        MultiHeadAttention__scores=lambda: layers.MultiHeadAttention(2, 3),
    )
)

_MASKED_ATTENTION = given(
    _QUERY,
    _VALUE,
    _VALUE_MASK,
    call=lambda layer, query, value, mask: layer([query, value], mask=[None, mask]),
    data="masked_attention",
)(AdditiveAttention__mask=layers.AdditiveAttention, Attention__mask=layers.Attention) | given(
    _QUERY,
    _VALUE,
    _VALUE_MASK,
    call=lambda layer, query, value, mask: layer(query, value, value_mask=mask),
    data="masked_attention",
)(
    GroupQueryAttention__mask=lambda: layers.GroupQueryAttention(3, 4, 2),
    MultiHeadAttention__mask=lambda: layers.MultiHeadAttention(2, 3),
)

_NORMALIZATION = (
    given(_IMAGE)(
        BatchNormalization=layers.BatchNormalization,
        BatchNormalization__axis=lambda: layers.BatchNormalization(axis=1, momentum=0.9),
        BatchNormalization__plain=lambda: layers.BatchNormalization(center=False, scale=False, epsilon=1e-5),
        BatchNormalization__renorm=lambda: layers.BatchNormalization(
            renorm=True, renorm_clipping={"rmax": 1.5, "rmin": 0.5, "dmax": 0.5}
        ),
        GroupNormalization=lambda: layers.GroupNormalization(groups=3),
        GroupNormalization__instance=lambda: layers.GroupNormalization(groups=-1),
        GroupNormalization__one=lambda: layers.GroupNormalization(groups=1, center=False),
        GroupNormalization__axis=lambda: layers.GroupNormalization(groups=4, axis=1),
        LayerNormalization=layers.LayerNormalization,
        LayerNormalization__axes=lambda: layers.LayerNormalization(axis=(1, 2), epsilon=1e-5),
        LayerNormalization__plain=lambda: layers.LayerNormalization(center=False, scale=False),
        RMSNormalization=layers.RMSNormalization,
        RMSNormalization__axes=lambda: layers.RMSNormalization(axis=(2, 3)),
        UnitNormalization=layers.UnitNormalization,
        UnitNormalization__axes=lambda: layers.UnitNormalization(axis=(1, 2)),
        SpectralNormalization__convolution=lambda: layers.SpectralNormalization(layers.Conv2D(4, 3, name="inner")),
    )
    | given(Spec((5, 5)))(
        # Axes of the same length: a backend that takes the wrong axis does not raise.
        LayerNormalization__middle_axis=lambda: layers.LayerNormalization(axis=1),
        RMSNormalization__middle_axis=lambda: layers.RMSNormalization(axis=1),
    )
    | given(_VECTOR)(
        BatchNormalization__vector=layers.BatchNormalization,
        BatchNormalization__vector_renorm=lambda: layers.BatchNormalization(renorm=True),
    )
)

_MERGING: dict[str, Case] = {}
for _name in ("Add", "Average", "Maximum", "Minimum", "Multiply"):
    _kind: Any = getattr(layers, _name)
    _MERGING |= given(_VECTOR, _VECTOR, _VECTOR)(**{_name: _kind})
    _MERGING |= given(Spec((7, 1)), Spec((4,)))(**{f"{_name}__broadcast": _kind})
_MERGING |= (
    given(_VECTOR, _VECTOR)(
        Concatenate=layers.Concatenate,
        Dot=lambda: layers.Dot(axes=1),
        Dot__normalize=lambda: layers.Dot(axes=1, normalize=True),
        Subtract=layers.Subtract,
    )
    | given(_SEQUENCE, _QUERY)(
        Concatenate__axis=lambda: layers.Concatenate(axis=1), Dot__last_axes=lambda: layers.Dot(axes=2)
    )
    | given(_SEQUENCE, _SEQUENCE)(
        Dot__axes=lambda: layers.Dot(axes=(1, 1), normalize=True), Subtract__sequence=layers.Subtract
    )
)

_RESHAPING = (
    given(_SEQUENCE)(
        Flatten=layers.Flatten,
        Identity=layers.Identity,
        Lambda=lambda: layers.Lambda(_doubled, output_shape=(7, 4)),
        Permute=lambda: layers.Permute((2, 1)),
        Reshape=lambda: layers.Reshape((2, -1)),
    )
    | given(_VECTOR)(RepeatVector=lambda: layers.RepeatVector(3))
    | given(_IMAGE)(Flatten__first=lambda: layers.Flatten(data_format="channels_first"))
)


def _doubled(x: Any) -> Any:
    return 2 * x


_UPSAMPLING = given(Spec((4, 5, 2)))(
    UpSampling2D__bilinear=lambda: layers.UpSampling2D((2, 3), interpolation="bilinear"),
    UpSampling2D__bicubic=lambda: layers.UpSampling2D((2, 3), interpolation="bicubic"),
) | given(Spec((4, 5, 2)), stages=("build", "forward"))(
    # PyTorch has no lanczos, and TensorFlow no gradient of it in float64: only outputs are compared.
    UpSampling2D__lanczos3=lambda: layers.UpSampling2D((2, 3), interpolation="lanczos3"),
    UpSampling2D__lanczos5=lambda: layers.UpSampling2D((2, 3), interpolation="lanczos5"),
)

CASES: dict[str, Case] = {
    **_DENSE,
    **_TABLES,
    **_ACTIVATIONS,
    **_MASKED_SOFTMAX,
    **_DROPOUT,
    **_ATTENTION,
    **_MASKED_ATTENTION,
    **_NORMALIZATION,
    **_MERGING,
    **_RESHAPING,
    **_UPSAMPLING,
}
