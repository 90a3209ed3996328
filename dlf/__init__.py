"""Deep Learning Foundations: one Keras 3 model on TensorFlow, JAX and PyTorch, side by side.

Requirements:

* importing dlf imports neither a framework nor Keras nor NumPy: each public name is loaded on first use;
* ``import dlf`` and then ``import keras`` works with any one framework installed, TensorFlow or not.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from dlf._version import __version__ as __version__
from dlf.backend.default import settle_backend

if TYPE_CHECKING:
    from dlf.backend.report import print_versions as print_versions
    from dlf.check.check import check_source as check_source
    from dlf.data.datasets import load_tfds_dataset as load_tfds_dataset
    from dlf.data.prepare import prepare_for_training as prepare_for_training
    from dlf.gradients.check import check_gradients as check_gradients
    from dlf.gradients.training_loop import TrainingLoop as TrainingLoop
    from dlf.gradients.value_and_grad import value_and_grad as value_and_grad
    from dlf.parity.check import check_parity as check_parity
    from dlf.random.seed import common_randomness as common_randomness
    from dlf.random.seed import randomness_report as randomness_report
    from dlf.random.seed import set_seed as set_seed
    from dlf.training.callbacks import build_callbacks as build_callbacks
    from dlf.training.evaluation import evaluate as evaluate
    from dlf.training.evaluation import predict as predict
    from dlf.training.fit import compile_and_fit as compile_and_fit
    from dlf.training.fit import fit as fit
    from dlf.training.tensorboard import TensorBoard as TensorBoard
    from dlf.utils.errors import DlfError as DlfError
    from dlf.visualization.plots import plot_history as plot_history
    from dlf.visualization.plots import visualize_model as visualize_model
    from dlf_jax.nnx_module import from_nnx as from_nnx
    from dlf_jax.nnx_module import to_nnx as to_nnx
    from dlf_jax.optax_optimizer import from_optax as from_optax
    from dlf_jax.optimizers import optax_for as optax_for

_HOMES = {
    "DlfError": "dlf.utils.errors",
    "TensorBoard": "dlf.training.tensorboard",
    "TrainingLoop": "dlf.gradients.training_loop",
    "build_callbacks": "dlf.training.callbacks",
    "check_gradients": "dlf.gradients.check",
    "check_parity": "dlf.parity.check",
    "check_source": "dlf.check.check",
    "common_randomness": "dlf.random.seed",
    "compile_and_fit": "dlf.training.fit",
    "evaluate": "dlf.training.evaluation",
    "fit": "dlf.training.fit",
    "from_nnx": "dlf_jax.nnx_module",
    "from_optax": "dlf_jax.optax_optimizer",
    "load_tfds_dataset": "dlf.data.datasets",
    "optax_for": "dlf_jax.optimizers",
    "plot_history": "dlf.visualization.plots",
    "predict": "dlf.training.evaluation",
    "prepare_for_training": "dlf.data.prepare",
    "print_versions": "dlf.backend.report",
    "randomness_report": "dlf.random.seed",
    "set_seed": "dlf.random.seed",
    "to_nnx": "dlf_jax.nnx_module",
    "value_and_grad": "dlf.gradients.value_and_grad",
    "visualize_model": "dlf.visualization.plots",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - they are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dlf' has no attribute {name!r}")
    if os.environ.get("KERAS_BACKEND") and _HOMES[name] != "dlf.utils.errors" and "keras" not in sys.modules:
        # The import below imports Keras. If its backend is misspelt or absent, `select_backend` gives a better error.
        from dlf.backend.registry import select_backend

        select_backend()
    package = _HOMES[name].partition(".")[0]
    if package != "dlf":
        # The name lives in a backend's package, and that backend's frameworks may not be installed.
        from dlf.backend.registry import check_installed, load_backend

        check_installed(load_backend(package.removeprefix("dlf_")), f"dlf.{name}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


settle_backend()


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
