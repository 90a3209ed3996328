"""What the workers answer, in JSON's types: what each backend has built, and which layers it has called."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from dlf.backend.report import BackendDescription
from dlf.parity._judging.measurement import Measurement

__all__ = [
    "BackendAnswer",
    "BuildAnswer",
    "Built",
    "CallAnswer",
    "Described",
    "Evidence",
    "LayerAnswer",
    "Measured",
    "Outputs",
    "Report",
    "TraceAnswer",
    "ValueSummary",
    "VariableAnswer",
]


class VariableAnswer(TypedDict):
    """One variable of the model."""

    path: str
    layer: str | None
    """The innermost layer that holds it."""
    shape: list[int]
    dtype: str
    trainable: bool
    sparse: NotRequired[bool]
    """Whether the backend gives it a sparse gradient in training; absent where it does not."""


# "class" is a keyword of Python.
LayerAnswer = TypedDict(
    "LayerAnswer",
    {
        "path": str,
        "class": str,
        "dtype": str,
        "parameters": int,
        "config": dict[str, Any],
        "metrics": list[str],
    },
)
"""One layer of the model, by the name of its class, with the names of the metrics that it holds."""


class ValueSummary(TypedDict):
    """An initial value: its bits, and what chance is judged by."""

    digest: str
    rms: float
    size: int
    constant: bool


class CallAnswer(TypedDict):
    """One call of a layer in the float64 reference."""

    key: str
    """The layer's path, and the number of the call from the second on: ``"dense"``, ``"dense#2"``."""
    layer: str
    sources: list[str]
    """The keys of the calls that its inputs come from."""
    given_numbers: bool
    """Whether all that it was given is finite."""
    shape: list[list[int]]
    dtype: str
    own_dtype: bool
    """Whether it has no float64 form: some variable or output keeps a dtype of its own."""
    longest: int
    """The most elements in an input, which bounds the length of a sum."""


class Described(TypedDict):
    """What a model consists of."""

    variables: list[VariableAnswer]
    layers: list[LayerAnswer]


class Outputs(TypedDict):
    """What a model gives for a batch."""

    outputs: list[list[Any]]
    """Of each output its place, shape and dtype."""
    given: list[list[Any]]
    """Of each call of a layer its key, the layer's path, and dtype and shape of all that it gives."""
    refused: str | None
    """Why the loss has no value, where it has none."""
    functions: dict[str, list[Any]]
    """Calls of Keras's functions that are known to differ, by the layer's path; those of the loss by ``""``."""
    assigned: list[str]
    """The trainable variables that are assigned to in the model's call."""


class Built(Described, Outputs):
    """What one backend has built: what models are compared by before anything is trained."""

    own_train_step: bool
    lookups: list[str]
    """The layers that look text up, and that the model is cut behind."""
    has_call: bool
    """Whether the model can be called, and not only trained by a step of its own."""
    trained_by: str
    """What gives the gradients: ``"loss"``, ``"compute_loss"``, ``"train_step"`` or ``"nothing"``."""
    takes_training: bool
    """Whether the model is subclassed, and its `call` takes ``training``."""
    values: dict[str, ValueSummary]
    """The initial values, by the number and the path of the variable."""
    own_draws: dict[str, list[str]]
    """Calls by which a layer draws random numbers that are not common, by the layer's path."""
    drawn_alike: bool
    """Whether all initial values are drawn by the common initializers."""
    optimizer_config: dict[str, Any]


class BuildAnswer(BackendDescription, Built):
    """The answer to `build`."""

    remarks: list[str]
    """What of the target's file was not run, in words."""
    draws: str
    """The place in the stream of numbers from which Keras draws seeds, after the target's file was run."""
    lines_left_out: list[int]
    """The first lines of its statements that failed."""
    trainings: int
    """How many trainings of the file were left out."""
    batches_of_training: bool
    """Whether the batches are those that the target's script trains on."""
    training_refused: str | None
    """Why the model does not take those, if so."""
    called_by_step: bool
    """Whether the model is called on what its own step calls it on, which is not what the step is given."""
    data_not_finite: list[str]
    """Where the data hold NaN or infinity, in words."""
    dtype: str
    compiled: bool
    optimizer: str | None
    digest: str
    batches: list[str]
    """The digest of each batch."""


class TraceAnswer(TypedDict):
    """The answer to `trace`: the calls of one forward pass, and the variables without a float64 form."""

    calls: list[CallAnswer]
    step_heard: bool
    """Whether the layers were heard that the model's own step calls, if it is trained by one."""
    own_dtype_variables: list[str]
    loss_fails: str | None
    """The error of the loss or of its gradients, where the model itself comes through."""


class BackendAnswer(Built):
    """What a report keeps of a backend and of what it has built."""

    keras: str
    framework: str
    device: str
    tensor_float_32: str | None
    matmul_precision: str
    numeric_settings: dict[str, str]


class Measured(TypedDict):
    """What was measured of models that are built alike."""

    measurements: list[Measurement]
    trajectory: dict[str, Any] | None
    """The curves of training, for people to look at."""
    given_up: dict[str, dict[str, str]]
    """Of a stage that did not come through on some backends, the error of each."""
    called_unevenly: list[str]
    """The layers that are not called as often on each backend."""
    fits: dict[str, dict[str, Any]]
    """Of each backend what Keras's `fit` reports, or its error."""


class Evidence(Measured):
    """What a verdict rests on: a report holds all of it, and can be judged again."""

    schema: int
    target: str
    seed: int
    dtype: str
    batch_size: int
    steps: int
    stages_asked: list[str]
    compiled: bool
    optimizer: str | None
    backends: dict[str, BackendAnswer]
    failed: dict[str, str]
    by_keras_alone: list[str]
    """The backends on which something fails, and Keras by itself comes through."""
    calls: list[CallAnswer]
    remarks: list[str]
    data_not_finite: list[str]


class Report(Evidence):
    """What `dlf parity --json` writes: the evidence, and what the verdict makes of it."""

    verdict: str
    findings: list[dict[str, Any]]
    """The fields of every `Finding`."""
    divergences: list[dict[str, Any]]
    """Those of another meaning, in the order of the stages."""
    first_divergence: dict[str, Any] | None
    precision: list[dict[str, Any]]
    """Those of the same meaning that a reader should know of."""
    not_finite: dict[str, Any] | None
    """Where NaN or infinity begins."""
    not_judged: list[dict[str, str]]
    """The stages that could not be judged in full, with the reason."""
    stages: dict[str, dict[str, Any]]
    """Of each stage how many findings have which verdict, and the worst."""
    layers: list[LayerAnswer]
    known_failures: dict[str, str]
    thresholds: dict[str, float]
    initial_values: list[str]
    """The variables that the backends initialize to other values."""
