"""The drawing of a model, and the plot of a training run."""

from __future__ import annotations

import math
import re
import time
from itertools import combinations, pairwise
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree as ET

import keras
import pytest
from keras import layers

from dlf.utils.errors import InvalidArgumentError, OutputError
from dlf.visualization.graph_layout import lay_out
from dlf.visualization.plots import ModelDrawing, plot_history, visualize_model

SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def mlp() -> keras.Model:
    stack = [keras.Input((784,), name="image"), layers.Dense(128, "relu", name="hidden"), layers.Dropout(0.5)]
    return keras.Sequential([*stack, layers.Dense(10, name="scores")], name="mlp")


def residual() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    for filters in (4, 8, 8):
        skip = layers.Conv2D(filters, 1)(x)
        for _ in range(2):
            x = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(x))
        x = layers.Add()([x, skip])
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)), name="residual")


def two_in_two_out() -> keras.Model:
    left, right = keras.Input((6, 4), name="left"), keras.Input((6, 4), name="right")
    sequence, state, cell = layers.LSTM(4, return_sequences=True, return_state=True, name="memory")(left)
    shared = layers.Dense(5, name="shared")
    joined = layers.Concatenate(name="joined")([shared(sequence), shared(right)])
    tail = keras.ops.mean(joined, axis=1) * 2.0
    outputs = {"a": layers.Dense(1, name="a")(tail), "b": layers.Add(name="b")([state, cell])}
    return keras.Model({"left": left, "right": right}, outputs, name="two")


def dense_skips() -> keras.Model:
    x = keras.Input((3,))
    tensors = [x]
    for _ in range(8):
        tensors.append(layers.Dense(3)(layers.Add()(tensors[-4:]) if len(tensors) > 1 else x))
    return keras.Model(x, layers.Concatenate()(tensors))


def two_components() -> keras.Model:
    a, b, unused = (keras.Input((2,), name=name) for name in ("a", "b", "unused"))
    return keras.Model([a, b, unused], [layers.Dense(1)(a), layers.Dense(1)(layers.Dense(2)(b))])


def one_layer() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.Dense(1)])


MODELS = [mlp, residual, two_in_two_out, dense_skips, two_components, one_layer]


def tree(drawing: ModelDrawing) -> ET.Element:
    return ET.fromstring(drawing.svg)  # noqa: S314  It was drawn one call ago.


def cards(root: ET.Element) -> dict[str, ET.Element]:
    return {card.attrib["data-node"]: card for card in root.iter(f"{SVG}g") if "data-node" in card.attrib}


def words(card: ET.Element) -> str:
    return " ".join("".join(text.itertext()) for text in card.iter(f"{SVG}text"))


def box(card: ET.Element) -> Box:
    rectangle = next(shape for shape in card.iter(f"{SVG}rect") if shape.get("class") == "card")
    x, y, width, height = (float(rectangle.attrib[name]) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def points(path: str) -> list[tuple[float, float]]:
    """Returns points that lie closely along a path of M, L and C commands."""
    found: list[tuple[float, float]] = []
    for command, numbers in re.findall(r"([MLC])([^MLC]*)", path):
        coordinates = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        ends = list(zip(coordinates[::2], coordinates[1::2], strict=True))
        controls = [*found[-1:], *ends]
        steps = [1.0] if command == "M" else [step / 40 for step in range(1, 41)]
        for t in steps:
            reduced = ends if command == "M" else controls
            while len(reduced) > 1:
                reduced = [((1 - t) * a + t * c, (1 - t) * b + t * d) for (a, b), (c, d) in pairwise(reduced)]
            found.append(reduced[0])
    return found


@pytest.mark.parametrize("build", MODELS)
def test_cards_stand_apart_and_arrows_go_round_them(build: Any) -> None:
    model = build()
    drawing = visualize_model(model)
    root = tree(drawing)
    boxes = {number: box(card) for number, card in cards(root).items()}
    assert len(boxes) == drawing.cards
    for (left, top, right, bottom), (left2, top2, right2, bottom2) in combinations(boxes.values(), 2):
        assert right < left2 or right2 < left or bottom < top2 or bottom2 < top
    arrows = [group for group in root.iter(f"{SVG}g") if "data-source" in group.attrib]
    assert len(arrows) == len({(arrow.attrib["data-source"], arrow.attrib["data-target"]) for arrow in arrows})
    for arrow in arrows:
        source, target = arrow.attrib["data-source"], arrow.attrib["data-target"]
        way = points(arrow.findall(f"{SVG}path")[0].attrib["d"])
        assert way[0] == pytest.approx(((boxes[source][0] + boxes[source][2]) / 2, boxes[source][3]), abs=0.2)
        assert way[-1] == pytest.approx(((boxes[target][0] + boxes[target][2]) / 2, boxes[target][1]), abs=8)
        for x, y in way:
            # The numbers in the drawing have one decimal.
            assert not any(a < x < c and b + 0.1 < y < d - 0.1 for a, b, c, d in boxes.values())
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert all(
        right - left < width and bottom - top < height and bottom < height
        for left, top, right, bottom in boxes.values()
    )


def test_what_a_card_says() -> None:
    root = tree(visualize_model(mlp()))
    image, hidden, dropout, scores = map(words, cards(root).values())
    assert image.split() == ["image", "InputLayer", "out", "(None,", "784)", "float32"]
    for fact in ("hidden", "Dense", "128 units, relu", "(None, 784)", "(None, 128)", "float32", "100,480"):
        assert fact in hidden
    assert "rate 0.5" in dropout
    assert "params" not in dropout
    assert "output" in scores
    assert "output" not in hidden
    heading = " ".join("".join(text.itertext()) for text in root.findall(f"{SVG}text"))
    assert "mlp" in heading
    assert "101,770 parameters · 101,770 trainable · 0 non-trainable" in heading


def test_state_of_layers() -> None:
    x = keras.Input((4,))
    shared = layers.Dense(4, name="shared", trainable=False)
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="inner")
    model = keras.Model(x, layers.BatchNormalization(name="normal")(inner(shared(shared(x)))))
    texts = [words(card) for card in cards(tree(visualize_model(model))).values()]
    assert sum("frozen" in text for text in texts) == 2
    assert any("shared 1/2" in text for text in texts)
    assert any("shared 2/2" in text for text in texts)
    assert any("8 trainable" in text for text in texts)
    assert any("1 layer" in text and "inner" in text for text in texts)


def test_two_tensors_between_two_calls_are_one_arrow() -> None:
    drawing = visualize_model(two_in_two_out())
    titles = [title.text for title in tree(drawing).iter(f"{SVG}title")]
    assert "memory → b: (None, 4), (None, 4)" in titles


@pytest.mark.parametrize("name", ['<script>alert("&")', "a" * 300, "层" * 60, "bell\x07 nul\x00", "\uffff", "]]>"])
def test_hostile_names(name: str) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, name=name)], name=name)
    drawing = visualize_model(model)
    assert "<script" not in drawing.svg
    root = tree(drawing)
    clean = re.sub("[\x00-\x1f\uffff]", "\ufffd", name)
    assert (root.findtext(f"{SVG}title") or "").startswith(clean)
    card = cards(root)["1"]
    assert (card.findtext(f"{SVG}title") or "").startswith(clean)
    assert len(words(card)) < 100


def test_the_same_model_gives_the_same_picture() -> None:
    model = dense_skips()
    assert len({visualize_model(model).svg for _ in range(5)}) == 1


def test_no_lane_touches_a_card_in_any_graph() -> None:
    """The graphs are random, since the library that places the cards sometimes puts two of them too close together."""
    random = Random(1)  # noqa: S311  Nothing is secret here.
    for _ in range(100):
        count = random.randint(2, 25)
        edges = sorted({(random.randint(max(0, j - 8), j - 1), j) for j in range(1, count) for _ in range(3)})
        layout = lay_out([random.choice([60, 96, 114]) for _ in range(count)], edges)
        for row in range(len(layout.rows)):
            spans = [
                (x - 150, x + 150) for (x, _), at in zip(layout.top_centre, layout.row_of, strict=True) if at == row
            ]
            spans += [(x - 9, x + 9) for lanes in layout.lanes.values() for at, x in lanes if at == row]
            assert all(right + 21.9 < left for (_, right), (left, _) in pairwise(sorted(spans)))


def test_three_hundred_layers_take_seconds() -> None:
    model = keras.Sequential([keras.Input((2,)), *(layers.Activation("relu") for _ in range(300))])
    start = time.perf_counter()
    assert visualize_model(model).cards == 301
    assert time.perf_counter() - start < 10


def test_drawing_is_saved_and_shown(tmp_path: Path) -> None:
    target = tmp_path / "model.svg"
    drawing = visualize_model(mlp(), target)
    assert target.read_text(encoding="utf-8") == drawing.svg == drawing._repr_svg_()
    assert [path.name for path in tmp_path.iterdir()] == ["model.svg"]
    assert re.fullmatch(r"ModelDrawing\(name='mlp', cards=4, width=\d+, height=\d+\)", repr(drawing))


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"path: expected a file name that ends in \.svg, .*Try model\.svg"):
        visualize_model(mlp(), tmp_path / "model.png")
    with pytest.raises(OutputError, match=r"model\.svg: cannot be written .* folder that exists"):
        visualize_model(mlp(), tmp_path / "absent" / "model.svg")
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        visualize_model(mlp(), tmp_path / "taken.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.svg"]


def run(length: int) -> dict[str, list[float]]:
    loss = [1 / epoch for epoch in range(1, length + 1)]
    validation = [abs(epoch - 3) + 0.5 for epoch in range(1, length + 1)]
    return {"accuracy": loss, "loss": loss, "val_accuracy": loss, "val_loss": validation}


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def epochs(line: Any) -> list[float]:
    return list(line.get_xdata())


def values(line: Any) -> list[float]:
    return list(line.get_ydata())


def test_a_panel_for_each_metric() -> None:
    figure = plot_history({**run(5), "learning_rate": [1e-3, 1e-3, 1e-4, 1e-4, 1e-5]}, title="Five")
    assert [panel.get_title() for panel in figure.axes] == ["loss", "accuracy", "learning_rate"]
    assert [panel.get_yscale() for panel in figure.axes] == ["linear", "linear", "log"]
    assert legend(figure) == ["training", "validation", "lowest validation loss: epoch 3"]
    assert figure.get_suptitle() == "Five"
    training, validation, best, ring = figure.axes[0].lines
    assert epochs(training) == epochs(validation) == [1, 2, 3, 4, 5]
    assert training.get_marker() == "o"
    assert set(epochs(best)) == set(epochs(ring)) == {3}
    assert values(ring) == [0.5]
    figure.canvas.draw()
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


def test_what_fit_returns() -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    data = keras.ops.ones((8, 2)), keras.ops.ones((8, 1))
    history = model.fit(*data, validation_data=data, initial_epoch=1, epochs=4, validation_freq=3, verbose=0)
    training, validation = plot_history(history).axes[0].lines[:2]
    assert epochs(training) == [2, 3, 4]
    assert len(epochs(validation)) == 1


def test_validation_after_every_other_epoch() -> None:
    figure = plot_history({"loss": [5, 4, 3, 2, 1], "val_loss": [2, 3]})
    assert epochs(figure.axes[0].lines[1]) == [2, 4]
    assert legend(figure)[-1] == "lowest validation loss: epoch 2"


def test_many_epochs_have_no_markers() -> None:
    assert plot_history(run(60)).axes[0].lines[0].get_marker() == "None"


def test_one_epoch_is_written_out() -> None:
    panel = plot_history({"loss": [0.25], "val_loss": [0.5]}).axes[0]
    assert {text.get_text() for text in panel.texts} == {"0.25", "0.5"}
    assert panel.get_xlim() == (0.5, 1.5)


def test_values_that_are_not_finite() -> None:
    figure = plot_history({"loss": [1, math.nan, math.inf], "val_loss": [math.nan] * 3, "lr": [0.1, 0.0, math.nan]})
    figure.canvas.draw()
    assert legend(figure) == ["training", "validation"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["5 values not finite"]


def test_a_metric_with_a_value_for_each_class() -> None:
    panel = plot_history({"f1_score": [[0.0, 0.5], [0.5, 1.0]]}).axes[0]
    assert values(panel.lines[0]) == [0.25, 0.75]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({}, "history: expected at least one epoch"),
        ({"loss": []}, "history: expected at least one epoch"),
        ([1, 2], r"history: expected what fit\(\) returned"),
        ({"loss": ["low"]}, r"history\['loss'\]: expected a number for each epoch"),
    ],
)
def test_histories_that_are_none(history: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        plot_history(history)


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89P")]
)
def test_plot_is_saved(tmp_path: Path, suffix: str, start: bytes) -> None:
    plot_history(run(3), tmp_path / f"run.{suffix}")
    assert (tmp_path / f"run.{suffix}").read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 1


def test_plot_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"ends in \.png or \.svg or \.pdf, .*Try run\.png"):
        plot_history(run(3), "run.jpg")
    with pytest.raises(OutputError, match="cannot be written"):
        plot_history(run(3), tmp_path / "absent" / "run.png")


def test_pyplot_stays_out_of_it() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    plot_history(run(3))
    assert pyplot.get_fignums() == before


def test_a_notebook_shows_a_plot_once_in_a_cell(tmp_path: Path) -> None:
    """The plot is the last expression, in the middle of a cell, in a later cell, and twice in one cell."""
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    start += "from dlf.visualization.plots import plot_history"
    sources = [
        f"{start}\nplot_history({{'loss': [2, 1]}})",
        "figure = plot_history({'loss': [2, 1]})\nprint('after')",
        "figure",
        "figure = plot_history({'loss': [2, 1]})\nfigure",
        "for _ in range(2):\n    plot_history({'loss': [2, 1]})",
        "print('matplotlib.pyplot' in sys.modules)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    pictures = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in notebook.cells]
    assert pictures == [1, 1, 1, 1, 2, 0]
    assert notebook.cells[1].outputs[-1].text == "after\n"
    assert notebook.cells[-1].outputs[-1].text == "False\n"
