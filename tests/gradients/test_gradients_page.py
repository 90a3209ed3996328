"""The page of `dlf gradients --html`: what it says, that it is inert and whole, and how a browser shows it."""

from __future__ import annotations

import copy
import html
import json
import math
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from matplotlib.image import imread

from dlf.gradients.options import GradientsOptions
from dlf.gradients.page._source import align, source_rows
from dlf.gradients.page.page import write_page
from dlf.gradients.report import answer_of
from dlf.gradients.runner import run_gradients
from dlf.utils.errors import OutputError
from dlf.visualization.html.curves import MARKS, differences
from dlf.visualization.html.style import COLOURS

pytestmark = pytest.mark.once

HOSTILE = "</td></style></script><script>window.pwned = 1</script><img src=x onerror='window.pwned=1'>\"'&$\\frac"
PATHS = (("grad", "jax", "jnp"), ("tape", "tensorflow", "tf"), ("autograd", "torch", "torch"))


class Page(pages.Page):
    """A parsed page of `dlf gradients`, with its table rows."""

    def rows(self) -> list[str]:
        return self.all("tr")


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    return run_gradients(GradientsOptions("line", paths=("closed-form", "finite-difference", "numpy"), steps=30))


@pytest.fixture
def report(references: dict[str, Any]) -> dict[str, Any]:
    """A report with the references, and with answers that three frameworks might give, installed or not."""
    made = copy.deepcopy(references)
    by_hand = made["paths"][-1]
    for place, (path, backend, module) in enumerate(PATHS):
        losses: Any = np.asarray(by_hand["losses"], np.float32)
        for _ in range(place):
            losses = np.nextafter(losses, np.float32(np.inf))
        code = f"def line_loss(parameters, batch):\n    x, y = batch\n    return {module}.mean((x * parameters) ** 2)"
        found = {
            "path": path,
            "backend": backend,
            "title": f"The path `{path}`: `{module}.value_and_grad` of a function.",
            "versions": {"keras": "3.15.1", backend: "1.2.3"},
            "devices": ["cpu:0"],
            "numeric_settings": {"x64": "False"},
            "losses": [float(value) for value in losses],
            "seconds": {"eager": 1.69e-3, "compile": 3.28, "compile_error": None, "compiled": 26e-6},
            "source": [{"name": "line_loss", "code": code}],
        }
        made["paths"].append({**copy.deepcopy(by_hand), **found})
    return made


@pytest.fixture
def failed(report: dict[str, Any]) -> dict[str, Any]:
    words = "the worker of tape ended with code 1, and said at last:\n  \x1b[1mNo module named 'tensorflow'\x1b[0m"
    report["paths"][4] = {"path": "tape", "backend": "tensorflow", "status": "failed", "reason": words, "found": {}}
    return report | {"verdict": "incomplete"}


@pytest.fixture
def model(report: dict[str, Any]) -> dict[str, Any]:
    """A report on a user's model: without references, with arrays instead of numbers, and with one time per step."""
    made = copy.deepcopy(report) | {"problem": "model.py:build", "learning_rate": None}
    made["paths"] = made["paths"][3:]
    for each in made["paths"]:
        each["seconds"] = {"loop": 0.0125, "compile": 0.5, "compile_error": None}
        each["found"] = {"a": {"shape": [2], "norm": 3.0}, "b": {"shape": [3], "norm": 4.0}}
        each["source"] = [{"name": name, "code": f"def {name}():\n    pass"} for name in ("start", "finish")]
    return made


@pytest.fixture
def hostile(report: dict[str, Any]) -> dict[str, Any]:
    """A report with hostile text added to each of its strings."""

    def spoilt(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name + HOSTILE * (key in ("found", "versions")): spoilt(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [spoilt(each, key) for each in value]
        keep = not isinstance(value, str) or key in ("status", "backend")
        return value if keep else f"{value}{HOSTILE}"

    made = {**spoilt(report), "verdict": report["verdict"]}
    made["paths"][-1] |= {"status": "failed", "reason": HOSTILE}
    made["paths"][-2]["seconds"]["compile_error"] = HOSTILE
    found: dict[str, Any] = made
    return found


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[[dict[str, Any]], Page]:
    def write(report: dict[str, Any]) -> Page:
        write_page(report, tmp_path / "page.html")
        return Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    return write


Write = Callable[[dict[str, Any]], Page]
KINDS = pytest.mark.parametrize("kind", ["references", "report", "failed", "model", "hostile"])


@KINDS
def test_structure(kind: str, page_of: Write, request: pytest.FixtureRequest) -> None:
    page = page_of(request.getfixturevalue(kind))
    assert page.text.startswith("<!doctype html>\n<html lang=")
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all("scope" in has for tag, has in page.elements if tag == "th")
    # What scrolls can be reached and is named, so that a keyboard can scroll it.
    scrolls = [has for tag, has in page.elements if "scroll" in has.get("class", "").split() or tag == "pre"]
    assert scrolls
    assert all(has["tabindex"] == "0" and {"aria-label", "aria-labelledby"} & has.keys() for has in scrolls)

    ids = Counter(has["id"] for _, has in page.elements if "id" in has)
    assert set(ids.values()) == {1}
    named = [has["aria-labelledby"] for _, has in page.elements if "aria-labelledby" in has]
    linked = [has[name][1:] for _, has in page.elements for name in ("href", "xlink:href") if name in has]
    drawn = re.findall(r"url\(#([^)]*)\)", page.text)
    assert {*named, *linked, *drawn} <= ids.keys()
    for mine, theirs in re.findall(r"#(show-\d+).*?\.(column-\d+)", page.text):
        assert mine in ids
        assert any(theirs in has.get("class", "").split() for _, has in page.elements)


@KINDS
def test_it_needs_nothing_else(kind: str, page_of: Write, request: pytest.FixtureRequest) -> None:
    page = page_of(request.getfixturevalue(kind))
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "base", "form"}
    for _, has in page.elements:
        assert not [name for name in has if name.startswith("on") or name in ("src", "srcset", "data", "action")]
        assert all(has[name].startswith("#") for name in ("href", "xlink:href") if name in has)
    styles = " ".join([*page.all("style"), *(has.get("style", "") for _, has in page.elements)])
    assert "@import" not in styles
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", styles))
    assert "default-src 'none'" in page.text
    # No placeholder colour is left: each must have been replaced by a colour of the page.
    assert not re.search("#f[de]00", page.text)
    assert len(page.text.encode()) < 300_000


def test_hostile_words_are_words(hostile: dict[str, Any], page_of: Write) -> None:
    page = page_of(hostile)
    shown = " ".join(page.words[0].split())
    # It is in the tables of paths, gradients and versions, in the source, and in the reasons why a path did not run.
    assert shown.count("<script>window.pwned = 1</script>") > 20
    assert "<script" not in page.text
    assert "<img" not in page.text


def test_the_answer_comes_first(report: dict[str, Any], page_of: Write) -> None:
    page = page_of(report)
    assert page.all("h1") == [answer_of(report)]
    assert page.all("p", **{"class": "badge good"}) == ["✓ Agree"]
    problem = page.all("p", **{"class": "problem"})
    assert problem == ["line · 30 steps · gradient descent, learning rate 0.25 · seed 2025"]
    assert "Did not run" not in page.words[0]


def test_the_table_of_paths(report: dict[str, Any], page_of: Write) -> None:
    # The table of the paths is the first.
    rows = {row.split()[0]: row for row in reversed(page_of(report).rows()) if row}
    w = report["paths"][2]["found"]["w"]
    assert f"w {w['value']:.9g} {w['last_places']:.2g} off" in rows["numpy"]
    assert re.search(r"w \S+ exact ?b \S+ exact", rows["closed-form"])
    assert f"{report['paths'][2]['losses'][-1]:.9g} ✓" in rows["numpy"]
    assert rows["grad"].startswith("grad jax 1.2.3 jnp.value_and_grad of a function.")
    assert rows["grad"].endswith("1.69 ms 0.026 ms 3,280 ms")
    worst = max(one["noise_floors"] for one in report["paths"][2]["gradients"])
    assert f"✓ {worst:.2f}" in rows["grad"]
    assert re.search(r"✓ \de-\d\d relative", rows["finite-difference"])


def test_digits_that_differ_are_marked(report: dict[str, Any], page_of: Write) -> None:
    for each, loss in zip(report["paths"][2:5], (0.25, 0.25, 0.257), strict=True):
        each["losses"][-1] = loss
    assert '>0.25<b class="off">7</b></td>' in page_of(report).text


def test_a_models_times_and_norms(model: dict[str, Any], page_of: Write) -> None:
    page = page_of(model)
    row = next(row for row in page.rows() if row.startswith("grad"))
    assert "norm 5 of 2 variables" in row
    assert row.endswith("12.5 ms 500 ms")
    # The paths have the same source: there is one column, and no choice of columns.
    assert "grad jax 1.2.3" not in " ".join(page.all("th", scope="row"))[200:]
    assert page.all("th", scope="col", **{"class": "column-1"}) == ["grad and tape and autograd jax 1.2.3"]
    assert not page.all("fieldset")


def test_a_path_that_failed(failed: dict[str, Any], page_of: Write) -> None:
    page = page_of(failed)
    assert page.all("p", **{"class": "badge warn"}) == ["! Incomplete"]
    (reason,) = [words for words in page.all("pre") if "worker of tape" in words]
    assert reason.endswith("said at last: No module named 'tensorflow'")
    assert [row for row in page.rows() if row.startswith("tape")] == ["tape ✗ did not run"]


def test_no_path_ran(failed: dict[str, Any], page_of: Write) -> None:
    failed["paths"] = [failed["paths"][4]]
    page = page_of(failed)
    assert page.all("h2") == ["Did not run", "The paths"]
    assert "<svg" not in page.text


def test_gradients_that_are_wrong(report: dict[str, Any], page_of: Write) -> None:
    w, b = report["paths"][3]["gradients"]
    w |= {"verdict": "diverged", "noise_floors": 1e6, "detail": "0.5, by finite differences 1"}
    b |= {"verdict": "not finite", "noise_floors": math.nan, "relative_difference": math.nan}
    report["paths"][4]["gradients"][0] |= {"verdict": "noisy", "noise_floors": 88.4}
    page = page_of(report | {"verdict": "diverge"})
    assert page.all("p", **{"class": "badge bad"}) == ["✗ Diverge"]
    assert page.all("td", **{"class": "bad"}) == [
        "✗ 1,000,000 diverged 0.5, by finite differences 1",
        "✗ nan relative not finite",
    ]
    assert page.all("td", **{"class": "warn"}) == ["! 88 noisy"]
    row = next(row for row in page.rows() if row.startswith("grad"))
    assert "not finite" in row


def test_losses_that_are_not_finite(report: dict[str, Any], page_of: Write) -> None:
    report["paths"][3]["losses"][5:] = [math.nan] * 25
    report["paths"][4]["losses"] = [math.inf] * 30
    page = page_of(report)
    assert any("grad has 25 losses that are not finite" in words for words in page.all("p"))
    # A line drawn to such a loss would have the coordinate "nan".
    assert "nan" not in "".join(re.findall(r' d="[^"]*"', page.text)).lower()


def test_differences_in_last_places() -> None:
    one = np.float32(1)
    above, below = np.nextafter(one, np.float32(2)), np.nextafter(one, np.float32(0))
    assert differences([1.0, float(above), float(below), 8.0], [1.0, 1.0, 1.0]) == [0.0, 1.0, 0.5]
    assert math.isnan(differences([math.nan], [1.0])[0])
    assert differences([], [1.0]) == []


def test_plots(report: dict[str, Any], page_of: Write) -> None:
    page = page_of(report)
    labels = [has.get("aria-label") for tag, has in page.elements if tag == "svg" and has.get("role") == "img"]
    assert labels == [
        "The loss at each step, a curve for each path",
        "How far each loss is from the reference's, at each step",
    ]
    words = page.all("text")
    assert {"step", "loss", "float32 last places", "0", "1", "2"} <= set(words)
    assert any("The largest is 2." in caption for caption in page.all("figcaption"))
    assert [item.strip() for item in page.all("li")] == ["numpy", "grad", "tape", "autograd"]
    for number in range(4):
        # In the legend, in the plot of losses and, except for the reference, in the plot of differences.
        assert page.text.count(f"stroke: var(--curve-{number})") >= 3 - (number == 0)
    assert all(f"--curve-{number}: #" in page.text for number in range(COLOURS))


def test_a_single_path_differs_from_nothing(references: dict[str, Any], page_of: Write) -> None:
    page = page_of(references)
    assert len(page.all("figure")) == 1
    assert "Difference from" not in page.words[0]


def test_many_paths_and_steps(report: dict[str, Any], page_of: Write) -> None:
    draw = np.random.default_rng(0)
    for number in range(len(MARKS) + 2):
        more = copy.deepcopy(report["paths"][3]) | {"path": f"path{number}"}
        more["losses"] = draw.uniform(1, 2, 20_000).tolist()
        report["paths"].append(more)
    report["paths"][2]["losses"] *= 1000
    page = page_of(report)
    assert len(page.text) < 1_500_000
    assert any("largest of 500 steps" in caption for caption in page.all("figcaption"))


def test_twin_lines_share_a_row(report: dict[str, Any], page_of: Write) -> None:
    page = page_of(report)
    assert page.all("th", scope="col", **{"class": "column-4"}) == ["numpy"]
    row = next(row for row in page.rows() if row.startswith("return jnp"))
    assert "return tf.mean(" in row
    assert "return torch.mean(" in row
    # Only the module's name is marked, not what both lines have in common.
    assert re.search(r'<span class="n n-Changed">tf</span>(<wbr>)?<span class="o">', page.text)
    assert [row for row in page.rows() if row == "x, y = batch x, y = batch x, y = batch x, y = batch"]


def test_alignment() -> None:
    def like(a: str, b: str) -> float:
        return float(a == b) or 0.1 * (a.lower() == b.lower())

    assert align(["ab", "xab", "b"], alike=like) == [[None, "x", None], ["a", "a", None], ["b", "b", "b"]]
    # An equal item wins over a similar one that comes earlier.
    assert align(["a", "Aa"], alike=like) == [[None, "A"], ["a", "a"]]
    assert align([], alike=like) == align([""], alike=like) == []


def test_functions_stand_in_every_columns_order() -> None:
    def column(*names: str) -> list[dict[str, str]]:
        return [{"name": name, "code": f"def {name}(): pass  # noqa: E704"} for name in names]

    found = source_rows([column("loss", "step"), column("model", "loss", "apply", "step")])
    assert [name for name, _ in found] == ["model", "loss", "apply", "step"]
    kinds = [[cell.kind for row in rows for cell in row] for _, rows in found]
    assert kinds == [["absent", "differs"], ["first", "same"], ["absent", "differs"], ["first", "same"]]
    assert "noqa" not in found[1][1][0][0].html


@pytest.mark.parametrize("code", ["def f(:\n  '''", "", "\t\x00", "é = '''\n\n'''"])
def test_source_that_is_no_python(code: str) -> None:
    [(_, rows)] = source_rows([[{"name": "f", "code": code}], []])
    shown = [html.unescape(re.sub("<[^>]*>", "", row[0].html)) for row in rows]
    assert len(shown) == len(code.strip("\n").split("\n")) * bool(code)
    assert [line.strip() for line in shown] == [line.strip() for line in code.split("\n")][: len(shown)]


def test_it_cannot_be_written(report: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"page\.html: cannot be written .* folder that exists"):
        write_page(report, tmp_path / "absent" / "page.html")
    report["problem"] = "caf\udce9.py:build"  # As a file name that is no UTF-8 comes out of sys.argv.
    write_page(report, tmp_path / "page.html")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_json_gives_the_same_page(report: dict[str, Any], tmp_path: Path) -> None:
    write_page(report, tmp_path / "one.html")
    write_page(json.loads(json.dumps(report)), tmp_path / "other.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "other.html").read_bytes()


def test_libraries_come_with_the_first_page(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = (
        "import dlf.gradients.page.page, sys; print({'jinja2', 'pygments', 'matplotlib', 'keras'} & set(sys.modules))"
    )
    ran = run_python("-c", code)
    assert ran.stdout == "set()\n", ran.stderr


Browse = Callable[..., subprocess.CompletedProcess[str]]
PROBE = """<!doctype html><body style="margin: 0">
<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{page}" onload="look(this)"></iframe>
<pre id="found"></pre>
<script>
function look(frame) {{
  const page = frame.contentDocument, root = page.documentElement;
  const first = page.getElementById("show-1"), shown = () => page.querySelector("td.column-1")?.offsetWidth ?? 0;
  const found = {{width: root.clientWidth, needed: root.scrollWidth, pwned: frame.contentWindow.pwned ?? 0,
    svg: [...page.querySelectorAll("figure svg")].map(each => Math.round(each.getBoundingClientRect().width)),
    before: shown()}};
  first?.click();
  found.after = shown();
  document.getElementById("found").textContent = JSON.stringify(found);
}}
</script>
"""


def look(browse: Browse, folder: Path, page: str, width: int) -> dict[str, Any]:
    """Returns what a browser measures in a page in a frame of this width; its ban on scripts is removed first."""
    page = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    probe = folder / "probe.html"
    probe.write_text(PROBE.format(width=width, page=html.escape(page)), encoding="utf-8")
    ran = browse(probe.as_uri(), "--dump-dom")
    found = re.search(r'<pre id="found">(.*?)</pre>', ran.stdout)
    assert found is not None, ran.stdout[-2000:]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_has_room_and_runs_nothing(
    width: int, hostile: dict[str, Any], page_of: Write, browse: Browse, tmp_path: Path
) -> None:
    page = page_of(hostile).text
    found = look(browse, tmp_path, page, width)
    assert found["needed"] <= found["width"] == width
    assert found["pwned"] == 0
    assert len(found["svg"]) == 2
    assert all(width * 0.3 < size < width for size in found["svg"])
    # A checkbox above the columns hides its column.
    assert found["before"] > 0
    assert found["after"] == 0

    # A script and an overflow would be found, if there were any.
    spoilt = page.replace("<main>", "<script>window.pwned = 1</script><div style='width: 3000px'>x</div><main>")
    found = look(browse, tmp_path, spoilt, width)
    assert found["pwned"] == 1
    assert found["needed"] > width


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "paper"), [(1, "#ffffff"), (0, "#0f1319")], ids=["light", "dark"])
def test_a_browser_shows_it(scheme: int, paper: str, report: dict[str, Any], browse: Browse, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    write_page(report, page)
    ran = browse(page.as_uri(), f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    # The browser reports errors in a page here: styles that it cannot read, or loads that the page's policy forbids.
    assert "CONSOLE" not in ran.stderr
    pixels = np.round(imread(picture)[..., :3] * 255).astype(int)
    background = np.array([int(paper[at : at + 2], 16) for at in (1, 3, 5)])
    assert (pixels[0, 0] == background).all()
    ink = np.abs(pixels - background).max(axis=-1) > 100
    assert 0.01 < ink.mean() < 0.5
    # There is something everywhere from top to bottom and from left to right, and in many colours.
    assert all(part.any() for part in np.array_split(ink[:, 60:-60], 8, axis=0))
    assert all(part.any() for part in np.array_split(ink[:, 60:-60], 8, axis=1))
    assert len(np.unique(pixels[::3, ::3].reshape(-1, 3), axis=0)) > 200
