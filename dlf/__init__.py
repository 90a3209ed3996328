"""Deep Learning Foundations: one Keras 3 model on TensorFlow, JAX and PyTorch, side by side.

What is asked of it:

* importing dlf imports neither a framework nor Keras nor NumPy: each public name is loaded on first use;
* ``import dlf`` and then ``import keras`` works with any one framework installed, TensorFlow or not.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from dlf.default_backend import settle_backend

if TYPE_CHECKING:
    from dlf.backend_report import print_versions as print_versions
    from dlf.datasets import load_tfds_dataset as load_tfds_dataset
    from dlf.drawing import plot_history as plot_history
    from dlf.drawing import visualize_model as visualize_model
    from dlf.errors import DlfError as DlfError
    from dlf.evaluation import evaluate as evaluate
    from dlf.evaluation import predict as predict
    from dlf.gradients.check import check_gradients as check_gradients
    from dlf.gradients.training_loop import TrainingLoop as TrainingLoop
    from dlf.gradients.value_and_grad import value_and_grad as value_and_grad
    from dlf.parity.check import check_parity as check_parity
    from dlf.pipelines import prepare_for_training as prepare_for_training
    from dlf.randomness import common_randomness as common_randomness
    from dlf.randomness import randomness_report as randomness_report
    from dlf.randomness import set_seed as set_seed
    from dlf.tensorboard import TensorBoard as TensorBoard
    from dlf.training import build_callbacks as build_callbacks
    from dlf.training import compile_and_fit as compile_and_fit
    from dlf_jax.nnx_module import from_nnx as from_nnx
    from dlf_jax.nnx_module import to_nnx as to_nnx
    from dlf_jax.optax_optimizer import from_optax as from_optax
    from dlf_jax.optimizers import optax_for as optax_for

__version__ = "0.1.0"

_HOMES = {
    "DlfError": "dlf.errors",
    "TensorBoard": "dlf.tensorboard",
    "TrainingLoop": "dlf.gradients.training_loop",
    "build_callbacks": "dlf.training",
    "check_gradients": "dlf.gradients.check",
    "check_parity": "dlf.parity.check",
    "common_randomness": "dlf.randomness",
    "compile_and_fit": "dlf.training",
    "evaluate": "dlf.evaluation",
    "from_nnx": "dlf_jax.nnx_module",
    "from_optax": "dlf_jax.optax_optimizer",
    "load_tfds_dataset": "dlf.datasets",
    "optax_for": "dlf_jax.optimizers",
    "plot_history": "dlf.drawing",
    "predict": "dlf.evaluation",
    "prepare_for_training": "dlf.pipelines",
    "print_versions": "dlf.backend_report",
    "randomness_report": "dlf.randomness",
    "set_seed": "dlf.randomness",
    "to_nnx": "dlf_jax.nnx_module",
    "value_and_grad": "dlf.gradients.value_and_grad",
    "visualize_model": "dlf.drawing",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - they are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dlf' has no attribute {name!r}")
    if os.environ.get("KERAS_BACKEND") and _HOMES[name] != "dlf.errors" and "keras" not in sys.modules:
        # What follows imports Keras: if its backend is misspelt or absent, this says so better than Keras does.
        from dlf.backend_registry import select_backend

        select_backend()
    package = _HOMES[name].partition(".")[0]
    if package != "dlf":
        # It lives in a backend's package, whose frameworks need not be there.
        from dlf.backend_registry import check_installed, load_backend

        check_installed(load_backend(package.removeprefix("dlf_")), f"dlf.{name}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


settle_backend()


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
