"""Checks gradients: each path against finite differences in float64, and its rounding error against noise floors.

Requirements:

* two questions are kept apart. Is it the gradient of this function? That is decided in float64, by finite differences,
  in units of their own uncertainty. What does the dtype cost? That is the difference from float64, in units of the
  difference that rounding inputs and weights alone makes;
* a point without a derivative is a tie, not a defect; nor is a derivative that is cut on purpose a defect;
* every variable is reported by its name, with its worst direction or element.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import stop_gradient_undone
from dlf.backend.protocol import Batch, CustomGradients, GradientPath, Loss, SecondDerivatives
from dlf.backend.registry import current_backend, load_backend
from dlf.gradients._finite_difference import slope_at_zero
from dlf.gradients.value_and_grad import find_path
from dlf.models.model_loss import as_batch, check_model, model_loss, parameters_of, to_numpy
from dlf.numerics.float64 import float64_reference, in_float64
from dlf.numerics.noise_floor import eps_of, is_floating, moved, noise_floors, rms, verdict_of, widened
from dlf.random.seed import common_randomness
from dlf.training.engine.arrays import without_last_nones
from dlf.utils.errors import InvalidArgumentError
from dlf.utils.files import without_nan

__all__ = ["GradientCheck", "GradientFinding", "check_gradients"]

Arrays = dict[str, np.ndarray]

PERTURBATIONS = 4
"""How many times inputs and weights are moved by a unit in the last place, to see how far the gradient moves."""
MEANT = 0.01
"""A custom gradient whose relative difference is below this is meant to be the derivative: it differs by mistake."""
DOUBT = 32.0
"""How many of its uncertainties a finite difference may differ by; for correct gradients it is below one or two."""


@dataclass(frozen=True)
class GradientFinding:
    """The result of checking one path's gradient by one variable."""

    path: str
    quantity: str
    """``"gradient"``, ``"hessian-vector product"`` or ``"per-example gradients"``."""
    variable: str
    verdict: str
    """``rounding``, ``untouched``, ``tie``, ``cut``, ``noisy``, ``precision``, ``not finite`` or ``diverged``.

    ``cut`` means that `keras.ops.stop_gradient` or `custom_gradient` changes the gradient on purpose, as in a
    straight-through estimator: without them it agrees with finite differences, which cannot judge the changed one.
    """
    relative_difference: float
    """Between path and truth in float64; relative to the largest gradient, if this one is zero by cancellation."""
    doubt: float
    """The same difference, in units of the truth's own uncertainty."""
    noise_floors: float
    """The error in the dtype under test, in units of what rounding inputs and weights causes; nan if not measured."""
    detail: str = ""


@dataclass(frozen=True)
class GradientCheck:
    """The findings of `check_gradients`; they print as a table, the worst first."""

    findings: tuple[GradientFinding, ...]
    in_float64: Mapping[str, Arrays] = field(default_factory=dict, repr=False)
    """The gradients in float64: for each path, a dictionary by variable."""

    @property
    def ok(self) -> bool:
        """Whether no gradient is wrong."""
        return not self.defects

    @property
    def defects(self) -> tuple[GradientFinding, ...]:
        """The findings that are wrong, not merely imprecise."""
        return tuple(each for each in self.findings if each.verdict in ("diverged", "not finite"))

    def as_dict(self) -> dict[str, Any]:
        """Returns everything as plain lists and dictionaries."""
        return {"ok": self.ok, "findings": [without_nan(asdict(each)) for each in self.findings]}

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        cut = sum(each.verdict == "cut" for each in self.findings)
        head = (
            f"{len(self.defects)} of {len(self.findings)} gradients are wrong"
            if not self.ok
            else f"all {len(self.findings)} gradients are right"
            if not cut
            else f"no gradient of {len(self.findings)} is wrong; {cut} cannot be judged by finite differences"
        )
        width = max(len(each.variable) for each in self.findings)
        lines = [
            f"{head}",
            f"  {'path':<9} {'of':<22} {'variable':<{width}} {'verdict':<10} {'rel. diff.':>10} {'floors':>7}",
        ]
        for each in sorted(self.findings, key=lambda each: (_SEVERITY.index(each.verdict), each.path)):
            floors = "" if np.isnan(each.noise_floors) else f"{each.noise_floors:.1f}"
            lines.append(
                f"  {each.path:<9} {each.quantity:<22} {each.variable:<{width}} {each.verdict:<10} "
                f"{each.relative_difference:>10.1e} {floors:>7}  {each.detail}".rstrip()
            )
        return "\n".join(lines)


_SEVERITY = ("diverged", "not finite", "precision", "noisy", "cut", "tie", "untouched", "rounding")


def check_gradients(  # noqa: PLR0913 - what is checked, on what, and how thoroughly.
    target: Any,
    batch: tuple[Any, ...],
    *,
    loss: Any = None,
    parameters: Mapping[str, Any] | None = None,
    paths: tuple[str, ...] | None = None,
    training: bool = True,
    second_derivatives: bool = False,
    seed: int = 0,
) -> GradientCheck:
    """Checks the gradients of a function or a Keras model against float64 and finite differences, for each variable.

    For the loss ``L(θ)`` and directions ``v``, ``∇L·v`` is compared with ``(L(θ + hv) - L(θ - hv)) / 2h``, in float64,
    in units of that difference's own uncertainty. The error in the dtype of the parameters is given in noise floors.
    One noise floor is how far the float64 gradient moves when inputs and parameters move by one unit in the last place
    of that dtype.

    Args:
        target: A built Keras model; a function without arguments that builds one, for a model that Keras cannot
            recreate from its configuration; or, with `parameters`, a function ``(parameters, batch) -> scalar`` written
            with `keras.ops` or in the framework's own operations.
        batch: ``(x, y)``, ``(x, y, sample_weight)``, or ``(x,)`` for a model that is trained without labels.
        loss: As in Keras's `compile`; None stands for the loss that the model was compiled with.
        parameters: The parameters of a function: floating-point arrays by name.
        paths: The gradient paths to check; by default all that the backend has.
        training: Whether a model is called in training mode.
        second_derivatives: Whether to check Hessian-vector products and per-example gradients too. The latter are of
            batches of one example, so BatchNormalization must not be in training.
        seed: The seed of the directions that are tried.

    Returns:
        The findings; true if no gradient is wrong.

    Raises:
        InvalidArgumentError: The model is not built or has no float64 form, a parameter is not a floating-point array,
            the loss is not a scalar, or a path does not exist.

    Example:
        >>> def square(parameters, batch):
        ...     return keras.ops.mean((parameters["w"] * batch[0] - batch[1]) ** 2)
        >>> x = np.linspace(-1, 1, 8, dtype="float32")
        >>> check_gradients(square, (x, 2 * x), parameters={"w": np.float32(0.5)}).ok
        True
    """
    if not isinstance(batch, tuple) or not 1 <= len(batch) <= 3 or batch[0] is None:  # noqa: PLR2004 - x, y and weights.
        raise InvalidArgumentError("batch", expected="(x, y), (x, y, sample_weight) or (x,)", received=batch)
    known = current_backend().gradient_paths()
    chosen = {name: find_path(name) for name in (paths or known)}
    subject = (
        _function(target, parameters) if parameters is not None else _model(target, loss, batch, training=training)
    )
    given = tuple(without_last_nones(batch))
    batch = keras.tree.map_structure(lambda each: to_numpy(keras.ops.convert_to_tensor(each)), given)
    findings: list[GradientFinding] = []
    truths = {}
    for name, path in chosen.items():
        examiner = _Examiner(name, path, subject, batch, np.random.default_rng(seed))
        findings += examiner.gradients()
        truths[name] = examiner.truth
        if second_derivatives and isinstance(path, SecondDerivatives):
            findings += examiner.hessian_vector_products()
            findings += examiner.per_example_gradients()
    return GradientCheck(tuple(findings), truths)


@dataclass(frozen=True)
class _Subject:
    """What is differentiated: the loss as it is, and the same loss in float64."""

    loss: Loss
    parameters: Arrays
    in_float64: Callable[[], Loss]
    """Makes the loss in float64; called while Keras computes in float64."""


def _function(function: Any, parameters: Mapping[str, Any]) -> _Subject:
    arrays = {name: to_numpy(value) for name, value in parameters.items()}
    for name, array in arrays.items():
        if not is_floating(array.dtype):
            raise InvalidArgumentError(
                f"parameters[{name!r}]",
                expected="floating-point numbers, which a gradient can be taken by",
                received=str(array.dtype),
            )

    def scalar(values: Any, batch: Any) -> Any:
        value = function(values, batch)
        shape = getattr(value, "shape", None)
        if shape is None or len(shape):
            received = value if shape is None else f"the shape {tuple(shape)}"
            raise InvalidArgumentError("target", expected="a function that returns a scalar", received=received)
        return value

    return _Subject(scalar, arrays, lambda: scalar)


def _model(target: Any, loss: Any, batch: Batch, *, training: bool) -> _Subject:
    def build_and_call() -> Any:
        model = target()
        if isinstance(model, keras.Model) and not model.built:
            model(as_batch(*batch)[0])
        return model

    if inspect.isfunction(target) and any(
        each.default is each.empty for each in inspect.signature(target).parameters.values()
    ):
        raise InvalidArgumentError(
            "parameters",
            expected="a dictionary of arrays, since target is a function that takes arguments",
            received=None,
        )
    build = None if isinstance(target, keras.Model) or not callable(target) else build_and_call
    model = target if build is None else build()
    check_model(model)
    parameters = parameters_of(model)

    def make_in_float64() -> Loss:
        reference = float64_reference(model, build)
        return model_loss(reference, loss, training=training, names=parameters)

    return _Subject(model_loss(model, loss, training=training), parameters, make_in_float64)


class _Examiner:
    """Checks one path on one subject."""

    def __init__(
        self, name: str, path: GradientPath, subject: _Subject, batch: Any, random: np.random.Generator
    ) -> None:
        self._name, self._path, self._batch, self._random = name, path, batch, random
        self._taken_of = cache(self._taken)
        self._dtypes = {key: value.dtype for key, value in subject.parameters.items()}
        self._exact = {key: value.astype(np.float64) for key, value in subject.parameters.items()}
        self._exact_batch = keras.tree.map_structure(widened, batch)
        with common_randomness():
            self._tested = self._gradients(subject.loss, subject.parameters, batch)
        with in_float64():
            self._loss = subject.in_float64()
            self._evaluate = current_backend().compiled(self._loss)
            self.truth = self._gradients(self._loss, self._exact, self._exact_batch)
            self._floors = self._noise_floors()

    def gradients(self) -> list[GradientFinding]:
        """Compares each variable's gradient with finite differences, and its rounding error with the noise floor."""
        with in_float64():
            return [self._gradient(name) for name in self._exact]

    def hessian_vector_products(self) -> list[GradientFinding]:
        """Compares ``H v`` with finite differences of the gradient along ``v``."""
        vector = {name: self._signs(value.shape) * _scale(value) for name, value in self._exact.items()}
        with in_float64():
            received = self._second.hessian_vector_product(self._loss, self._exact, self._tensors(), vector)
            tried = [self._slopes(vector, step) for step in _STEPS_OF_GRADIENTS]
        findings = []
        for name, array in _arrays(received).items():
            expected, doubt = min((each[name] for each in tried), key=lambda pair: pair[1])
            findings.append(self._compared("hessian-vector product", name, array, expected, doubt))
        return findings

    def per_example_gradients(self) -> list[GradientFinding]:
        """Compares per-example gradients with the gradients that are taken for each example alone."""
        count = len(keras.tree.flatten(self._exact_batch)[0])
        examples = [
            keras.tree.map_structure(lambda part, i=i: part[i : i + 1], self._exact_batch) for i in range(count)
        ]
        with in_float64():
            received = _arrays(self._second.per_example_gradients(self._loss, self._exact, self._tensors()))
            alone = [self._gradients(self._loss, self._exact, example) for example in examples]
        findings = []
        for name, array in received.items():
            expected = np.stack([each[name] for each in alone])
            # Both are computed in float64: its noise floor is the measured one, scaled by the ratio of the epsilons.
            doubt = count * self._floors[name] * eps_of(np.float64) / eps_of(self._dtypes[name])
            findings.append(self._compared("per-example gradients", name, array, expected, doubt))
        return findings

    @property
    def _second(self) -> SecondDerivatives:
        assert isinstance(self._path, SecondDerivatives)  # noqa: S101 - asked before.
        return self._path

    def _signs(self, shape: Any) -> np.ndarray:
        return np.asarray(self._random.choice([-1.0, 1.0], shape))

    def _tensors(self) -> Any:
        return as_batch(*self._exact_batch)

    def _taken(self, loss: Loss) -> Callable[[Any, Any], Any]:
        def take(parameters: Any, batch: Any) -> Any:
            return self._path.loss_and_gradients(loss, parameters, batch)

        return current_backend().compiled(take)

    def _gradients(self, loss: Loss, parameters: Arrays, batch: Any) -> Arrays:
        return _arrays(self._taken_of(loss)(parameters, as_batch(*batch))[1])

    def _value(self, parameters: Arrays) -> float:
        tensors = {name: keras.ops.convert_to_tensor(value) for name, value in parameters.items()}
        return float(to_numpy(self._evaluate(tensors, self._tensors())))

    def _noise_floors(self) -> dict[str, float]:
        """Returns how far each gradient moves when all inputs and parameters move by one unit in the last place."""
        perturbed = []
        for _ in range(PERTURBATIONS):
            parameters = {name: moved(value, self._dtypes[name], self._random) for name, value in self._exact.items()}
            nudged = [moved(float64, tested.dtype, self._random) for float64, tested in self._pairs()]
            perturbed.append(
                self._gradients(self._loss, parameters, keras.tree.pack_sequence_as(self._exact_batch, nudged))
            )
        return noise_floors(self.truth, perturbed, self._dtypes)

    def _pairs(self) -> Any:
        return zip(keras.tree.flatten(self._exact_batch), keras.tree.flatten(self._batch), strict=True)

    def _gradient(self, name: str) -> GradientFinding:
        truth, tested = self.truth[name], self._tested[name]
        bad = int(truth.size - (np.isfinite(truth) & np.isfinite(tested)).sum())
        if bad:
            detail = f"{bad} of {truth.size} elements"
            return GradientFinding(self._name, "gradient", name, "not finite", np.nan, np.nan, np.nan, detail)
        floors = float(rms(tested - truth) / self._floors[name])
        directions = self._directions(truth)
        worst = _worst([self._probe(name, direction, self.truth) for direction in directions])
        if worst.verdict in {"diverged", "precision"}:
            worst = self._uncut(name, directions, worst)
        verdict = verdict_of(floors) if worst.verdict == "rounding" else worst.verdict
        return GradientFinding(self._name, "gradient", name, verdict, worst.relative, worst.doubt, floors, worst.detail)

    def _uncut(self, name: str, directions: list[np.ndarray], worst: _Probe) -> _Probe:
        """Judges a gradient that differs: it is cut on purpose if it agrees without `stop_gradient` and the like."""
        called: dict[str, None] = {}
        with (
            stop_gradient_undone(lambda: called.setdefault("stop_gradient")),
            _custom_gradients_undone(lambda: called.setdefault("custom_gradient")),
        ):
            # Not by the compiled function, which still contains the cut.
            gradients = _arrays(self._path.loss_and_gradients(self._loss, self._exact, self._tensors())[1])
        if not called or not np.isfinite(gradients[name]).all():
            return worst
        other = _worst([self._probe(name, direction, gradients) for direction in directions])
        if other.verdict in {"diverged", "precision"} and gradients[name].any():
            return worst
        steepest = directions[2]
        cut, whole = (float(np.sum(each[name] * steepest)) for each in (self.truth, gradients))
        both_ways = f"{cut:.4g} as asked for, {whole:.4g} without, as finite differences have it"
        if "stop_gradient" not in called and worst.relative < MEANT:
            return _Probe(worst.verdict, worst.relative, worst.doubt, f"custom_gradient is off: {both_ways}")
        return _Probe("cut", np.nan, np.nan, f"{' and '.join(called)} cuts it: {both_ways}")

    def _directions(self, truth: np.ndarray) -> list[np.ndarray]:
        """Returns four directions: all elements with random signs, twice; the steepest element; and a random one."""
        singles = np.zeros((2, truth.size))
        singles[0, np.abs(truth).argmax()] = singles[1, self._random.integers(truth.size)] = 1.0
        return [self._signs(truth.shape), self._signs(truth.shape), *singles.reshape(2, *truth.shape)]

    def _probe(self, name: str, direction: np.ndarray, gradients: Arrays) -> _Probe:
        point = self._exact[name]

        def along(distance: float) -> float:
            return self._value({**self._exact, name: point + distance * direction})

        slope = slope_at_zero(along, _scale(point))
        expected = float(np.sum(gradients[name] * direction))
        distance = abs(expected - slope.value)
        if not gradients[name].any() and not slope.value:
            return _Probe("untouched", 0.0, 0.0, "the loss does not depend on it")
        if _moves_in_steps(along, expected, _scale(point)):
            return _Probe(
                "precision", np.nan, np.nan, "the loss moves in steps: in it something is rounded to fewer digits"
            )
        # The uncertainty is 0 only where the loss was 0 at every point.
        doubt = distance / slope.uncertainty if slope.uncertainty else np.inf if distance else 0.0
        size = max(abs(slope.value), abs(expected))
        if size <= slope.uncertainty:
            # Zero by cancellation, as for a bias before BatchNormalization: its own size is no measure.
            size = max(float(np.abs(each).max()) for each in gradients.values()) or size
        relative = distance / size if size else 0.0
        if doubt <= DOUBT:
            return _Probe("rounding", doubt, relative)
        if slope.has_kink and distance <= abs(slope.right - slope.left):
            return _Probe("tie", doubt, relative, f"slope {slope.left:.4g} to the left, {slope.right:.4g} to the right")
        return _Probe("diverged", doubt, relative, f"{expected:.7g}, by finite differences {slope.value:.7g}")

    def _slopes(self, vector: Arrays, step: float) -> dict[str, tuple[np.ndarray, float]]:
        """Returns slopes of the gradients along a vector, taken as in `slope_at_zero`, and how far each can be off."""

        def at(distance: float) -> Arrays:
            moved = {name: value + distance * vector[name] for name, value in self._exact.items()}
            return self._gradients(self._loss, moved, self._exact_batch)

        far_left, left, right, far_right = (at(distance) for distance in (-step, -step / 2, step / 2, step))
        slopes = {}
        for name, before in self.truth.items():
            coarse, fine = (far_right[name] - far_left[name]) / (2 * step), (right[name] - left[name]) / step
            value = (4 * fine - coarse) / 3
            rounding = 8 * np.finfo(np.float64).eps * max(np.abs(before).max(), self._floors[name]) / step
            slopes[name] = value, float(np.abs(value - fine).max() + rounding)
        return slopes

    def _compared(
        self, quantity: str, name: str, received: np.ndarray, expected: np.ndarray, doubt: float
    ) -> GradientFinding:
        distance = np.abs(received - expected)
        worst = np.unravel_index(int(distance.argmax()), distance.shape)
        size = max(float(np.abs(expected).max()), float(np.abs(received).max()), np.finfo(float).tiny)
        doubts, relative = float(distance[worst] / doubt), float(distance[worst] / size)
        if np.isfinite(doubts) and doubts <= DOUBT:
            return GradientFinding(self._name, quantity, name, "rounding", relative, doubts, np.nan)
        detail = f"element {[int(i) for i in worst]}: {received[worst]:.7g}, expected {expected[worst]:.7g}"
        return GradientFinding(self._name, quantity, name, "diverged", relative, doubts, np.nan, detail)


@dataclass(frozen=True)
class _Probe:
    """The comparison of a gradient with finite differences in one direction."""

    verdict: str
    doubt: float
    relative: float
    detail: str = ""


_STEPS_OF_GRADIENTS = (2.0**-12, 2.0**-16, 2.0**-20)
"""Step sizes in units of the parameters: if a ReLU switches within a long step, a shorter one is more certain."""


def _moves_in_steps(along: Callable[[float], float], expected: float, scale: float) -> bool:
    """Whether the loss is a staircase: constant near the point although its gradient is not 0, but not further away."""
    at_zero, near = along(0.0), 2.0**-36 * scale
    visible = abs(expected) * near > 64 * float(np.finfo(np.float64).eps) * abs(at_zero)
    stands = visible and along(near) == at_zero == along(-near)
    return stands and any(along(distance * scale) != at_zero for distance in (2.0**-10, 2.0**-5, 1.0))


def _worst(probes: list[_Probe]) -> _Probe:
    return min(probes, key=lambda probe: (_SEVERITY.index(probe.verdict), -probe.doubt))


def _arrays(tensors: Mapping[str, Any]) -> Arrays:
    return {name: to_numpy(value) for name, value in tensors.items()}


def _scale(array: np.ndarray) -> float:
    """Returns a distance over which a function of the array changes: the rms of its elements, or 2⁻⁶ if that is 0."""
    return rms(array) or 2.0**-6


def _custom_gradients_undone(note: Callable[[], Any]) -> AbstractContextManager[None]:
    """Undoes custom gradients by the backend of Keras's framework, also when a plug-in backend runs on that."""
    framework = load_backend(keras.config.backend())
    return framework.custom_gradients_undone(note) if isinstance(framework, CustomGradients) else nullcontext()
