"""Tests parity from end to end: planted faults have to be located, and sound models must not be called faulty."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from awkward_models import AWKWARD
from field_models import ANSWERS, Answer
from own_training import WAYS

from dlf.backend.registry import installed_backends
from dlf.parity.evidence import judged
from dlf.parity.options import ParityOptions
from dlf.parity.report import answer_of, exit_code, name_of, report_text, why_empty, write_report
from dlf.parity.runner import Workers, run_parity
from dlf.testing import assert_parity

INSTALLED = list(installed_backends())
MODELS = Path(__file__).with_name("parity_models.py")
Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [
    pytest.mark.once,
    pytest.mark.parity,
    pytest.mark.together,
    pytest.mark.skipif(len(INSTALLED) < 2, reason="a comparison takes two backends: see the nox session parity"),
]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(INSTALLED) as workers:
        yield workers


class Compare(Protocol):
    def __call__(self, name: str, backends: list[str], *, on: str | None = None, **options: Any) -> Any: ...


@pytest.fixture
def compare(workers: Workers) -> Compare:
    """Compares a model of `parity_models.py`, with its fault on a backend or on none, by the running workers."""

    def run(name: str, backends: list[str], *, on: str | None = None, **options: Any) -> Any:
        if "data" in options:
            options["data"] = f"{MODELS}:{options['data']}"
        workers.revive()
        some = Workers([])
        some.sessions = {each: workers.sessions[each] for each in backends}
        target = f"{MODELS}:{name}__on_{on}" if on else f"{MODELS}:{name}"
        return run_parity(ParityOptions(target, backends, **options), workers=some)

    return run


def report_on_own(workers: Workers, name: str, data: str = "images", **options: Any) -> Any:
    """Compares one of the models that are trained in their own way, on the backends of the workers."""
    file = Path(__file__).with_name("own_training.py")
    asked = ParityOptions(f"{file}:{name}", list(workers.sessions), data=f"{file}:{data}", **options)
    return run_parity(asked, workers=workers)


def places(report: dict[str, Any], stage: str) -> set[tuple[str | None, str | None]]:
    return {(each["layer"], name_of(each)) for each in report["divergences"] if each["stage"] == stage}


def news(report: dict[str, Any]) -> set[tuple[str, str | None]]:
    return {(each["verdict"], each["layer"]) for each in report["precision"] if each["layer"]}


def test_each_of_thirteen_faults_is_placed_and_nothing_else_is(compare: Compare) -> None:
    """Among them is an epsilon of 1e-6 that is 1% off, which does not show in float32."""
    report = compare("faults_with_adam", INSTALLED, on=INSTALLED[-1])
    assert report["verdict"] == "diverge"
    assert report["first_divergence"]["layer"] == "shift"
    # It agrees in float64, and overflows in float32 on one backend, which can be named even among two.
    lost = [each for each in report["divergences"] if each["layer"] == "lost"]
    assert {(each["stage"], each["backend"]) for each in lost} >= {("forward", INSTALLED[-1])}
    report["divergences"] = [each for each in report["divergences"] if each not in lost]
    forward = {"shift", "epsilon", "small_epsilon", "round_trip", "block/inner", "gelu", "rate"}
    assert places(report, "forward") == {(layer, None) for layer in forward}
    # An epsilon shows in inference too, a dropout rate in training only.
    inference = {each["layer"] for each in report["divergences"] if each["mode"] == "inference"}
    assert inference == {"epsilon", "block/inner"}
    assert places(report, "loss") == {(None, "value"), (None, "gradient/0")}
    assert {layer for layer, _ in places(report, "gradient")} == forward | {"detached"}
    assert ("detached", "input/0") in places(report, "gradient")
    assert {layer for layer, _ in places(report, "state")} == {"momentum"}
    # The optimizer is given the truth's gradients: it does not inherit the faults of loss and layers, but has its own.
    assert any(str(variable).endswith("dense/kernel") for _, variable in places(report, "update"))
    assert places(report, "build") == places(report, "trajectory") == set()
    # Of two backends, neither is blamed.
    blamed = INSTALLED[-1] if len(INSTALLED) > 2 else None
    assert {each["backend"] for each in report["divergences"]} == {blamed}


def test_another_optimizer_is_placed_in_the_update(compare: Compare) -> None:
    report = compare("nesterov", INSTALLED[:2], on=INSTALLED[1])
    assert {each["stage"] for each in report["divergences"]} == {"update"}
    assert report["first_divergence"]["variable"].endswith("kernel")


def test_other_variables_are_placed_in_the_build(compare: Compare) -> None:
    report = compare("built_otherwise", INSTALLED, on=INSTALLED[-1])
    # For a layer of another dtype, the layer is named and not each of its variables.
    assert places(report, "build") == {("extra", "bias"), ("wide", None)}
    assert {each["stage"] for each in report["divergences"]} == {"build"}


def test_a_loss_of_the_model_s_own_is_placed_in_the_loss(compare: Compare) -> None:
    report = compare("trained_otherwise", INSTALLED[:2], on=INSTALLED[1])
    assert places(report, "loss") == {(None, None)}
    assert {each["stage"] for each in report["divergences"]} == {"loss"}


@pytest.mark.slow
def test_what_only_training_shows_is_placed_in_the_trajectory(compare: Compare) -> None:
    """The loss of training is off from the second step on; the first step is the same."""
    report = compare("stepped_otherwise", INSTALLED, on=INSTALLED[-1], steps=2)
    assert {(each["stage"], each["step"]) for each in report["divergences"]} == {("trajectory", 1)}
    blamed = INSTALLED[-1] if len(INSTALLED) > 2 else None
    assert {each["backend"] for each in report["divergences"]} == {blamed}
    assert "at step 2" in report_text(report)


def test_what_a_model_does_between_its_layers_is_placed_there(compare: Compare) -> None:
    report = compare("between", INSTALLED[:2], on=INSTALLED[1], data="own_data", loss="mse", stages=["forward"])
    assert places(report, "forward") == {(None, "the input of two")}


@pytest.mark.slow
@pytest.mark.parametrize("backends", [INSTALLED, INSTALLED[:2]])
def test_a_mask_and_a_penalty_that_one_does_not_have_are_placed(compare: Compare, backends: list[str]) -> None:
    # Of two backends, the first is taken for the truth.
    report = compare("without_its_mask", backends, on=backends[0])
    assert places(report, "forward") == {("words", "mask")}
    assert {each["stage"] for each in report["divergences"]} == {"forward"}
    assert "words is not configured alike: `mask_zero` is" in report_text(report)
    report = compare("without_its_penalty", backends, on=backends[0])
    first = report["first_divergence"]
    assert (first["stage"], first["layer"], first["variable"]) == ("loss", "penalized", "penalty")


def test_initial_values_are_compared_before_all_get_the_same(compare: Compare) -> None:
    report = compare("initialized_otherwise", INSTALLED[:2], on=INSTALLED[1], stages=["forward"])
    assert places(report, "build") == {("first", "kernel")}
    assert report["stages"]["forward"]["counts"]


def test_a_report_is_judged_again_on_fewer_backends(compare: Compare) -> None:
    report = json.loads(json.dumps(compare("nesterov", INSTALLED, on=INSTALLED[-1], stages=["update"])))
    assert judged(report)["divergences"] == report["divergences"]
    pair = judged(report, [INSTALLED[0], INSTALLED[-1]])
    assert {each["backend"] for each in pair["divergences"]} == {None}
    if len(INSTALLED) > 2:
        assert judged(report, INSTALLED[:2])["verdict"] == "agree"


@pytest.mark.slow
@pytest.mark.parametrize("build", AWKWARD, ids=lambda build: build.__name__)
def test_what_is_awkward_to_compare_is_compared_and_agrees(
    workers: Workers, build: Callable[[], Any], tmp_path: Path
) -> None:
    target = f"{Path(__file__).with_name('awkward_models.py')}:{build.__name__}"
    report = run_parity(ParityOptions(target, INSTALLED, steps=2), workers=workers)
    assert report["failed"] == {}
    assert report["divergences"] == []
    assert not any(each["verdict"] == "precision" for each in report["findings"])
    write_report(report, tmp_path / "parity.json")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), WAYS)
def test_a_model_is_compared_by_what_it_is_trained_by(workers: Workers, name: str, data: str) -> None:
    report = report_on_own(workers, name, data, steps=2)
    assert report["failed"] == {}
    assert answer_of(report).startswith(f"The model computes and trains the same on {INSTALLED[0]}")
    assert report["not_judged"] == []
    stages = {each["stage"] for each in report["measurements"]}
    assert stages >= {"forward", "loss", "gradient", "update", "trajectory"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("contrastive", None),
        ("contrastive_of_another_loss", ("gradient", None, "sequential/dense/kernel")),
        ("contrastive_of_another_layer", ("forward", "head/scaled", None)),
    ],
)
def test_a_step_of_its_own_is_compared_by_its_layers_and_its_gradients(workers: Workers, name: str, place: Any) -> None:
    if "torch" not in INSTALLED:
        pytest.skip("the fault is PyTorch's")
    report = report_on_own(workers, name, steps=2)
    assert report["failed"] == {}
    assert {each["stage"] for each in report["measurements"]} == {"forward", "gradient", "state", "trajectory"}
    assert {"head/dense_1", "sequential/dense"} <= {call["layer"] for call in report["calls"]}
    first = report["first_divergence"]
    assert (first and (first["stage"], first["layer"], first["variable"])) == place
    # What follows from it is not named again.
    assert {each["step"] for each in report["divergences"]} <= {None, 0}
    assert exit_code(report) == (0 if place is None else 1)


@pytest.mark.slow
@pytest.mark.skipif(len(INSTALLED) < 3, reason="the step fails on one, and the layer on another")
def test_layers_that_a_step_calls_are_compared_where_it_does_not_come_through(workers: Workers) -> None:
    report = report_on_own(workers, "contrastive_of_others", steps=1)
    assert list(report["failed"]) == ["jax"]
    assert report["called_unevenly"] == []
    first = report["first_divergence"]
    assert first
    # Of three backends, one that cannot take the step helps to say which of the others is wrong.
    assert (first["stage"], first["layer"], first["backend"]) == ("forward", "head/scaled", "torch")
    assert {each["stage"] for each in report["measurements"] if each["layer"] == "head/scaled"} == {
        "forward",
        "gradient",
    }


@pytest.mark.slow
def test_a_model_of_which_nothing_is_trained_is_fitted_too(workers: Workers) -> None:
    if "torch" not in INSTALLED:
        pytest.skip("the fault is PyTorch's")
    report = report_on_own(workers, "frozen_and_failing", "images_twice")
    first = report["first_divergence"]
    assert first
    assert (first["kind"], first["backend"]) == ("fit", "torch")
    assert "no loss of mine" in first["detail"]


@pytest.mark.parametrize("name", ["model", pytest.param("main", marks=pytest.mark.slow)])
def test_a_script_is_compared_on_what_it_trains_on(workers: Workers, name: str, tmp_path: Path) -> None:
    # As text: pytest would import a script to look for examples in it, and this one trains for days then.
    file = tmp_path / "script.py"
    file.write_bytes(Path(__file__).with_name("script.txt").read_bytes())
    report = run_parity(ParityOptions(f"{file}:{name}", INSTALLED, steps=2), workers=workers)
    assert report["failed"] == {}
    assert answer_of(report).startswith(f"The model computes and trains the same on {INSTALLED[0]}")
    assert report["not_judged"] == []
    said = report_text(report)
    assert "the training is left out" in said
    assert "its first batches are those that are compared on" in said


@pytest.mark.slow
def test_a_model_that_a_loop_in_one_framework_s_words_has_built_is_built_on_all(
    workers: Workers, tmp_path: Path
) -> None:
    from dlf.parity.report import answer_of

    (tmp_path / "loop.py").write_text(f"""
import keras, numpy as np

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.last = keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)

    def call(self, x):
        return self.last(self.hidden(x))

def loop():
    if keras.config.backend() != {INSTALLED[-1]!r}:
        raise RuntimeError("these are another framework's words")
    model(np.ones((4, 5), "float32"))

model = Own()
loop()
""")
    report = run_parity(ParityOptions(f"{tmp_path / 'loop.py'}:model", INSTALLED), workers=workers)
    assert report["failed"] == {}
    assert answer_of(report).startswith("The model computes the same on")
    assert {each["backend"] for each in report["findings"] if each["layer"] == "hidden"} == set(INSTALLED)
    assert not any("first batches" in each for each in report["remarks"])


def test_a_model_without_a_loss_is_compared_by_what_it_computes(compare: Compare) -> None:
    report = compare("uncompiled", INSTALLED)
    assert {each["stage"] for each in report["findings"]} == {"build", "forward"}
    said = answer_of(report)
    assert said.startswith("The model computes the same on")
    assert said.endswith("Not judged: gradient (there is no loss, and --loss NAME gives one).")
    assert exit_code(report) == 3
    assert exit_code(judged(report | {"stages_asked": ["build", "forward"]})) == 0


@pytest.mark.slow
@pytest.mark.skipif(len(INSTALLED) < 3, reason="two are left to compare only where there are three")
def test_where_a_backend_fails_keras_is_asked(workers: Workers) -> None:
    report = report_on_own(workers, "adversaries", steps=1)
    # Its step is written for the other two.
    assert set(report["failed"]) == {"jax"}
    assert "Keras by itself ends with the same there." in report["failed"]["jax"]


@pytest.mark.slow
def test_a_known_difference_by_the_data_is_no_difference_of_training(compare: Compare) -> None:
    report = compare("augmented", INSTALLED, steps=1)
    untaken = [each for each in report["precision"] if each["verdict"] == "untaken"]
    assert {(each["layer"], each["backend"]) for each in untaken} <= {("turn", None), ("turn", "tensorflow")}
    assert bool(untaken) == ("tensorflow" in INSTALLED)
    assert exit_code(report) == 0
    assert ("which training does not take, differs" in answer_of(report)) == bool(untaken)
    assert any(each["stage"] == "trajectory" for each in report["measurements"])
    # Behind a layer that is trained, training takes the same gradient.
    behind = compare("augmented_behind_a_layer", INSTALLED, steps=1)
    assert behind["verdict"] == ("diverge" if "tensorflow" in INSTALLED else "agree")


@pytest.mark.slow
@pytest.mark.skipif(not {"tensorflow", "torch"} <= set(INSTALLED), reason="it is written for these two")
def test_each_optimizer_of_a_model_is_compared() -> None:
    with Workers(["tensorflow", "torch"]) as pair:
        found = report_on_own(pair, "adversaries", steps=2)
        assert answer_of(found) == "The model trains the same on tensorflow and torch."
        report = report_on_own(pair, "adversaries_of_another_rate", steps=2)
    assert report["first_divergence"]["stage"] == "trajectory"
    found = {str(each["variable"]) for each in report["divergences"]}
    assert any("judging" in each or "dense" in each for each in found)
    assert not any("made" in each for each in found if "step 1" in each)


def test_a_model_that_is_never_called_is_compared_as_far_as_it_goes(workers: Workers) -> None:
    report = report_on_own(workers, "holder", steps=1)
    said = answer_of(report)
    assert said.startswith("The model is built the same on ")
    assert "Not judged: trajectory (training fails on " in said
    assert "RuntimeError: in another framework's words" in said
    assert "the model has no call" in why_empty("forward", report)


@pytest.mark.slow
def test_a_step_that_dlf_alone_cannot_take_is_not_called_one_that_fails(workers: Workers) -> None:
    report = report_on_own(workers, "takes_float32", steps=1)
    said = "dlf cannot train it on every backend: TypeError: float32 is what it takes; Keras by itself can"
    assert f"Not judged: trajectory ({said})." in answer_of(report)
    assert exit_code(report) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("tied_and_wrong_between", ("forward", None)),
        ("tied_inside_and_wrong_outside", ("forward", "outer")),
        ("tied_and_trained_otherwise", ("trajectory", None)),
    ],
)
def test_a_tie_hides_no_fault(compare: Compare, name: str, place: tuple[str, str | None]) -> None:
    loss = "mse" if "between" in name else None
    report = compare(name, INSTALLED[-2:], on=INSTALLED[-1], data="own_data", loss=loss)
    assert ("tie", "tied") in news(report) or ("tie", "outer/tied") in news(report)
    first = report["first_divergence"]
    assert (first["stage"], first["layer"]) == place


@pytest.mark.slow
def test_one_set_of_workers_answers_for_many_models_and_starts_anew_what_has_died() -> None:
    with Workers(INSTALLED[:2]) as workers:
        options = ParityOptions(f"{MODELS}:nesterov", INSTALLED[:2], stages=["forward"])
        first = run_parity(options, workers=workers)
        workers.sessions[INSTALLED[0]]._worker.kill()
        workers.sessions[INSTALLED[0]]._worker.wait()
        assert run_parity(options, workers=workers)["findings"] == first["findings"]


@pytest.mark.slow
def test_a_sound_model_agrees_on_every_backend(compare: Compare) -> None:
    report = compare("sound", INSTALLED)
    assert report["divergences"] == []
    assert all(report["stages"][stage]["counts"] for stage in report["stages"])
    # The cancellation is the layer's own, and is on no single backend.
    assert ("unstable", "cancel") in news(report)
    assert {verdict for verdict, _ in news(report)} <= {"unstable", "noisy"}


@pytest.mark.slow
def test_a_recurrent_model_with_masks_agrees(compare: Compare) -> None:
    assert compare("recurrent", INSTALLED[:2], data="tokens", steps=1)["divergences"] == []


@pytest.mark.slow
def test_an_unstable_model_is_called_so_and_is_no_divergence(compare: Compare) -> None:
    """Keras issue 22697."""
    report = compare("unstable", INSTALLED[-2:], steps=1)
    assert report["divergences"] == []
    assert {each["verdict"] for each in report["findings"] if each["layer"] == "map"} <= {"unstable", "rounding"}


@pytest.mark.slow
def test_a_subclassed_model_is_called_on_its_data_and_agrees() -> None:
    report = assert_parity(f"{MODELS}:own", backends=INSTALLED[-2:], data=f"{MODELS}:own_data", loss="mse")
    assert {each["layer"] for each in report["findings"] if each["stage"] == "forward"} == {"one", "two", "three"}


@pytest.mark.slow
@pytest.mark.skipif("tensorflow" not in INSTALLED, reason="elsewhere the derivative at the kink is the same")
def test_a_point_without_a_derivative_is_a_tie(compare: Compare) -> None:
    other = next(name for name in INSTALLED if name != "tensorflow")
    report = compare("tie", [other, "tensorflow"], steps=1)
    assert report["divergences"] == []
    assert ("tie", "kink") in news(report)


@pytest.mark.slow
def test_what_users_have_reported_is_mended(compare: Compare) -> None:
    """Layers as in Keras issues 18452, 19073, 19291, 19721 and 20804."""
    assert compare("reported", INSTALLED, steps=1)["divergences"] == []


@pytest.mark.slow
@pytest.mark.skipif(
    "torch" not in INSTALLED or len(INSTALLED) < 3, reason="it takes a majority to tell that torch is the odd one"
)
@pytest.mark.xfail(
    reason="on PyTorch, average pooling with padding='same' and strides counts zeros at an edge: keras PR 23233"
)
def test_strided_average_pooling_agrees(compare: Compare) -> None:
    assert compare("strided_average", INSTALLED, steps=1)["divergences"] == []


@pytest.mark.slow
@pytest.mark.skipif("tensorflow" not in INSTALLED, reason="it is TensorFlow's")
@pytest.mark.xfail(
    reason="on TensorFlow, RMSprop and Adam square the gradients of a repeated token one by one, and sum afterwards"
)
def test_repeated_tokens_train_alike(compare: Compare) -> None:
    other = next(name for name in INSTALLED if name != "tensorflow")
    assert compare("repeated_tokens", ["tensorflow", other], steps=1)["divergences"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crashes", "ended with code 3, and said at last:\n  last words"),
        ("raises", "RuntimeError"),
    ],
)
@pytest.mark.skipif(len(INSTALLED) < 3, reason="two are left to compare only where there are three")
def test_a_backend_that_does_not_come_through_costs_the_others_nothing(
    compare: Compare, name: str, message: str
) -> None:
    from dlf.parity.report import answer_of, exit_code

    report = compare(name, INSTALLED, on=INSTALLED[-1], steps=1)
    assert list(report["failed"]) == INSTALLED[-1:]
    assert message in report["failed"][INSTALLED[-1]]
    assert set(report["stages"]["forward"]["counts"]) <= {"rounding", "identical"}
    same = f"The model computes and trains the same on {' and '.join(INSTALLED[:-1])}."
    assert answer_of(report) == f"{same} {INSTALLED[-1]} did not come through."
    assert exit_code(report) == 3


@pytest.mark.slow
@pytest.mark.skipif(len(INSTALLED) < 3, reason="two are left to compare only where there are three")
def test_where_the_loss_fails_what_is_before_it_is_compared(compare: Compare) -> None:
    from dlf.parity.report import answer_of, exit_code

    one = compare("loss_fails", INSTALLED, on=INSTALLED[-1], steps=1)
    assert list(one["failed"]) == INSTALLED[-1:]
    assert answer_of(one).endswith(f" trains the same on {' and '.join(INSTALLED[:-1])}. torch did not come through.")
    two = compare("loss_of_jax_alone", INSTALLED, steps=1)
    others = [name for name in INSTALLED if name != "jax"]
    assert list(two["failed"]) == others
    assert all("another framework's words" in each and "Keras by itself" in each for each in two["failed"].values())
    fails = f"the loss fails on {' and '.join(others)}"
    assert answer_of(two).startswith("The model computes the same on jax, ")
    assert answer_of(two).endswith(f"torch. Not judged: loss, update and trajectory ({fails}).")
    assert exit_code(one) == exit_code(two) == 3
    for report in (one, two):
        layers = [each for each in report["findings"] if each["layer"]]
        assert {each["stage"] for each in layers} == {"forward", "gradient"}
        assert {each["backend"] for each in layers} == set(INSTALLED)
    wrong = compare("loss_of_jax_alone", INSTALLED, on=INSTALLED[-1], steps=1)
    assert {layer for layer, _ in places(wrong, "gradient")} == {"detached"}


def test_the_command_answers_and_writes_its_report(run_python: Run, tmp_path: Path) -> None:
    asked = ["--backends", ",".join(INSTALLED[-2:]), "--json", "parity.json", "--keep", "records", "--steps", "1"]
    ended = run_python("-m", "dlf", "parity", f"{MODELS}:nesterov", *asked, FAULT_ON=INSTALLED[-1])
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout.startswith(f"{INSTALLED[-2]} and {INSTALLED[-1]} differ: it starts in the update of")
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["verdict"] == "diverge"
    kept = {each.name for each in (tmp_path / "records").iterdir()}
    assert kept == {"free", "replay", "single", "trace", "training", "perturbed", "values.npz"}
    # The report that it wrote can be judged again, without starting a framework.
    later = run_python("-m", "dlf", "parity", "--from", "parity.json", "--html", "parity.html")
    assert later.returncode == 1
    assert later.stdout == ended.stdout
    assert (tmp_path / "parity.html").stat().st_size > 10_000
    again = run_python("-m", "dlf", "parity", f"{MODELS}:nesterov", *asked)
    assert again.returncode == 2
    assert "--keep: expected a folder that is empty or not there" in again.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there are no limits to set")
def test_a_full_disk_is_one_clear_message(run_python: Run, tmp_path: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    code += "from dlf.cli.main import main; main()"
    (tmp_path / "tmp").mkdir()
    asked = ["parity", f"{MODELS}:nesterov", "--backends", ",".join(INSTALLED[:2])]
    # Bytecode would be cut short too, and stay.
    ended = run_python("-c", code, *asked, TMPDIR=str(tmp_path / "tmp"), PYTHONDONTWRITEBYTECODE="1")
    assert ended.returncode == 2
    assert "cannot be written (File too large)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list((tmp_path / "tmp").glob("dlf-*"))


@pytest.mark.slow
@pytest.mark.skipif(len(INSTALLED) < 3, reason="what is expected is of all three backends")
def test_the_answer_in_the_readme_is_that_of_its_model(workers: Workers, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    model, answer = (re.findall(rf"```{kind}\n(.*?)```", readme, re.DOTALL)[0] for kind in ("python", "text"))
    (tmp_path / "model.py").write_text(model)
    report = run_parity(ParityOptions(f"{tmp_path / 'model.py'}:model", INSTALLED), workers=workers)
    text = report_text(report, width=1000)
    said = [line for line in answer.splitlines() if "apart in float64" in line or "differs from" in line]
    assert len(said) == 3
    for line in [*said, *(line for line in answer.splitlines() if line.startswith("Known: "))]:
        assert line in text


@pytest.mark.slow
@pytest.mark.skipif(len(INSTALLED) < 3, reason="what is expected is of all three backends")
@pytest.mark.parametrize("expected", ANSWERS, ids=lambda each: each.build)
def test_a_model_as_people_write_it_gets_the_right_answer(workers: Workers, expected: Answer) -> None:
    file = Path(__file__).with_name("field_models.py")
    data = f"{file}:{expected.data}" if expected.data else None
    report = run_parity(ParityOptions(f"{file}:{expected.build}", INSTALLED, data), workers=workers)
    text = " ".join(report_text(report, width=1000).split())
    assert (report["verdict"], exit_code(report)) == (expected.verdict, expected.code), text
    for words in expected.says:
        assert words in text
    if expected.place is not None:
        first = report["first_divergence"]
        assert first is not None
        assert (first["stage"], first["layer"], name_of(first)) == expected.place
