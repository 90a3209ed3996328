"""Tests the page of `dlf parity --html`: what it says, that only its own scripts run, and how a browser shows it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from pages import HOSTILE, Browse, Page, check_self_contained, check_structure, look_inside, probe

import dlf.visualization.html
from dlf.parity.options import STAGES
from dlf.parity.page.page import write_page
from dlf.parity.page.rows import MEANINGS, layers_of, rows_of
from dlf.parity.report import advice_of, answer_of
from dlf.utils.errors import OutputError

pytestmark = pytest.mark.once

BACKENDS = ("jax", "tensorflow", "torch")
VENDOR = Path(dlf.visualization.html.__file__).parent / "vendor" / "datatables"


def measured(stage: str, layer: str | None, variable: str | None, costs: dict[str, float], wrong: str = "") -> Any:
    """A measurement and its findings: noise floors on each backend, and the backend that diverges."""
    pairs = {f"{a}|{b}": 0.25 if wrong in (a, b) else 1e-16 for a, b in combinations(BACKENDS, 2)}
    place: dict[str, Any] = {
        "stage": stage,
        "layer": layer,
        "call": layer,
        "variable": variable,
        "step": None,
        "mode": None,
    }
    values = {name: 1.23456 + (name == wrong) for name in BACKENDS}
    measurement = place | {
        "dtype": "float32",
        "shape": [8, 4],
        "size": 1.0,
        "floor": 1e-7,
        "distances": pairs,
        "differences": pairs,
        "errors": {name: 1e-7 * cost for name, cost in costs.items()},
        "digests": dict.fromkeys(BACKENDS, "00"),
        "elements": [{"index": [0, 3], "float64": values, "tested": values}] * bool(wrong),
    }
    findings = [
        place
        | {
            "backend": name,
            "verdict": "diverged" if name == wrong else "noisy" if cost > 30 else "rounding",
            "relative_difference": 0.25 if wrong else 1e-16,
            "noise_floors": None if name == wrong else cost,
            "reason": None,
        }
        for name, cost in costs.items()
    ]
    return measurement, findings


def report_of(names: list[str], wrong: dict[str, str], noisy: tuple[str, ...] = (), variables: int = 2) -> Any:
    """A report on a chain of layers, some of which diverge on a backend."""
    parts = []
    for place, name in enumerate(names):
        costs = {backend: 0.5 + 0.25 * number + place % 3 for number, backend in enumerate(BACKENDS)}
        costs["jax"] = 88.0 if name in noisy else costs["jax"]
        parts.append(measured("forward", name, None, costs, wrong.get(name, "")))
        parts += [measured("gradient", name, f"w{each}", costs, wrong.get(name, "")) for each in range(variables)]
    parts.append(measured("loss", None, "value", dict.fromkeys(BACKENDS, 0.1)))
    findings = [each for _, own in parts for each in own]
    divergences = [each for each in findings if each["verdict"] == "diverged"]
    divergences.sort(key=lambda each: STAGES.index(each["stage"]))
    steps = {name: [2.0, 1.0, 0.5 + 1e-7 * number] for number, name in enumerate(BACKENDS)}
    stages = {}
    for stage in STAGES:
        own = [each for each in findings if each["stage"] == stage]
        worst = max(own, key=lambda each: each["noise_floors"] or 0.0, default=None)
        stages[stage] = {"counts": dict(Counter(each["verdict"] for each in own)), "worst": worst}
    return {
        "schema": 3,
        "not_finite": None,
        "not_judged": [],
        "verdict": "diverge" if divergences else "agree",
        "target": "model.py:build",
        "seed": 2025,
        "dtype": "float32",
        "compiled": True,
        "initial_values": [],
        "known_failures": {},
        "stages_asked": list(STAGES),
        "thresholds": {"same": 1e5, "noisy": 30.0, "low_precision": 1000.0},
        "backends": {
            name: {
                "keras": "3.15.1",
                "framework": f"{number}.2.3",
                "device": "cpu",
                "matmul_precision": "highest",
                "numeric_settings": {"x64": "False"},
            }
            for number, name in enumerate(BACKENDS)
        },
        "failed": {},
        "first_divergence": divergences[0] if divergences else None,
        "divergences": divergences,
        "precision": [each for each in findings if each["verdict"] == "noisy"],
        "stages": stages,
        "findings": findings,
        "layers": [{"path": name, "class": "Dense", "dtype": "float32", "parameters": 20} for name in names],
        "calls": [
            {"key": name, "layer": name, "sources": [before] * bool(before), "shape": [[8, 4]], "dtype": "float32"}
            for before, name in pairwise(["", *names])
        ],
        "measurements": [each for each, _ in parts],
        "trajectory": {
            "losses": {"float64": steps, "tested": steps},
            "distance": {name: [1e-8, 2e-8, 4e-8] for name in BACKENDS},
            "envelope": [2e-8, 4e-8, 8e-8],
        },
    }


@pytest.fixture
def sound() -> dict[str, Any]:
    found: dict[str, Any] = report_of(["first", "second", "last"], {}, noisy=("second",))
    return found


@pytest.fixture
def diverging() -> dict[str, Any]:
    found: dict[str, Any] = report_of(["first", "odd", "block/inner", "block", "last"], {"odd": "torch"}, ("last",))
    return found


@pytest.fixture
def hostile(diverging: dict[str, Any]) -> dict[str, Any]:
    """A report with hostile markup in every string that does not come from dlf itself."""
    own = {"stage", "verdict", "dtype", "mode", "schema", "stages", "thresholds", "stages_asked"}

    def spoilt(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            # The key of a pair holds two names.
            return {
                "|".join(part + HOSTILE if part in BACKENDS else part for part in name.split("|")): spoilt(each, name)
                for name, each in value.items()
            }
        if isinstance(value, list):
            return [spoilt(each, key) for each in value]
        return f"{value}{HOSTILE}" if isinstance(value, str) and key not in own else value

    made: dict[str, Any] = {**spoilt(diverging), "verdict": "diverge", "stages": diverging["stages"]}
    made["failed"] = {f"fourth{HOSTILE}": HOSTILE}
    for each in made["findings"]:
        if each["verdict"] == "noisy":
            each |= {"verdict": "known", "reason": HOSTILE}
    return made


@pytest.fixture
def broken() -> dict[str, Any]:
    """A report on models that differ in the build: nothing was measured."""
    made: dict[str, Any] = report_of(["first"], {})
    wrong: dict[str, Any] = {
        "stage": "build",
        "layer": "first",
        "variable": "kernel",
        "backend": None,
        "verdict": "diverged",
        "reason": None,
    }
    wrong |= {"relative_difference": None, "noise_floors": None, "call": None, "mode": None, "step": None}
    made |= {"measurements": [], "calls": [], "trajectory": None, "findings": [wrong], "divergences": [wrong]}
    made["stages"] = {stage: {"counts": {}, "worst": None} for stage in STAGES}
    made["stages"]["build"] = {"counts": {"diverged": 1}, "worst": wrong}
    return made | {"verdict": "diverge", "first_divergence": wrong, "failed": {"torch": "\x1b[1mno torch\x1b[0m"}}


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[[dict[str, Any]], Page]:
    def write(report: dict[str, Any]) -> Page:
        write_page(report, tmp_path / "page.html")
        return Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    return write


Write = Callable[[dict[str, Any]], Page]
KINDS = pytest.mark.parametrize("kind", ["sound", "diverging", "hostile", "broken"])


@KINDS
def test_structure(kind: str, page_of: Write, request: pytest.FixtureRequest) -> None:
    check_structure(page_of(request.getfixturevalue(kind)))


@KINDS
def test_it_needs_nothing_else(kind: str, page_of: Write, request: pytest.FixtureRequest) -> None:
    page = page_of(request.getfixturevalue(kind))
    assert check_self_contained(page) == set()
    assert not re.search("#f[de]00", re.sub("<script>.*?</script>", "", page.text, flags=re.DOTALL))
    assert len(page.text.encode()) < 400_000


def test_hostile_words_are_words(hostile: dict[str, Any], page_of: Write) -> None:
    page = page_of(hostile)
    assert page.words[0].count("<script>window.pwned = 1</script>") > 50
    assert "<img" not in page.text
    assert "\u202e" not in page.text
    assert "\\u202e" in page.all("h1")[0]
    # No script holds any of it, so there is no data to escape in scripts.
    assert not any("pwned" in script for script in page.all("script"))


def test_what_is_vendored_is_what_was_published() -> None:
    script = (VENDOR / "dataTables.min.js").read_bytes()
    version = re.match(rb"/\*! DataTables (\S+)", script)
    assert version is not None
    assert version[1] == b"3.1.5"
    assert hashlib.sha256(script).hexdigest() == "38017a5586acd9c6eb6bbfe8b6938e1a25bdc717c5acfcb07e0c9d663282c59d"
    assert f"DataTables {version[1].decode()}" in (VENDOR / "README.md").read_text(encoding="utf-8")
    assert "MIT License" in (VENDOR / "License.txt").read_text(encoding="utf-8")
    assert b"</script" not in script
    assert len(script) < 150_000


def test_the_answer_comes_first(diverging: dict[str, Any], page_of: Write) -> None:
    page = page_of(diverging)
    assert page.all("h1") == [answer_of(diverging)]
    assert page.all("p", **{"class": "badge bad"}) == ["✗ Diverge"]
    assert page.all("p", **{"class": "advice"}) == [
        f"Next: {advice_of(diverging['first_divergence'])}".replace("`", "")
    ]
    assert page.all("li")[:4] == [
        "torch 2.2.3, keras 3.15.1, cpu",
        "jax 0.2.3, keras 3.15.1, cpu",
        "tensorflow 1.2.3, keras 3.15.1, cpu",
        "✗ odd forward, gradient on torch",
    ]


def test_a_sound_model(sound: dict[str, Any], page_of: Write) -> None:
    page = page_of(sound)
    assert page.all("p", **{"class": "badge good"}) == ["✓ Agree"]
    assert not page.all("section", **{"class": "look"})
    # The layer with the worst verdict is shown first.
    shown = [has["id"] for _, has in page.elements if "shown" in has.get("class", "").split()]
    assert shown == ["layer-2"]


def test_the_graph(diverging: dict[str, Any], page_of: Write) -> None:
    page = page_of(diverging)
    cards = [has for tag, has in page.elements if tag == "a" and has.get("class", "").startswith("card")]
    assert [has["aria-label"] for has in cards] == [
        "first, Dense: rounding",
        "odd, Dense: diverged",
        "block/inner, Dense: rounding",
        "block, Dense: rounding",
        "last, Dense: noisy",
    ]
    assert [has["class"].split()[1] for has in cards] == ["good", "bad", "good", "good", "warn"]
    assert [has["href"] for has in cards] == [f"#layer-{number + 1}" for number in range(5)]
    # Verdicts are not shown by colour only: each card has a sign.
    signs = [words for words, (_, has) in zip(page.words, page.elements, strict=True) if has.get("class") == "mark"]
    assert signs[:5] == ["✓", "✗", "✓", "✓", "!"]
    # The layers inside the block stand between its input and its output.
    assert len([1 for tag, has in page.elements if has.get("class") == "arrow"]) == 4


def test_details(diverging: dict[str, Any], page_of: Write) -> None:
    page = page_of(diverging)
    (odd,) = page.all("section", id="layer-2")
    assert odd.startswith("✗ odd diverged Dense · layer 2 of 5 · 20 parameters · from first · gives 8×4 float32")
    assert "Tensor torch jax tensorflow torch and jax torch and tensorflow jax and tensorflow" in odd
    row = next(row for row in page.all("tr", **{"class": "bad"}) if row.startswith("forward"))
    assert row == "forward output 8×4 ✗ 2e+06 diverged ✓ 1.50 ✓ 1.75 2.5e-01 2.5e-01 1.0e-16"
    (element,) = {words for words in page.all("tr") if words.startswith("[0, 3]")}
    assert element == "[0, 3] 1.23456 2.234562.23456 1.234561.23456 1.234561.23456"
    assert '<td class="number"><b class="off">2.23456</b><small>2.23456</small></td>' in page.text


def test_rows_and_layers(diverging: dict[str, Any]) -> None:
    rows, left_out = rows_of(diverging)
    assert left_out == 0
    assert [row.verdict for row in rows[:4]] == ["diverged", "diverged", "diverged", "noisy"]
    assert len(rows) == len(diverging["measurements"])
    whole, *layers = layers_of(diverging, rows)
    assert [each.path for each in layers] == ["first", "odd", "block/inner", "block", "last"]
    assert [each.verdict for each in layers] == ["rounding", "diverged", "rounding", "rounding", "noisy"]
    assert [row.stage for row in whole.rows] == ["loss"]


def test_what_is_wrong_is_held_against_those_that_are_right(diverging: dict[str, Any]) -> None:
    odd = rows_of(diverging)[0][0]
    # The number is its distance in float64, and not its error in float32.
    assert [cell.floors for cell in odd.cells] == [1.5, 1.75, pytest.approx(0.25 / 1e-7)]
    diverging["measurements"][4]["errors"]["torch"] = None
    assert [cell.number for cell in rows_of(diverging)[0][1].cells] == ["1.50", "1.75", ""]
    one = diverging["measurements"][3]
    one["distances"] = dict.fromkeys(one["distances"])
    one["elements"][0]["float64"] = {"jax": 0.25, "tensorflow": 0.25, "torch": 0.0}
    odd = rows_of(diverging)[0][0]
    assert [cell.floors for cell in odd.cells] == [1.5, 1.75, None]
    # A number with which another one begins is still a different number.
    assert [value[:2] for value in odd.elements[0].values] == [("0.25", ""), ("0.25", ""), ("", "0")]


def test_remarks(sound: dict[str, Any], page_of: Write) -> None:
    sound |= {"initial_values": ["first/kernel"], "compiled": False}
    remarks = page_of(sound).all("p", **{"class": "note remark"})
    assert [remark.split()[0] for remark in remarks] == ["Initialized", "The"]


def test_what_nobody_is_blamed_for(sound: dict[str, Any], page_of: Write) -> None:
    sound["backends"].pop("torch")
    nobody = {"backend": None, "verdict": "diverged", "noise_floors": None}
    sound["findings"] = [
        {**each, **(nobody if each["layer"] == "first" else {})}
        for each in sound["findings"]
        if each["backend"] != "torch"
    ]
    sound["measurements"][0]["distances"] = sound["measurements"][0]["differences"] = {"jax|tensorflow": None}
    sound["measurements"][0]["elements"] = [{"index": [], "float64": {"jax": None, "tensorflow": 3}, "tested": {}}]
    rows, _ = rows_of(sound)
    assert [cell.verdict for cell in rows[0].cells] == ["diverged", "diverged"]
    assert rows[0].apart == math.inf
    assert rows[0].pairs == [("no measure", True)]
    assert rows[0].elements[0].truth == "no majority"
    assert rows[0].elements[0].values[0][0] == "not finite"
    page_of(sound)


def test_the_worst_step_stands_for_a_trajectory(sound: dict[str, Any]) -> None:
    for mode in ("free", "resynchronised"):
        for step in range(3):
            one, findings = measured("trajectory", None, "w", dict.fromkeys(BACKENDS, 1.0 + step % 2))
            place = {"mode": mode, "step": step}
            sound["measurements"].append(one | place)
            sound["findings"] += [each | place for each in findings]
    rows = [row for row in rows_of(sound)[0] if row.stage == "trajectory"]
    assert [row.details for row in rows] == ["step 2, free", "step 2, resynchronised"]


def test_of_a_model_only_so_many_updates_that_are_harmless(sound: dict[str, Any], page_of: Write) -> None:
    for number in range(1200):
        one, findings = measured("update", None, f"w{number}", dict.fromkeys(BACKENDS, 88.0 * (number == 1100)))
        sound["measurements"].append(one)
        sound["findings"] += findings
    rows, left_out = rows_of(sound)
    assert left_out == 700
    assert [row.variable for row in rows if row.level == "warn" and row.layer is None] == ["w1100"]
    assert "700 more, of the whole model" in page_of(sound).words[0]


def test_a_backend_that_failed(broken: dict[str, Any], page_of: Write) -> None:
    page = page_of(broken)
    assert page.all("pre")[0] == "no torch"
    assert "No layer was called" in page.words[0]
    assert "✗ first build on jax, tensorflow, torch" in page.all("li")


def test_numbers_that_are_none(diverging: dict[str, Any], page_of: Write) -> None:
    for each in diverging["measurements"]:
        each |= {"errors": dict.fromkeys(BACKENDS), "differences": dict.fromkeys(each["differences"])}
    curves = diverging["trajectory"]
    curves["losses"]["tested"] = {name: [None, None] for name in BACKENDS}
    curves |= {"distance": {name: [0.0, None] for name in BACKENDS}, "envelope": [None, 0.0]}
    page = page_of(diverging)
    assert "nan" not in "".join(re.findall(r' d="[^"]*"', page.text)).lower()


def test_plots(diverging: dict[str, Any], page_of: Write) -> None:
    page = page_of(diverging)
    labels = [has.get("aria-label") for tag, has in page.elements if tag == "svg" and has.get("role") == "img"]
    assert labels == [
        "Error of each layer in noise floors, a curve for each backend",
        "Distance from the truth after each step, a curve for each backend",
        "The loss at each step, a curve for each path",
    ]
    assert {"30", "1000", "noise floors", "step", "after step", "distance from the truth"} <= set(page.all("text"))
    assert all(page.text.count(f"stroke: var(--curve-{number})") >= 3 for number in range(3))
    assert page.text.count("fill: var(--bad)") >= 1


def test_every_verdict_has_a_meaning() -> None:
    assert set(MEANINGS) >= {"identical", "rounding", "noisy", "precision", "unstable", "tie", "chaos", "diverged"}


def test_it_cannot_be_written(sound: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"page\.html: cannot be written .* folder that exists"):
        write_page(sound, tmp_path / "absent" / "page.html")
    sound["target"] = "caf\udce9.py:build"  # sys.argv gives a file name that is not UTF-8 like this.
    write_page(sound, tmp_path / "page.html")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_json_gives_the_same_page(diverging: dict[str, Any], tmp_path: Path) -> None:
    write_page(diverging, tmp_path / "one.html")
    write_page(json.loads(json.dumps(diverging)), tmp_path / "other.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "other.html").read_bytes()


def test_libraries_come_with_the_first_page(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = "import dlf.parity.page.page, sys; print({'jinja2', 'grandalf', 'matplotlib', 'keras'} & set(sys.modules))"
    ran = run_python("-c", code)
    assert ran.stdout == "set()\n", ran.stderr


def test_a_click_leads_to_a_layers_details(
    diverging: dict[str, Any], page_of: Write, browse: Browse, tmp_path: Path
) -> None:
    script = """
    found.first = shown();
    found.marked = all("a.card[aria-current]").map((each) => each.getAttribute("href")).join();
    const card = document.querySelectorAll("a.card")[4];
    card.focus();
    found.focusable = document.activeElement === card;
    click('a.card[href="#layer-5"]');
    await settled();
    found.then = shown();
    found.focused = document.activeElement.id;
    found.marked_then = all("a.card[aria-current]").map((each) => each.getAttribute("href")).join();
    click('#layer-5 a[data-search]');
    await settled();
    found.rows = rows();
    found.still = document.querySelector("#search").value;
    """
    found = probe(browse, tmp_path, page_of(diverging).text, script)
    assert (found["first"], found["marked"]) == ("layer-2", "#layer-2")
    # Enter opens a link that has the focus.
    assert found["focusable"]
    assert (found["then"], found["focused"], found["marked_then"]) == ("layer-5", "layer-5", "#layer-5")
    assert len(found["rows"]) == 3
    assert all(row.startswith("last ") for row in found["rows"])
    assert found["still"] == '"last"'


def test_without_scripts_it_is_all_there(diverging: dict[str, Any], browse: Browse, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(diverging, page)
    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub("<script>.*?</script>", "", text, flags=re.DOTALL), encoding="utf-8")
    script = """
    found.rows = all("#rows tbody tr").filter((row) => row.offsetHeight).length;
    found.filters = document.querySelector(".filters").offsetHeight;
    location.hash = "#layer-3";
    await settled();
    found.shown = shown();
    """
    found = probe(browse, tmp_path, page.read_text(encoding="utf-8"), script)
    assert found["rows"] == len(diverging["measurements"])
    assert found["filters"] == 0
    assert found["shown"] == "layer-3"


def test_the_table_sorts_and_filters(diverging: dict[str, Any], page_of: Write, browse: Browse, tmp_path: Path) -> None:
    script = """
    found.all = count();
    choose("#by-verdict", "diverged");
    found.diverged = [count(), ...rows()];
    choose("#by-stage", "forward");
    found.forward = rows().length;
    choose("#by-backend", "1");
    found.on_jax = rows();
    click("#reset");
    found.reset = count();
    choose("#by-backend", "1");
    found.jax = rows();
    click("#reset");
    choose("#search", "block w1");
    found.text = rows();
    click("#reset");
    const head = all("#rows thead th")[5];
    head.querySelector("[role=button]").click();
    await settled();
    found.up = rows().map((row) => row.match(/[\\d.]+ [^ ]+ [\\d.]+ /)?.[0].split(" ")[2]);
    found.sorted = head.getAttribute("aria-sort");
    head.querySelector("[role=button]").click();
    await settled();
    found.down = rows()[0];
    """
    found = probe(browse, tmp_path, page_of(diverging).text, script)
    assert found["all"] == found["reset"] == "1 to 16 of 16"
    assert found["diverged"][0] == "1 to 3 of 3 (of 16)"
    assert all(row.startswith("odd ") for row in found["diverged"][1:])
    assert found["forward"] == 1
    assert found["on_jax"] == ["Nothing is like that."]
    # With only a backend selected, rows in which it has a finding are shown.
    assert len(found["jax"]) == 3
    assert all(row.startswith("last ") for row in found["jax"])
    assert [row.split()[0] for row in found["text"]] == ["block/inner", "block"]
    assert found["sorted"] == "ascending"
    assert found["down"].startswith("last ")
    assert "88" in found["down"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_has_room_and_runs_nothing(
    width: int, hostile: dict[str, Any], page_of: Write, browse: Browse, tmp_path: Path
) -> None:
    page = page_of(hostile).text
    found = look_inside(browse, tmp_path, page, width)
    assert found["needed"] <= found["width"] == width
    assert found["pwned"] == 0
    assert len(found["svg"]) == 3
    assert all(size > width * 0.3 for size in found["svg"])

    # The checks above would find a script that runs and a page that is too wide.
    spoilt = page.replace("<main>", "<script>window.pwned = 1</script><div style='width: 3000px'>x</div><main>")
    found = look_inside(browse, tmp_path, spoilt, width)
    assert found["pwned"] == 1
    assert found["needed"] > width


def test_the_pages_own_ban_holds(hostile: dict[str, Any], browse: Browse, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(hostile, page)
    ran = browse(page.as_uri(), "--dump-dom")
    assert "CONSOLE" not in ran.stderr
    assert "dt-info" in ran.stdout
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("<main>", "<script>document.title = 'pwned'</script><main>"), encoding="utf-8")
    ran = browse(page.as_uri(), "--dump-dom")
    assert "<title>pwned" not in ran.stdout
    assert "Content Security Policy" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "paper"), [(1, "#ffffff"), (0, "#0f1319")], ids=["light", "dark"])
def test_a_browser_shows_it(scheme: int, paper: str, diverging: dict[str, Any], browse: Browse, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    write_page(diverging, page)
    ran = browse(page.as_uri(), f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    assert "CONSOLE" not in ran.stderr
    pixels = np.round(imread(picture)[..., :3] * 255).astype(int)
    background = np.array([int(paper[at : at + 2], 16) for at in (1, 3, 5)])
    assert (pixels[0, 0] == background).all()
    ink = np.abs(pixels - background).max(axis=-1) > 100
    assert 0.01 < ink.mean() < 0.5
    assert all(part.any() for part in np.array_split(ink[:, 60:-60], 8, axis=0))
    assert all(part.any() for part in np.array_split(ink[:, 60:-60], 8, axis=1))
    assert len(np.unique(pixels[::3, ::3].reshape(-1, 3), axis=0)) > 200


def test_it_can_be_printed(diverging: dict[str, Any], browse: Browse, tmp_path: Path) -> None:
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    write_page(diverging, page)
    browse(page.as_uri(), f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    assert printed.read_bytes().startswith(b"%PDF")
    pages = re.findall(rb"/Type /Page\b", printed.read_bytes())
    assert 2 <= len(pages) <= 8


@pytest.mark.slow
def test_a_thousand_layers(browse: Browse, tmp_path: Path) -> None:
    names = [f"block{number // 8}/layer{number}" for number in range(1000)]
    page = tmp_path / "page.html"
    write_page(report_of(names, {names[612]: "torch"}, tuple(names[::97]), variables=7), page)
    assert page.stat().st_size < 12_000_000
    script = """
    found.all = count();
    found.shown = shown();
    const card = document.querySelector("a.card[aria-current]").getBoundingClientRect();
    const box = document.getElementById("graph").getBoundingClientRect();
    found.in_view = card.top >= box.top && card.bottom <= box.bottom;
    found.search = timed(() => choose("#search", "layer77"));
    found.verdict = timed(() => (choose("#search", ""), choose("#by-verdict", "noisy")));
    found.sort = timed(() => (click("#reset"), all("#rows thead th")[4].querySelector("[role=button]").click()));
    """
    found = probe(browse, tmp_path, page.read_text(encoding="utf-8"), script)
    assert found["all"] == "1 to 25 of 8,001"
    assert found["shown"] == "layer-613"
    assert found["in_view"]
