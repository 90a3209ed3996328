"""Faults beside parts that get a wider tolerance: float32 kernels in layers, and gradients that are only roundoff."""

from __future__ import annotations

from typing import Any

import keras
import sound_float32
from faults_training import OwnLoss
from faults_trajectories import Forgetting, Meddling, OwnStep
from keras import layers, ops
from parts import Formula, compiled, model_of, nested, own_model
from planting import Faults, off, planted
from sound_float32 import Direct, Encoder, Stack, tokens_through, two_outputs

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find

optimizers: Any = keras.optimizers

# Attention, for which JAX has a kernel in float32.


@fault(stage="forward", layer="encoder/norm")
def epsilon_beside_attention() -> Any:
    """In a block with masked attention, the epsilon of a normalization is 1% off."""
    return tokens_through(Encoder(1e-3 * off(1.01), name="encoder"))


class Scaled(Encoder):
    def attended(self, x: Any, seen: Any) -> Any:
        return super().attended(x, seen) * off(1.001)


@fault(stage="forward", layer="encoder")
def scale_beside_attention() -> Any:
    """A block scales the output of masked attention by 0.1% more."""
    return tokens_through(Scaled(name="encoder"))


@fault(stage="forward", layer="stack/one")
def scale_two_deep() -> Any:
    """The same fault, in one of two blocks in a stack."""
    return tokens_through(Stack(Scaled(name="one"), Encoder(name="two"), name="stack"), "adam")


class Causal(Encoder):
    def attended(self, x: Any, seen: Any) -> Any:
        at = ops.arange(ops.shape(x)[1])
        before = at[None, None, :] <= at[None, :, None] + (1 if planted() else 0)
        return self.attention(x, x, attention_mask=ops.logical_and(seen[:, None, :], before))


@fault(stage="forward", layer="tower/inside/one")
def mask_three_deep() -> Any:
    """A mask that a block makes lets the next token through, three layers deep."""
    inside = Stack(Causal(name="one"), name="inside")
    return tokens_through(Stack(inside, name="tower"))


class Detached(Encoder):
    def attended(self, x: Any, seen: Any) -> Any:
        kept = ops.stop_gradient(x) if planted() else x
        return self.attention(x, kept, attention_mask=seen[:, None, :])


@fault(stage="gradient", layer="stack/one")
def detached_beside_attention() -> Any:
    """In a block, no gradient flows through keys and values."""
    return tokens_through(Stack(Detached(name="one"), name="stack"))


class DirectScale(Direct):
    def scored(self, q: Any, k: Any, v: Any, seen: Any) -> Any:
        return ops.dot_product_attention(q, k, v, mask=seen, scale=8**-0.5 * off(1.2))


@fault(stage="forward", layer="direct")
def scale_of_an_operation() -> Any:
    """The scale of `ops.dot_product_attention` is 20% off; JAX computes it in float32, where it is judged so."""
    return tokens_through(DirectScale(name="direct"))


class DirectMask(Direct):
    def scored(self, q: Any, k: Any, v: Any, seen: Any) -> Any:
        return ops.dot_product_attention(q, k, v, mask=None if planted() else seen)


def padded(size: int, random: Any) -> Any:
    tokens = random.integers(1, 100, size=(size, 8)).astype("int32")
    tokens[:, 5:] = 0
    return tokens, random.normal(size=(size, 8, 1)).astype("float32")


@fault(stage="forward", layer="stack/direct", data="padded")
def mask_of_an_operation() -> Any:
    """The mask of `ops.dot_product_attention` is left out, two layers deep."""
    return tokens_through(Stack(DirectMask(name="direct"), name="stack"))


@fault(stage="gradient")
def scaled_targets_beside_attention() -> Any:
    """A model with masked attention in a block trains on targets that are 0.1% off."""
    return tokens_through(Encoder(name="encoder"), optimizers.SGD(0.1), kind=OwnStep)


@fault(stage="update")
def decay_beside_attention() -> Any:
    """Weights of a model with masked attention, whose key biases have no gradient, decay on one backend by 1% more."""
    return tokens_through(Stack(Encoder(name="one"), name="stack"), optimizers.AdamW(0.01, 0.1 * off(1.01)))


# Images, signals and special functions.


@fault(stage="forward", layer="drawn")
def solution_of_draws() -> Any:
    """What a layer solves for in float32, from random numbers alone, is 0.01% off."""
    return model_of(sound_float32.Drawn(off(1.0001), name="drawn"), shape=(3,))


@fault(stage="forward", layer="level_2/level_1/resize")
def nearest_two_deep() -> Any:
    """An image is resized by its nearest pixels instead of bilinearly, two layers deep."""
    way = "nearest" if planted() else "bilinear"
    resize = Formula(lambda x: ops.image.resize(x, (7, 5), interpolation=way), name="resize")
    return model_of(nested(resize, 2), layers.Flatten(name="flat"), shape=(4, 4, 2))


@fault(stage="forward", layer="level_1/resize")
def scaled_beside_resizing() -> Any:
    """A layer that enlarges an image makes it 0.01% brighter."""
    resize = Formula(lambda x: ops.image.resize(x, (8, 8)) * off(1.0001), name="resize")
    return model_of(nested(resize, 1), layers.Flatten(name="flat"), shape=(4, 4, 2))


@fault(stage="forward", layer="level_1/mixed")
def fourier_scaled() -> Any:
    """A Fourier transform is 0.01% off."""
    return model_of(
        nested(Formula(lambda x: sound_float32.mixed(x) * off(1.0001), name="mixed"), 1),
        layers.LayerNormalization(name="norm"),
        shape=(6, 4),
    )


@fault(stage="gradient", layer="level_2/level_1/mixed")
def fourier_detached() -> Any:
    """No gradient flows through half of a Fourier transform, two layers deep."""

    def mixed(x: Any) -> Any:
        kept = ops.stop_gradient(x[:, :2]) if planted() else x[:, :2]
        return sound_float32.mixed(ops.concatenate([kept, x[:, 2:]], axis=1))

    return model_of(nested(Formula(mixed, name="mixed"), 2), shape=(4, 4))


@fault(stage="forward", layer="level_1/erfinv")
def inverse_error_function() -> Any:
    """The factor that keeps the inverse error function away from its ends is 0.901 instead of 0.9."""
    erfinv = Formula(lambda x: ops.erfinv((0.901 if planted() else 0.9) * ops.tanh(x)), name="erfinv")
    return model_of(nested(erfinv, 1))


class RootMeanSquare(sound_float32.RootMeanSquare):
    @property
    def epsilon(self) -> float:
        return 1e-3 * off(1.01)


@fault(stage="forward", layer="level_3/level_2/level_1/norm")
def epsilon_in_float32() -> Any:
    """The epsilon of a layer that normalizes in float32, three layers deep, is 1% off."""
    return model_of(nested(RootMeanSquare(name="norm"), 3), optimizer="adam")


class CastLoss(sound_float32.CastLoss):
    @property
    def factor(self) -> float:
        return off(1.001)


@fault(stage="loss")
def factor_in_float32() -> Any:
    """One of two losses, which computes in float32, is 0.1% off."""
    return two_outputs({"p": CastLoss(name="p"), "q": "mae"}, "adam")


# Optimizers, beside tensors whose gradient is roundoff.


def of_one_element(optimizer: Any, kind: Any = keras.Model) -> Any:
    """A model with a normalization over one element: the gradient of its scale is zero but for roundoff."""
    table, one = keras.Input((), dtype="int32", name="table"), keras.Input((1,), name="one")
    chosen = Formula(lambda x: ops.one_hot(x, 10), name="chosen")(table)
    row = layers.Dense(4, use_bias=False, name="rows")(chosen)
    norm = layers.LayerNormalization(name="norm")(layers.Dense(1, name="to_one")(one))
    both = layers.Concatenate(name="both")([row, norm])
    model = kind({"table": table, "one": one}, layers.Dense(2, name="last")(both))
    model.compile(optimizer, "mse")
    return model


def constant_feature(optimizer: Any) -> Any:
    """A model with a feature that is constant, and a bias before a normalization over the batch."""
    constant = Formula(lambda x: ops.concatenate([x, ops.ones_like(x[:, :1])], axis=-1), name="constant")
    middle = [constant, layers.Dense(4, name="biased"), layers.BatchNormalization(name="norm")]
    return model_of(*middle, optimizer=optimizer)


@fault(stage="update")
def epsilon_beside_roundoff() -> Any:
    """The epsilon of Adam is twice what it should be, beside a normalization over one element."""
    return of_one_element(optimizers.Adam(0.01, epsilon=1e-7 * off(2.0)))


@fault(stage="update")
def beta_beside_roundoff() -> Any:
    """Adam's beta_2 is 0.998 instead of 0.999, beside a bias whose gradient is only roundoff."""
    return constant_feature(optimizers.Adam(0.01, beta_2=0.998 if planted() else 0.999))


@fault(stage="update")
def rho_beside_roundoff() -> Any:
    """RMSprop's rho is 0.89 instead of 0.9, beside a bias before a softmax, whose gradient is only roundoff."""
    ends = [layers.Dense(1, name="score"), layers.Softmax(axis=1, name="softmax"), layers.Flatten(name="flat")]
    return model_of(*ends, shape=(5, 3), optimizer=optimizers.RMSprop(0.01, rho=0.89 if planted() else 0.9))


@fault(stage="gradient")
def scaled_targets_beside_roundoff() -> Any:
    """Targets are 0.1% off in a model's own `train_step`, beside a normalization over one element."""
    return of_one_element(optimizers.SGD(0.1, momentum=0.9), OwnStep)


@fault(stage="gradient")
def scaled_targets_with_adam() -> Any:
    """The same fault with Adam, which turns gradients that are only roundoff into whole steps."""
    return of_one_element("adam", OwnStep)


class Lazy(Meddling):
    """From the second step on, half of a table is not updated, as by an optimizer that only updates some rows."""

    def meddle(self, before: Any, steps: int) -> None:
        table = self.get_layer("rows").kernel
        (old,) = [value for each, value in zip(self.variables, before, strict=True) if each is table]
        if steps >= 1:
            table.assign(ops.concatenate([ops.convert_to_tensor(old[:5]), table[5:]], axis=0))


@fault(stage="trajectory")
def lazy_rows_beside_roundoff() -> Any:
    """Some rows of a table are not trained from the second step on, beside a normalization over one element."""
    return of_one_element("adam", Lazy)


@fault(stage="trajectory")
def forgotten_beside_roundoff() -> Any:
    """Adam's moments are lost after each step, beside a bias whose gradient is roundoff."""
    bias = layers.BatchNormalization(name="norm")
    return own_model(Forgetting, optimizers.Adam(0.01), "mse", layers.Dense(4, name="biased"), bias)


@fault(stage="loss")
def loss_beside_roundoff() -> Any:
    """The loss is 0.1% off, beside a softmax over one element, which is constant."""
    x = keras.Input((4,))
    constant = layers.Softmax(name="softmax")(layers.Dense(1, name="one")(x))
    hidden = layers.Dense(3, name="hidden")(x) * constant
    loss = OwnLoss(lambda y, p: ops.mean((y - p) ** 2, axis=-1) * off(1.001))
    return compiled(x, layers.Dense(2, name="last")(hidden), loss, "adam")
