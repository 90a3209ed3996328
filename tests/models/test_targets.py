"""Targets as people have them: scripts, notebooks, models by name; and what is said where one cannot be imported."""

from __future__ import annotations

import inspect
import json
import linecache
import sys
from pathlib import Path
from typing import Any

import keras
import pytest

from dlf.models.targets import check_target, load_target, load_value, script_behind
from dlf.parity._recording.batches import batches_of_training
from dlf.parity._recording.building import builder_of
from dlf.utils.errors import InvalidArgumentError

MODEL = """
import keras
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")

def build():
    return model
"""


def notebook(file: Path, *cells: str) -> Path:
    markdown = {"cell_type": "markdown", "source": ["# A model\n"], "metadata": {}}
    code = [{"cell_type": "code", "source": each.splitlines(keepends=True), "metadata": {}} for each in cells]
    file.write_text(json.dumps({"cells": [markdown, *code], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return file


@pytest.mark.parametrize("name", ["model", "build"])
def test_a_model_or_a_function_may_be_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "by_name.py").write_text(MODEL)
    build = load_target(f"{tmp_path / 'by_name.py'}:{name}", anew=True)
    assert isinstance(build(), keras.Sequential)


def test_a_model_that_is_named_is_another_at_each_call(tmp_path: Path) -> None:
    (tmp_path / "another.py").write_text(MODEL)
    build = load_target(f"{tmp_path / 'another.py'}:model")
    first, second, third = build(), build(), build()
    assert len({id(each) for each in (first, second, third)}) == 3


def test_a_notebook_is_run_without_what_only_a_notebook_can(tmp_path: Path) -> None:
    file = notebook(
        tmp_path / "lesson.ipynb",
        "from __future__ import annotations\n!pip install keras\n%matplotlib inline",
        "%%time\n" + MODEL,
        "%%bash\nrm -rf everything",
        "@register_cell_magic\ndef backend(line, cell):\n    get_ipython().run_cell(cell)",
        "%%backend jax\nraise RuntimeError",
        "if True:\n    !ls\n    display(model)",
    )
    assert isinstance(load_target(f"{file}:build")(), keras.Sequential)
    assert isinstance(load_target(f"{file}:model")(), keras.Sequential)


def test_an_error_in_a_notebook_shows_the_line_of_its_cell(tmp_path: Path) -> None:
    file = notebook(tmp_path / "broken.ipynb", "import keras", "width = 1 / 0")
    with pytest.raises(InvalidArgumentError, match=r"(?s)width = 1 / 0.*ZeroDivisionError"):
        load_target(f"{file}:build")


def test_the_code_of_a_notebook_is_read_where_tensorflow_reads_it(tmp_path: Path) -> None:
    """It takes what a file of a module's name holds for the code: of a notebook that is JSON."""
    file = notebook(tmp_path / "read.ipynb", "import keras", "def build():\n    return 'a model'")
    build = load_target(f"{file}:build")
    while (inner := getattr(build, "func", None)) is not None:
        build = inner
    linecache.checkcache()
    assert "return 'a model'" in inspect.getsource(build)
    assert inspect.getsourcefile(build) != sys.modules["read"].__file__


def test_the_failure_that_a_name_lacks_for_is_named(tmp_path: Path) -> None:
    """Others may have failed before it, and it may lack for another name."""
    lines = ["import keras", "keras.nothing", "width = 1 / 0", "hidden = keras.Input((width,))"]
    (tmp_path / "behind.py").write_text("\n".join([*lines, "model = keras.Model(hidden, hidden)"]))
    with pytest.raises(InvalidArgumentError, match=r"(?s)width = 1 / 0.*ZeroDivisionError"):
        load_target(f"{tmp_path / 'behind.py'}:model")


def test_a_script_sees_no_arguments_but_its_name(tmp_path: Path) -> None:
    before = list(sys.argv)
    (tmp_path / "seeing.py").write_text("import sys\nseen = list(sys.argv)\ndef build():\n    return seen")
    assert load_target(f"{tmp_path / 'seeing.py'}:build")() == [str(tmp_path / "seeing.py")]
    assert sys.argv == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys\nsys.exit('no data set was named')", "no data set was named"),
        ("open('nowhere/train.csv')", r"No such file or directory: 'nowhere/train.csv'"),
        ("import argparse\np = argparse.ArgumentParser()\np.add_argument('data')\np.parse_args()", "SystemExit: 2"),
    ],
)
def test_what_belongs_elsewhere_is_said(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "script.py").write_text(source)
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        load_target(f"{tmp_path / 'script.py'}:build", anew=True)
    assert 'belongs under `if __name__ == "__main__":`' in str(caught.value)
    assert "targets.py" not in str(caught.value)


def test_a_file_is_run_once_for_a_model_and_its_data(tmp_path: Path) -> None:
    file = tmp_path / "counted.py"
    file.write_text("with open(__file__ + '.log', 'a') as log:\n    log.write('x')\nbuild = data = print")
    load_target(f"{file}:build", anew=True)
    load_target(f"{file}:data")
    assert Path(f"{file}.log").read_text() == "x"
    load_target(f"{file}:build", anew=True)
    assert Path(f"{file}.log").read_text() == "xx"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("gone.ipynb:build", "There is no file gone.ipynb"),
        ("model.py", "expected file.py:name, notebook.ipynb:name or package.module:name"),
        ("model.py:not a name", "expected file.py:name"),
    ],
)
def test_what_is_no_target_is_refused(target: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_target(target)


def test_what_is_neither_is_answered_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "others.py").write_text("def built() -> None: ...\nbuild = 3")
    with pytest.raises(InvalidArgumentError, match=r"expected a function or a model of .* Did you mean 'built'\?"):
        load_target(f"{tmp_path / 'others.py'}:build")
    found: Any = load_target(f"{tmp_path / 'others.py'}:built")
    assert found.__name__ == "built"


TRAINS = """
import dlf, numpy as np
x, y = np.ones((4, 3)), np.ones((4, 2))
history = {call}, epochs=10_000, verbose=0)
best = 1 + int(np.argmin(history.history["val_loss"]))
assert "loss" in history.history
"""


@pytest.mark.parametrize("call", ["model.fit(x, y", "dlf.fit(model, x, y", "dlf.compile_and_fit(model, (x, y)"])
@pytest.mark.parametrize("name", ["model", "build"])
def test_a_script_that_trains_when_it_is_imported_does_not(tmp_path: Path, call: str, name: str) -> None:
    target = f"{tmp_path / 'trains.py'}:{name}"
    (tmp_path / "trains.py").write_text(MODEL + TRAINS.replace("{call}", call))
    model = load_target(target, anew=True)()
    assert not model.optimizer.built
    left_out, *after = script_behind(target).remarks
    assert "the training is left out" in left_out
    if name == "model":
        assert left_out.endswith("and what follows")
    else:
        assert after[0].startswith("line 13 did not run (AssertionError")
    assert [each.model for each in script_behind(target).fits] == [model]
    # Nothing is left of that: training goes on as ever.
    assert "loss" in model.fit(keras.ops.ones((4, 3)), keras.ops.ones((4, 2)), verbose=0).history


def test_a_script_is_run_up_to_the_training_of_the_model_that_is_asked_for(tmp_path: Path) -> None:
    lines = ["first = model", "model.fit(1)", "model.trainable = False", "model = build()", "model.fit(2)", "last = 3"]
    target = f"{tmp_path / 'goes_on.py'}:first"
    (tmp_path / "goes_on.py").write_text(MODEL + "\n".join(lines))
    assert load_target(target)().trainable  # What follows its training is not its state in training.
    assert len(script_behind(target).fits) == 1
    # Another name is bound again: the last model counts. And what comes later is there when it is asked for.
    load_target(target.replace("first", "model"))
    assert [each.arguments["x"] for each in script_behind(target).fits] == [1, 2]
    assert "last" not in vars(script_behind(target).module)
    assert load_value(target.replace("first", "last"), "--data") == 3


def test_what_comes_after_the_model_need_not_come_through(tmp_path: Path) -> None:
    target = f"{tmp_path / 'without_data.py'}:build"
    (tmp_path / "without_data.py").write_text(
        MODEL + "\nfile = open('nowhere/train.csv')\ndata = file.read()\nlast = build()\nmodel.name = last.name + gone"
    )
    assert isinstance(load_target(target)(), keras.Sequential)
    (said,) = script_behind(target).remarks
    assert said.startswith("line 9 did not run (FileNotFoundError")
    assert said.endswith(", nor did lines 10 and 12")
    # What does not need these lines is there; what does is not, and the first error is why.
    assert isinstance(load_target(target.replace("build", "last"))(), keras.Sequential)
    with pytest.raises(InvalidArgumentError, match=r"(?s)line 9.*nowhere/train.csv.*__main__"):
        load_target(target.replace("build", "data"))


def test_a_script_that_ends_itself_ends(tmp_path: Path) -> None:
    target = f"{tmp_path / 'ends.py'}:build"
    (tmp_path / "ends.py").write_text(f"{MODEL}\nimport sys\nsys.exit('no data')\nopen(__file__ + '.log', 'w')")
    load_target(target)
    assert "(SystemExit: no data)" in script_behind(target).remarks[0]
    assert not Path(f"{tmp_path / 'ends.py'}.log").exists()


def test_a_statement_is_run_as_in_the_whole_file(tmp_path: Path) -> None:
    lines = ["'What it says.'", "from __future__ import annotations", "def build(x: Gone): ...", "1 / 0"]
    (tmp_path / "lines.py").write_text("\n".join(lines))
    found: Any = load_target(f"{tmp_path / 'lines.py'}:build")
    assert found.__annotations__ == {"x": "Gone"}
    assert found.__code__.co_firstlineno == 3
    assert sys.modules["lines"].__doc__ == "What it says."


def test_a_file_may_be_named_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.py").write_text(MODEL + "\nopen('nowhere/train.csv')")
    assert isinstance(load_target("./here.py:build")(), keras.Sequential)
    assert script_behind("./here.py:build").remarks == script_behind("here.py:model").remarks != []


@pytest.mark.parametrize(
    "lines",
    ["model = model + gone", "model.add(gone)", "with open(gone):\n    model = None", "for model in gone: ..."],
)
def test_what_a_failing_statement_would_have_changed_is_not_there(tmp_path: Path, lines: str) -> None:
    (tmp_path / "changing.py").write_text(f"{MODEL}\n{lines}\nother = keras.Model(model.inputs, model.outputs)")
    for name in ("model", "other"):
        with pytest.raises(InvalidArgumentError, match="name 'gone' is not defined"):
            load_target(f"{tmp_path / 'changing.py'}:{name}", anew=True)


def test_names_count_from_the_beginning_in_each_run(tmp_path: Path) -> None:
    layers = "keras.Input((3,)), keras.layers.Dense(2, name='dense_1'), keras.layers.Dense(2)"
    (tmp_path / "naming.py").write_text(f"import keras\nmodel = keras.Sequential([{layers}])")
    build = load_target(f"{tmp_path / 'naming.py'}:model", anew=True)
    assert [[each.name for each in build().layers] for _ in range(3)] == [["dense_1", "dense"]] * 3


MODELS = """
import keras
def make(width, depth=1):
    layers = [keras.layers.Dense(width) for _ in range(depth)]
    return keras.Sequential([keras.Input((3,)), *layers])
class Trainer: ...
models, nets, trainer, size = [make(2), make(3)], {"a": make(4)}, Trainer(), 6
trainer.model = make(5)
for each in models:
    each.compile("sgd", "mse")
    each.fit([[1.0, 2.0, 3.0]], [[1.0]])
"""


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("models[1]", 3),
        ("nets['a']", 4),
        ("trainer.model", 5),
        ("make(size, depth=2)", 6),
        ("make(-size + 7)", None),
        ("make(depth=1, width=[7, 8][1])", 8),
    ],
)
def test_a_call_an_element_or_an_attribute_may_be_written_out(tmp_path: Path, name: str, width: int | None) -> None:
    file = tmp_path / "expressions.py"
    file.write_text(MODELS)
    if width is None:
        with pytest.raises(InvalidArgumentError, match=r"expected file\.py:name"):
            check_target(f"{file}:{name}")
        return
    build = load_target(f"{file}:{name}", anew=True)
    models = [build(), build()]
    assert [each.output_shape[-1] for each in models] == [width, width]
    assert models[0] is not models[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models", r"It holds models: name models\[0\] or models\[1\]\."),
        ("nets", r"It holds a model: name nets\['a'\]\."),
        ("trainer", r"It holds a model: name trainer\.model\."),
        ("nets['b']", "expected what can be evaluated in .*(?s:.*)KeyError: 'b'"),
    ],
)
def test_what_holds_models_is_answered_with_their_names(tmp_path: Path, name: str, message: str) -> None:
    file = tmp_path / "holders.py"
    file.write_text(MODELS)
    with pytest.raises(InvalidArgumentError, match=message):
        load_target(f"{file}:{name}", anew=True)


LOOP = """
import keras
from keras import ops
def make():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
model, other, optimizer, steps = make(), make(), keras.optimizers.SGD(1.0), 0
def step(trained):
    {apply}
{lines}
"""
APPLY = {
    "apply": "optimizer.apply([ops.ones(each.shape) for each in trained.trainable_variables], {of})",
    "older": "optimizer.apply_gradients([(ops.ones(each.shape), each) for each in trained.trainable_variables])",
    "stateless": (
        "optimizer = keras.optimizers.SGD(1.0); variables = trained.trainable_variables; optimizer.build(variables); "
        "optimizer.stateless_apply(optimizer.variables, [ops.ones(each.shape) for each in variables], variables)"
    ),
}


@pytest.mark.parametrize(
    "way", [each for each in APPLY if each != "stateless" or keras.config.backend() != "tensorflow"]
)
def test_a_loop_of_the_files_own_is_left_out_too(tmp_path: Path, way: str) -> None:
    lines = (
        "while True:\n    step(other)\n    steps += 1\nfor _ in range(3):\n    step(model)\n    steps += 1\nsteps = 10"
    )
    file = tmp_path / f"loop_{way}.py"
    file.write_text(LOOP.format(apply=APPLY[way].format(of="trained.trainable_variables"), lines=lines))
    model = load_target(f"{file}:model", anew=True)()
    assert keras.ops.convert_to_numpy(model.layers[0].kernel).tolist() == [[1.0], [1.0], [1.0]]
    script = script_behind(f"{file}:model")
    assert script.module.steps == 0
    assert [each.model.name for each in script.fits] == [script.module.other.name, model.name]
    assert not script.failed
    assert script.remarks == ["the training is left out, and what follows"]


def test_a_function_that_trains_by_a_loop_names_its_model(tmp_path: Path) -> None:
    lines = "def main():\n    mine = make()\n    while True:\n        step(mine)\n"
    file = tmp_path / "loop_in_main.py"
    file.write_text(LOOP.format(apply=APPLY["older"], lines=lines))
    assert builder_of(f"{file}:main", "float32")().name == script_behind(f"{file}:main").fits[-1].model.name


GUARDED = """
import keras
class Holder:
    def __init__(self, width):
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(width)])
def make():
    holder = Holder(5)
    return holder
plain = Holder(1)
ran = []
if __name__ == "__main__":
    ran.append("guard")
    holder = Holder(2)
    plain = Holder(3)
    holder.model.compile("sgd", "mse")
    holder.model.fit([[1.0, 2.0, 3.0]], [[1.0]])
    ran.append("end")
"""


@pytest.mark.parametrize(("name", "width", "ran"), [("plain.model", 1, []), ("holder.model", 2, ["guard"])])
def test_what_a_script_makes_when_it_is_run_may_be_named(tmp_path: Path, name: str, width: int, ran: list[str]) -> None:
    file = tmp_path / f"guarded_{width}.py"
    file.write_text(GUARDED)
    assert load_target(f"{file}:{name}", anew=True)().output_shape[-1] == width
    assert script_behind(f"{file}:{name}").module.ran == ran


GAN = """
import keras, numpy as np
def made(metrics=None):
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=metrics)
    return model
class Gan:
    def __init__(self):
        self.judge, self.whole = made(["mae", "mse"]), made()
    def train(self):
        while True:
            real, fake = (self.judge.train_on_batch(np.ones((4, 3)) * n, np.ones(4)) for n in (2.0, 3.0))
            loss = 0.5 * np.add(real, fake)
            print(loss[0], loss[2], self.whole.train_on_batch(x=np.ones((5, 3)), y=np.ones(5)) + 1.0)
gan = Gan()
gan.train()
"""


@pytest.mark.parametrize(("name", "rows"), [("gan.judge", 4), ("gan.whole", 5)])
def test_a_loop_over_batches_ends_when_its_model_is_trained(tmp_path: Path, name: str, rows: int) -> None:
    file = tmp_path / f"gan_{rows}.py"
    file.write_text(GAN)
    model = load_target(f"{file}:{name}", anew=True)()
    script = script_behind(f"{file}:{name}")
    assert not script.failed
    assert keras.ops.convert_to_numpy(model.layers[0].moving_mean).tolist() == [0.0] * 3
    assert [each[0].shape for each in batches_of_training(f"{file}:{name}", model, 1)] == [(rows, 3)]


def test_a_global_that_a_function_makes_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "global_model.py"
    lines = "model = None\ndef make():\n    global model\n    model = keras.Sequential([keras.Input((3,))])\nmake()\n"
    file.write_text(f"import keras\n{lines}")
    assert isinstance(load_target(f"{file}:model", anew=True)(), keras.Sequential)


def test_a_file_alone_is_answered_with_what_may_be_meant_in_it(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(
        "import keras\nclass Net(keras.Model): pass\ndef build(units=3): return keras.Sequential([])\n"
        "def block(x): return keras.Model(x, x)\ndef mean(): return 3\nnet = Net()\nsize = len('a')\n"
    )
    with pytest.raises(InvalidArgumentError, match=rf"In it there may be: {file}:build, {file}:net\.$"):
        check_target(str(file))
    with pytest.raises(InvalidArgumentError, match=r"There is no file nowhere\.py"):
        check_target("nowhere.py")
