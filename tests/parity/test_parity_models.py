"""Tests targets of `dlf parity` on one backend: saved files, dtypes, penalties, modes, evidence."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest
from keras import layers

from dlf.backend.registry import current_backend
from dlf.models.targets import load_target
from dlf.numerics.float64 import in_float64
from dlf.parity._judging.measure import measure_training
from dlf.parity._recording.building import builder_of
from dlf.parity._recording.subject import Subject, outputs_alone
from dlf.parity._recording.taps import Listener, listening
from dlf.parity._recording.worker import Worker
from dlf.parity._records import Records
from dlf.parity.evidence import judged, read_report, thresholds_of
from dlf.parity.options import STAGES, ParityOptions
from dlf.parity.report import report_text, write_report
from dlf.parity.runner import Workers, run_parity
from dlf.utils.errors import BackendError, InvalidArgumentError

HERE = current_backend().name

MODEL = """
import keras
from keras import layers, ops

class Twice(layers.Layer):
    def call(self, x):
        return x * 2

class Looks(layers.Layer):
    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x):
        return x * 2 if float(ops.max(ops.abs(x))) > 0 else x

class Counts(Looks):
    def __init__(self, **options):
        super().__init__(**options)
        self.count = self.add_weight(shape=(), initializer="ones", trainable=False, name="count")

    def call(self, x):
        return x * 2 if float(ops.convert_to_tensor(self.count)) > 0 else x

class Float32Table(layers.Layer):
    def call(self, x):
        return x * ops.cast(ops.log(ops.convert_to_tensor([3.0], "float32")), x.dtype)

class Float32Inside(layers.Layer):
    def call(self, x):
        return ops.cast(ops.tanh(ops.cast(x, "float32")), x.dtype)

def compiled(*middle):
    model = keras.Sequential([keras.Input((4,)), *middle, layers.Dense(2, name="last")])
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    return model

def build():
    return compiled(layers.Dense(6, activation="tanh", kernel_regularizer="l2", name="first"),
                    layers.BatchNormalization(name="norm"), layers.Dropout(0.3, name="drop"))

def counts():
    return compiled(Counts(name="counts"))

def looks():
    return compiled(Looks(name="looks"))

def inside():
    return compiled(Float32Inside(name="inside"))

def table():
    return compiled(Float32Table(name="table"))

class Around(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.last = layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)

    def build(self, shape):
        self.norm.build(shape)
        self.last.build(shape)

    def call(self, x):
        return self.last(self.drop(self.norm(x)))

def around():
    x = keras.Input((4,))
    model = keras.Model(x, Around()(x))
    model.compile("sgd", "mse")
    return model

def two_outputs():
    x = keras.Input((4,))
    model = keras.Model(x, [layers.Dense(1, name="a")(x), layers.Dense(1, name="b")(x)])
    model.compile("sgd", ["mse", "mae"], loss_weights=[1.0, 3.0])
    return model
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "models.py"
    place.write_text(MODEL)
    return place


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers([HERE], timeout=120) as workers:
        yield workers


def test_workers_share_the_cores_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(workers: Workers) -> str:
        with workers:
            process = psutil.Process(workers.sessions[HERE]._worker.pid)
            # The system may not know the environment of a process that has just been started.
            while not (environment := process.environ()):
                time.sleep(0.01)
            return environment["OMP_NUM_THREADS"]

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("dlf.parity._asking.workers.cores_of_machine", lambda: 6)
    assert threads(Workers([HERE])) == "6"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads(Workers([HERE])) == "3"


def asked(target: str, **options: Any) -> dict[str, Any]:
    return {
        "target": target,
        "data": None,
        "loss": None,
        "batch_size": 4,
        "steps": 2,
        "seed": 3,
        "dtype": "float32",
        "device": None,
    } | options


def replayed(worker: Worker, folder: Path) -> Records:
    trace = {"do": "trace", "to": str(folder / "trace"), "gradients": True}
    keys = [call["key"] for call in worker.respond(trace)["calls"]]
    request = {"truth": str(folder / "trace"), "to": str(folder / "replay"), "keys": keys}
    worker.respond({"do": "replay", **request, "perturb": False, "gradients": True})
    return Records(folder / "replay")


@pytest.mark.slow
def test_one_backend_alone_is_held_against_its_own_float64(workers: Workers, file: Path, tmp_path: Path) -> None:
    report = run_parity(ParityOptions(f"{file}:build", [HERE], steps=2), workers=workers)
    assert report["verdict"] == "not compared"
    assert report_text(report).startswith(f"Not compared: there is {HERE} alone.")
    costs = [each["noise_floors"] for each in report["findings"] if each["stage"] in {"forward", "gradient", "loss"}]
    assert costs
    assert max(costs) < 30
    # A layer's own penalty is judged with the layer, and layers are called in inference too.
    places = {(each["stage"], each["layer"], each["variable"], each["mode"]) for each in report["findings"]}
    assert {("loss", "first", "penalty", None), ("forward", "norm", None, "inference")} <= places
    assert {each["mode"] for each in report["measurements"] if each["stage"] == "trajectory"} == {
        "resynchronised",
        "free",
    }
    # The report holds the measurements, and can be judged again.
    place = tmp_path / "parity.json"
    write_report(report, place)
    again = judged(read_report(place), (), thresholds_of(["noisy=1e-9"]))
    assert again["thresholds"]["noisy"] == 1e-9
    assert {each["verdict"] for each in again["precision"]} >= {"noisy"}
    assert judged(read_report(place))["findings"] == json.loads(place.read_text())["findings"]
    with pytest.raises(InvalidArgumentError, match=f"--backends: expected some of those that were measured: {HERE}"):
        judged(report, ["cray"])


def test_stages_that_are_not_asked_for_are_not_run(workers: Workers, file: Path) -> None:
    report = run_parity(ParityOptions(f"{file}:build", [HERE], stages=["forward"]), workers=workers)
    assert {each["stage"] for each in report["measurements"]} == {"forward"}
    assert report["trajectory"] is None
    assert "gradient    not asked for" in report_text(report)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16", "float16"])
def test_another_dtype_is_held_to_its_own_noise_floors(workers: Workers, file: Path, dtype: str) -> None:
    stages = ["forward", "gradient", "loss", "state"]
    report = run_parity(ParityOptions(f"{file}:build", [HERE], dtype=dtype, stages=stages), workers=workers)
    assert {each["dtype"] for each in report["measurements"]} == {dtype.removeprefix("mixed_")}
    variables = {each["dtype"] for each in report["backends"][HERE]["variables"] if each["trainable"]}
    assert variables == {"float32" if dtype.startswith("mixed") else dtype}
    forward = [each for each in report["measurements"] if each["layer"] == "first" and each["stage"] == "forward"]
    # The layer was computed in this dtype: errors of float32 would be thousands of times smaller.
    assert all((each["errors"][HERE] or 0.0) > 0.01 * each["floor"] for each in forward)
    assert not any(each["verdict"] in {"diverged", "precision"} for each in report["findings"])


@pytest.mark.once
def test_data_that_a_layer_takes_as_they_are_are_not_rounded(workers: Workers, tmp_path: Path) -> None:
    """GroupNormalization has no autocast: it is given numbers in float32 that float16 does not hold."""
    (tmp_path / "large.py").write_text("""
import keras

def build():
    group = keras.layers.GroupNormalization(groups=1, name="group", dtype="mixed_float16")
    return keras.Sequential([keras.Input((4, 3)), group, keras.layers.Dense(2)])

def data(size, random):
    return 1e5 * random.random((size, 4, 3)).astype("float32")
""")
    target, data = (f"{tmp_path / 'large.py'}:{name}" for name in ("build", "data"))
    options = ParityOptions(target, [HERE], data=data, stages=["forward"])
    report = run_parity(options, workers=workers)
    assert {each["layer"] for each in report["findings"]} >= {"group", "dense"}
    assert not any(each["verdict"] == "not finite" for each in report["findings"])


def test_a_model_that_a_file_makes_when_it_is_run_takes_the_dtype_too(tmp_path: Path) -> None:
    made = tmp_path / "made.py"
    made.write_text("import keras\nmodel = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\n")
    subject = Subject(builder_of(f"{made}:model", "mixed_bfloat16"), "mse")
    assert [each.model.layers[0].compute_dtype for each in (subject, subject.again())] == ["bfloat16", "bfloat16"]
    assert keras.config.dtype_policy().name == "float32"


FLOAT64 = """
import keras
{at_module}
def build():
    {in_function}
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model
"""


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning")
@pytest.mark.parametrize("places", [("at_module", "in_function"), ("in_function", "at_module")])
def test_a_floatx_of_the_file_is_that_of_its_model(tmp_path: Path, places: tuple[str, str]) -> None:
    code = FLOAT64.format(**dict(zip(places, ("keras.config.set_floatx('float64')", "pass"), strict=True)))
    (tmp_path / "wide.py").write_text(code)
    worker = Worker()
    answer = worker.respond({"do": "build", "options": asked(f"{tmp_path / 'wide.py'}:build")})
    # JAX has no float64 unless it is enabled.
    expected = "float32" if keras.config.backend() == "jax" else "float64"
    assert answer["dtype"] == "float64"
    assert {each["dtype"] for each in answer["variables"]} == {expected}
    assert worker.respond({"do": "build_again"}) == {"changed": []}
    (tmp_path / "narrow.py").write_text(FLOAT64.format(at_module="", in_function="pass"))
    answer = worker.respond({"do": "build", "options": asked(f"{tmp_path / 'narrow.py'}:build")})
    assert answer["dtype"] == "float32"
    assert keras.config.floatx() == "float32"


class Cell(keras.Layer):  # type: ignore[misc]  # Keras has no types.
    """A recurrent cell without a `build`, which makes its layers' variables where it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.state_size = 4
        self.inner, self.norm = keras.layers.SimpleRNNCell(4), keras.layers.LayerNormalization()

    def call(self, inputs: Any, states: Any) -> Any:
        given, _ = self.inner(inputs, states)
        given = self.norm(given)
        return given, [given]


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer:UserWarning")
def test_a_cell_that_makes_its_variables_when_it_is_called_has_them() -> None:
    def build(**_: Any) -> Any:
        model = keras.Sequential([keras.Input((3, 2)), keras.layers.RNN(Cell()), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    subject = Subject(build, None)
    assert len(subject.model.trainable_variables) == 7
    assert np.array_equal(subject.model.layers[0].cell.norm.gamma, np.ones(4))


def test_a_loss_that_was_made_before_computes_in_float64() -> None:
    """A script's own loss may call one of Keras's that the script has made."""
    loss = keras.losses.MeanSquaredError()
    with in_float64():
        third = keras.ops.convert_to_tensor(np.full((1, 1), 1 / 3))
        assert float(loss(third, keras.ops.zeros_like(third))) == 1 / 9
    assert keras.losses.Loss.dtype.fget(loss) == "float32"


@pytest.mark.parametrize(("value", "room"), [(np.float64(np.float32(0.1)), True), (0.1, False), (0.5, False)])
def test_a_loss_in_float32_is_given_its_room_where_no_step_moves_it(value: float, room: bool) -> None:
    records: Any = {"jax": {"float64/|loss/value": np.float64(value), "tested/|loss/value": np.float32(value)}}
    (found,) = measure_training(records, "jax", {}, "float32")
    assert ("inherited" in found) == room


def test_a_dtype_that_no_layer_takes_is_refused(tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.py"
    fixed.write_text(
        "import keras\nmodel = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, dtype='float32')])\n"
    )
    options = asked(f"{fixed}:model", dtype="mixed_bfloat16", loss="mse")
    with pytest.raises(InvalidArgumentError, match="mixed_bfloat16, and layers that compute in float32"):
        Worker().respond({"do": "build", "options": options})


def test_a_saved_model_is_what_it_was(file: Path, tmp_path: Path) -> None:
    model = builder_of(f"{file}:build", "float32")()
    model.save(tmp_path / "saved.keras")
    x = np.ones((2, 4), "float32")
    for dtype in ("float32", "mixed_bfloat16"):
        found = builder_of(str(tmp_path / "saved.keras"), dtype)()
        assert found.layers[0].compute_dtype == dtype.removeprefix("mixed_")
        assert found.compiled
        np.testing.assert_allclose(found.predict(x, verbose=0), model.predict(x, verbose=0), atol=0.05)
    subject = Subject(builder_of(str(tmp_path / "saved.keras"), "mixed_bfloat16"), None)
    with in_float64():
        subject.make_reference()
        assert subject.reference.layers[0].compute_dtype == "float64"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda own: layers.Lambda(lambda x: x * 2), "Lambda"),
        (lambda own: own(), "Could not locate class 'Twice'"),
    ],
)
def test_a_saved_model_with_code_of_its_own_is_refused(
    file: Path, tmp_path: Path, make: Callable[[Any], keras.Layer], message: str
) -> None:
    model = keras.Sequential([keras.Input((4,)), make(load_target(f"{file}:Twice")), layers.Dense(1)])
    model.save(tmp_path / "own.keras")
    sys.modules.pop("models")  # As in another process.
    with pytest.raises(
        InvalidArgumentError, match=r"TARGET: expected a file that Keras saved.*loaded in safe mode"
    ) as no:
        builder_of(str(tmp_path / "own.keras"), "float32")()
    assert message in str(no.value)
    assert "give a function instead" in str(no.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no model", b"\x00" * 1000])
def test_a_file_that_is_no_model_is_one_clear_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.keras").write_bytes(content)
    with pytest.raises(InvalidArgumentError, match="TARGET: expected a file that Keras saved"):
        builder_of(str(tmp_path / "broken.keras"), "float32")()


def test_a_device_that_is_not_there_is_said(file: Path) -> None:
    first = current_backend().devices()[0]
    other = "gpu" if first.startswith("cpu") else "cpu"
    with pytest.raises(InvalidArgumentError, match=f"--device: expected a device that {HERE} finds: .* {first}"):
        Worker().respond({"do": "build", "options": asked(f"{file}:build", device=other)})


def test_data_that_cannot_be_made_say_so(file: Path) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"--data: expected data as .* or a function \(batch size, random\)(.|\n)*TypeError"
    ):
        Worker().respond({"do": "build", "options": asked(f"{file}:build", data=f"{file}:build")})


@pytest.mark.slow
def test_a_script_that_compares_at_import_compares_once(tmp_path: Path) -> None:
    """Each worker runs the script, but starts no workers that would run it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import dlf, keras\n"
        "def build():\n"
        "    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\n"
        f"print(dlf.check_parity(build, backends=['{HERE}'], loss='mse', stages=['forward']))\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(f"Not compared: there is {HERE} alone.") == 1
    assert "line 4 did not run (BackendError: a worker of dlf was asked to start workers" in ended.stdout


@pytest.mark.slow
def test_a_layer_is_replayed_in_the_mode_that_it_was_called_in(file: Path, tmp_path: Path) -> None:
    """Keras passes the mode to inner layers by the context of the outer call, which a replay does not have."""
    worker = Worker()
    worker.respond({"do": "build", "options": asked(f"{file}:around")})
    records = replayed(worker, tmp_path)
    for title in ("float64", "tested"):
        assert (records[f"{title}/around/dropout|forward/0"] == 0).any()
        assert (records[f"{title}/around/dropout|inference/0"] != 0).all()
        before = records[f"{title}/around/batch_normalization|state/moving_mean"]
        assert (before != 0).all()


@pytest.mark.slow
def test_a_penalty_and_its_gradient_belong_to_the_layer(file: Path, tmp_path: Path) -> None:
    worker = Worker()
    worker.respond({"do": "build", "options": asked(f"{file}:build")})
    records, trace = replayed(worker, tmp_path), Records(tmp_path / "trace")
    kernel = worker._subject.model.layers[0].kernel
    penalty = 0.01 * float(np.sum(keras.ops.convert_to_numpy(kernel.value).astype("float64") ** 2))
    assert records["float64/first|loss/penalty"] == pytest.approx(penalty, rel=1e-6)
    whole = next(name for name in trace if name.startswith("gradient/") and name.endswith("first/kernel"))
    np.testing.assert_allclose(records["float64/first|gradient/variable/kernel"], trace[whole], rtol=1e-4, atol=1e-6)


def test_a_slot_has_one_name_however_many_were_made_before(file: Path) -> None:
    def names() -> list[str]:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="model")
        model.compile(keras.optimizers.Nadam(), "mse")
        return [each for each in Subject(lambda: model, None).slot_names() if "dense" not in each]

    assert names() == names()
    assert names()[-1] == "6:variable"


def test_a_layer_that_looks_at_its_numbers_is_replayed_as_it_is(workers: Workers, file: Path) -> None:
    """On JAX the layer cannot be compiled; its outputs are still compared."""
    report = run_parity(ParityOptions(f"{file}:looks", [HERE], stages=("build", "forward")), workers=workers)
    assert not report["failed"]
    assert "looks" in {each["layer"] for each in report["findings"] if each["stage"] == "forward"}


def test_a_layer_that_looks_at_its_state_is_replayed_as_it_is(workers: Workers, file: Path) -> None:
    """On JAX the whole model's gradient can be compiled, but not that of the layer, whose state is an argument."""
    report = run_parity(
        ParityOptions(f"{file}:counts", [HERE], stages=("build", "forward", "gradient")), workers=workers
    )
    assert not report["failed"]
    assert "counts" in {each["layer"] for each in report["findings"] if each["stage"] == "gradient"}


def test_the_weights_of_losses_count(file: Path, tmp_path: Path) -> None:
    worker = Worker()
    worker.respond({"do": "build", "options": asked(f"{file}:two_outputs")})
    replayed(worker, tmp_path)
    request = {"truth": str(tmp_path / "trace"), "to": str(tmp_path / "training"), "perturb": False}
    worker.respond({"do": "replay_training", **request, "stages": list(STAGES)})
    y, trace = worker._chosen.batches[0][1], Records(tmp_path / "trace")
    a, b = (trace[f"float64/prediction:{n}"] for n in range(2))
    expected = np.mean((a - y[0]) ** 2) + 3 * np.mean(np.abs(b - y[1]))
    assert Records(tmp_path / "training")["float64/|loss/value"] == pytest.approx(expected, rel=1e-6)
    assert trace["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["inside", "table"])
def test_a_layer_that_asks_for_float32_has_no_float64_form(name: str, file: Path, tmp_path: Path) -> None:
    from dlf.parity._judging.measure import _moves
    from dlf.parity._judging.measurement import Measurement
    from dlf.parity._judging.verdict import Thresholds, judged_in_own_dtype

    worker = Worker()
    worker.respond({"do": "build", "options": asked(f"{file}:{name}")})
    replayed(worker, tmp_path)
    request = {"truth": str(tmp_path / "trace"), "to": str(tmp_path / "beside"), "keys": [name, "last"]}
    worker.respond({"do": "replay_beside", **request, "gradients": True})
    beside = Records(tmp_path / "beside")
    for layer, longest in ((name, 3), ("last", None)):
        moves = _moves(beside, f"float64/{layer}|forward/0")
        assert moves is not None
        measured: Measurement = {"moves": {HERE: [moves]}, "longest": 3}
        assert judged_in_own_dtype(measured, Thresholds()) == longest


def test_what_was_heard_is_not_held() -> None:
    """A recorded call holds only the shapes and dtypes of its tensors, since a model may have a thousand layers."""
    model = keras.Sequential([keras.Input((3,)), *(layers.Dense(3, name=f"dense_{n}") for n in range(3))])
    heard = Listener({each.name: each for each in model.layers}, hear=lambda call: call.without_tensors())
    with listening(heard):
        model(keras.ops.ones((2, 3)))
    assert [call.sources for call in heard.calls] == [[], ["dense_0"], ["dense_1"]]
    for call in heard.calls:
        for each in keras.tree.flatten((call.asked, call.outputs, call.state, call.masks)):
            assert not keras.ops.is_tensor(each)


class Watch(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Passes its inputs to `seen` when it is called."""

    def __init__(self, seen: Callable[[Any], None], **options: Any) -> None:
        super().__init__(**options)
        self.seen = seen

    def call(self, x: Any) -> Any:
        self.seen(x)
        return x + 1


def test_a_tensor_goes_with_the_last_layer_that_takes_it() -> None:
    made: list[Any] = []
    alive: list[int] = []

    def seen(x: Any) -> None:
        if keras.ops.is_tensor(x):
            alive.append(sum(each() is not None for each in made))
            made.append(weakref.ref(x))

    chain = [layer for _ in range(6) for layer in (layers.Rescaling(2.0), Watch(seen))]
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3), *chain])
    made.clear()  # On TensorFlow, the symbolic inputs that the model is built with count as tensors.
    model(np.ones((2, 3), "float32"))
    assert alive[-1] == 5  # Keras alone keeps all of them.
    made.clear()
    with outputs_alone(model):
        model(np.ones((2, 3), "float32"))
    assert alive[-1] <= 1


def test_a_tensor_stays_while_somebody_takes_it() -> None:
    """Tensors that are used late, twice, by a shared layer, as an inner output, in a nested model, by two models."""
    x = keras.Input((3,))
    shared = layers.Dense(3, activation="tanh")
    first = shared(x)
    inner = keras.Model(x, [first, shared(first)])
    a, b = inner(x * 2)
    late = layers.Add()([shared(layers.Rescaling(0.5)(layers.Rescaling(3.0)(b))), a, a, x])
    model = keras.Model(x, {"late": late, "midst": b, "input": x})
    part = keras.Model(x, [late, a])  # A model of the same nodes, with other outputs.
    value = np.arange(6, dtype="float32").reshape(2, 3)
    for each in (model, part, inner):
        expected = keras.tree.map_structure(keras.ops.convert_to_numpy, each(value))
        with outputs_alone(each):
            found = keras.tree.map_structure(keras.ops.convert_to_numpy, each(value))
        keras.tree.map_structure(np.testing.assert_array_equal, found, expected)


def test_what_keras_keeps_of_a_graph_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras.src.ops.symbolic_arguments import SymbolicArguments

    from dlf.backend.keras_internals import tensors_freed

    monkeypatch.delattr(SymbolicArguments, "fill_in")
    with pytest.raises(BackendError, match="which are gone"), tensors_freed():
        pass


def test_an_excluded_weight_does_not_decay_in_the_reference(file: Path) -> None:
    def build() -> Any:
        model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
        optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        model.compile(optimizer, "mse")
        return model

    from dlf.backend.keras_internals import decay_of_weights

    subject = Subject(build, None)
    with in_float64():
        subject.make_reference()
        decays = decay_of_weights(subject.reference.optimizer)
        assert decays is not None
        assert [decays(each) for each in subject.reference.trainable_variables] == [True, False]


def test_a_function_in_a_loop_that_is_traced_has_arguments_without_values() -> None:
    model = keras.Sequential(
        [
            keras.Input((4, 2)),
            keras.layers.GRU(3, recurrent_activation="hard_sigmoid", name="gru"),
            keras.layers.Dense(1),
        ]
    )
    x, y = np.ones((2, 4, 2), np.float32), np.ones((2, 1), np.float32)
    functions = Subject(lambda: model, "mse").outputs_for((x, y), "TARGET")["functions"]
    assert functions["gru"][0][0] == "nn.hard_sigmoid"
    assert functions["gru"][0][1]["clipped"] is False
