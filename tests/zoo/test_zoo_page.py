"""Tests the page of the zoo: what it says first, that only its own scripts run, and how a browser shows it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from pages import HOSTILE, Browse, Page, check_self_contained, check_structure, look_inside, probe

from dlf.utils.errors import OutputError
from zoo.page import write_zoo_page
from zoo.page_rows import lines_of

pytestmark = pytest.mark.once

BACKENDS = ("jax", "tensorflow", "torch")
UPSTREAM = "https://github.com/keras-team/keras/pull/1"
REASON = f"Zeros at an edge are counted. {UPSTREAM}"


def finding(stage: str, layer: str | None, backend: str | None = "torch", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "stage": stage,
        "layer": layer,
        "variable": "output",
        "backend": backend,
        "verdict": "diverged",
    }
    found |= {"relative_difference": 0.25, "noise_floors": None, "call": layer, "mode": None, "step": None}
    return {**found, "reason": None, **more}


def row(verdict: str, name: str, case: str = "", kind: str = "layers", **more: Any) -> dict[str, Any]:
    made = {"kind": kind, "name": name, "case": case, "target": f"zoo:{name}", "verdict": verdict}
    return made | {"answer": f"The answer on {name}.", "findings": [], "news": [], **more}


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    versions = {name: {"keras": "3.15.1", "framework": "1.2.3", "device": "cpu"} for name in BACKENDS}
    counts = dict(Counter(each["verdict"] for each in rows))
    return {"schema": 1, "backends": versions, "counts": counts, "rows": rows}


@pytest.fixture
def sound() -> dict[str, Any]:
    return summary_of([row("agree", "Dense"), row("agree", "Adam", kind="optimizers")])


@pytest.fixture
def mixed() -> dict[str, Any]:
    """A summary with an entry of each verdict; the worst come last."""
    noisy = [finding("gradient", "norm", "jax", verdict="noisy", noise_floors=cost) for cost in (40.0, 88.0)]
    tie = finding("gradient", "relu", None, verdict="tie")
    known = [finding("forward", "pool", reason=REASON), finding("gradient", "pool", reason=REASON)]
    odd = [finding("forward", "odd", reason=REASON), finding("state", "odd", "jax"), finding("loss", None, None)]
    return summary_of(
        [
            row("agree", "Dense"),
            row("agree", "Norm", "no_scale", news=[*noisy, tie]),
            row("not applicable", "Wrapper", target=None, answer="a base class"),
            row("untested", "Newcomer", target=None, answer=""),
            row("known", "Pool", "same", findings=known),
            row("failed", "Huge", kind="applications", answer="torch: \x1b[1mno memory\x1b[0m\n" + "long " * 100),
            row("diverge", "Odd", findings=odd),
            row("diverge", "Build", findings=[finding("build", "b", relative_difference=None)]),
        ]
    )


@pytest.fixture
def hostile(mixed: dict[str, Any]) -> dict[str, Any]:
    """A summary with hostile markup in every string that does not come from dlf itself."""

    def spoilt(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name + HOSTILE * (name in BACKENDS): spoilt(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [spoilt(each, key) for each in value]
        return value + HOSTILE if isinstance(value, str) and key not in ("stage", "verdict") else value

    made: dict[str, Any] = spoilt(mixed)
    made["rows"][4]["findings"][0]["reason"] = f"javascript:alert(1) https://x.org/\"onclick='pwned=1'{HOSTILE}"
    return made


@pytest.fixture
def nothing() -> dict[str, Any]:
    return {"schema": 1, "backends": {}, "counts": {"not run": 1}, "rows": [row("not run", "Dense", answer="")]}


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[[dict[str, Any]], Page]:
    def write(summary: dict[str, Any]) -> Page:
        write_zoo_page(summary, tmp_path / "page.html")
        return Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    return write


Write = Callable[[dict[str, Any]], Page]


@pytest.mark.parametrize(
    ("kind", "outside"),
    [("sound", set()), ("mixed", {UPSTREAM}), ("hostile", {UPSTREAM, "https://x.org/"}), ("nothing", set())],
)
def test_it_is_whole_and_needs_nothing_else(
    kind: str, outside: set[str], page_of: Write, request: pytest.FixtureRequest
) -> None:
    page = page_of(request.getfixturevalue(kind))
    check_structure(page)
    assert check_self_contained(page) == outside


def test_hostile_words_are_words(hostile: dict[str, Any], page_of: Write) -> None:
    page = page_of(hostile)
    assert page.words[0].count("<script>window.pwned = 1</script>") > 50
    assert "<img" not in page.text
    assert "\u202e" not in page.text
    assert not any("pwned" in script for script in page.all("script"))


def test_first_the_counts_and_then_what_is_not_known(mixed: dict[str, Any], page_of: Write) -> None:
    page = page_of(mixed)
    (answer,) = page.all("h1")
    assert answer == (
        "2 of 6 cases compute and train the same on jax, tensorflow and torch; "
        "2 diverge, and it is not known why, 1 differs as is known, 1 did not come through."
    )
    assert page.all("p", **{"class": "badge bad"}) == ["✗ Diverge"]
    counts = ["2 ✗ diverge", "1 ✗ failed", "1 ! known", "1 ~ untested", "2 ✓ agree", "1 · not applicable"]
    assert page.all("li")[:6] == counts
    assert page.all("li")[6] == "jax 1.2.3, keras 3.15.1, cpu"
    assert page.all("h2") == [
        "What diverges, and is not known",
        "Did not come through",
        "Known differences",
        "By kind",
        "Everything",
        "What was not compared",
        "Versions",
    ]
    # Of an entry with several differences the unknown ones come first, in the order of the stages.
    first, second = (words for words in page.all("tr") if words.endswith(("zoo:Odd", "zoo:Build")))
    assert first.startswith("✗ Odd layers loss output and 2 more ")
    assert "state of odd, output on jax, 2.5e-01 forward of odd, output on torch, 2.5e-01 known" in first
    assert first.endswith("all 2.5e-01 zoo:Odd")
    assert second == "✗ Build layers build b, output torch no measure zoo:Build"
    assert page.all("pre")[0].startswith("torch: no memory long")


def test_a_known_difference_has_its_reason_link_and_entries(mixed: dict[str, Any], page_of: Write) -> None:
    (known,) = (words for words in page_of(mixed).all("li") if words.startswith("! Zeros"))
    assert known == f"! {REASON} torch · forward, gradient · Odd; Pool, same"


def test_a_row_for_each_entry(mixed: dict[str, Any], page_of: Write) -> None:
    page = page_of(mixed)
    rows = [
        words
        for (tag, has), words in zip(page.elements, (" ".join(each.split()) for each in page.words), strict=True)
        if tag == "tr" and "data-kind" in has
    ]
    assert " ".join(words.split()[0] for words in rows) == "Odd Build Huge Pool Newcomer Dense Norm Wrapper"
    assert rows[3] == (
        "Pool same layers ! known forward of pool, output, and 1 more torch 2.5e-01 — The answer on Pool."
    )
    assert rows[2].endswith(" lon…")
    assert rows[4] == "Newcomer layers ~ untested — — — — No case in the zoo."
    assert rows[6] == (
        "Norm no scale layers ✓ agree — — — ! noisy 88 gradient of norm, output on jax, and 1 more "
        "~ tie gradient of relu, output The answer on Norm."
    )
    assert rows[7] == "Wrapper layers · not applicable — — — — a base class"


def test_answers(sound: dict[str, Any], nothing: dict[str, Any], page_of: Write) -> None:
    page = page_of(sound)
    assert page.all("h1") == ["All 2 cases compute and train the same on jax, tensorflow and torch."]
    assert page.all("p", **{"class": "badge good"}) == ["✓ Agree"]
    assert "✓ Nothing." in page.all("p")
    page = page_of(nothing)
    assert page.all("h1") == ["Nothing was compared yet."]
    assert page.all("p", **{"class": "badge mild"}) == ["~ Incomplete"]


def test_a_verdict_that_is_new_is_shown(sound: dict[str, Any], page_of: Write) -> None:
    sound["rows"].append(row("puzzling", "Riddle"))
    assert [line.verdict for line in lines_of(sound)] == ["agree", "agree", "puzzling"]
    assert "1 · puzzling" in page_of(sound).all("li")


def test_json_gives_the_same_page_and_a_folder_has_to_be_there(mixed: dict[str, Any], tmp_path: Path) -> None:
    write_zoo_page(mixed, tmp_path / "one.html")
    write_zoo_page(json.loads(json.dumps(mixed)), tmp_path / "other.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "other.html").read_bytes()
    with pytest.raises(OutputError, match=r"page\.html: cannot be written .* folder that exists"):
        write_zoo_page(mixed, tmp_path / "absent" / "page.html")


def test_the_table_sorts_and_filters(mixed: dict[str, Any], page_of: Write, browse: Browse, tmp_path: Path) -> None:
    script = """
    const names = () => rows().map((row) => row.split(" ")[0]).join(" ");
    const tried = (what, value) => { click("#reset"); choose(what, value); return names(); };
    found.all = count();
    found.verdict = tried("#by-verdict", "0");
    found.kind = tried("#by-kind", "1");
    found.stage = tried("#by-stages", "1");
    found.on = tried("#by-on", "0");
    found.news = tried("#by-news", "1");
    found.text = tried("#search", "no scale");
    click('.counts a[data-verdict="2"]');
    found.counted = [names(), document.querySelector("#by-verdict").value];
    click('.why a[data-search]');
    found.entry = [names(), document.querySelector("#search").value];
    const link = document.querySelector(".kinds a");
    link.focus();
    found.focusable = document.activeElement === link;
    click("#reset");
    all("#rows thead th")[0].querySelector("[role=button]").click();
    await settled();
    found.sorted = names();
    """
    found = probe(browse, tmp_path, page_of(mixed).text, script)
    assert found["all"] == "1 to 8 of 8"
    assert found["verdict"] == "Odd Build"
    assert found["kind"] == "Huge"
    assert found["stage"] == "Odd Pool"
    # Where no backend is blamed, all are named.
    assert found["on"] == "Odd Norm"
    assert found["news"] == found["text"] == "Norm"
    assert found["counted"] == ["Pool", "2"]
    assert found["entry"] == ["Odd", '"Odd"']
    assert found["focusable"]
    assert found["sorted"] == "Build Dense Huge Newcomer Norm Odd Pool Wrapper"


def test_without_scripts_it_is_all_there(mixed: dict[str, Any], page_of: Write, browse: Browse, tmp_path: Path) -> None:
    page = re.sub("<script>.*?</script>", "", page_of(mixed).text, flags=re.DOTALL)
    script = """
    found.rows = all("#rows tbody tr").filter((row) => row.offsetHeight).length;
    found.filters = document.querySelector(".filters").offsetHeight;
    """
    found = probe(browse, tmp_path, page, script)
    assert (found["rows"], found["filters"]) == (len(mixed["rows"]), 0)


@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_has_room_and_runs_nothing(
    width: int, hostile: dict[str, Any], page_of: Write, browse: Browse, tmp_path: Path
) -> None:
    found = look_inside(browse, tmp_path, page_of(hostile).text, width)
    assert found["needed"] <= found["width"] == width
    assert found["pwned"] == 0


def test_the_pages_own_ban_holds(hostile: dict[str, Any], browse: Browse, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_zoo_page(hostile, page)
    ran = browse(page.as_uri(), "--dump-dom")
    assert "CONSOLE" not in ran.stderr
    assert "dt-info" in ran.stdout


@pytest.mark.parametrize(("scheme", "paper"), [(1, "#ffffff"), (0, "#0f1319")], ids=["light", "dark"])
def test_a_browser_shows_it(scheme: int, paper: str, mixed: dict[str, Any], browse: Browse, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    write_zoo_page(mixed, page)
    browse(page.as_uri(), f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    pixels = np.round(imread(picture)[..., :3] * 255).astype(int)
    background = np.array([int(paper[at : at + 2], 16) for at in (1, 3, 5)])
    assert (pixels[0, 0] == background).all()
    ink = np.abs(pixels - background).max(axis=-1) > 100
    assert 0.01 < ink.mean() < 0.5
    assert all(part.any() for part in np.array_split(ink[:, 60:-60], 8, axis=0))


def test_it_can_be_printed(mixed: dict[str, Any], browse: Browse, tmp_path: Path) -> None:
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    write_zoo_page(mixed, page)
    browse(page.as_uri(), f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    assert 2 <= len(re.findall(rb"/Type /Page\b", printed.read_bytes())) <= 5


def test_two_thousand_rows(browse: Browse, page_of: Write, tmp_path: Path) -> None:
    rows = [row("agree", f"Layer{number}", f"case_{number % 7}") for number in range(1700)]
    rows += [row("diverge", f"Odd{number}", findings=[finding("forward", "odd")]) for number in range(300)]
    page = page_of(summary_of(rows))
    assert len(page.text.encode()) < 3_000_000
    assert "and 100 more, in the table" in page.all("p")
    script = """
    found.all = count();
    found.search = timed(() => choose("#search", "layer77"));
    found.verdict = timed(() => (choose("#search", ""), choose("#by-verdict", "0")));
    found.left = count();
    """
    found = probe(browse, tmp_path, page.text, script)
    assert (found["all"], found["left"]) == ("1 to 25 of 2,000", "1 to 25 of 300 (of 2,000)")
    assert max(found["search"], found["verdict"]) < 2000
