"""What tests of HTML pages share: a parser that reads a page like a browser, and scripts that inspect a page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

HOSTILE = (
    "</td></svg></style></script><script>window.pwned = 1</script><img src=x onerror='pwned=1'>\"'&\n\u202e`$\\frac"
)
_VOID = {"meta", "input", "br", "wbr", "img", "link", "hr"}
Browse = Callable[..., subprocess.CompletedProcess[str]]
PROBE = """
<pre id="found"></pre>
<script>
const started = performance.now();
const all = (what) => [...document.querySelectorAll(what)];
const shown = () => all(".layer").filter((each) => each.offsetHeight).map((each) => each.id).join();
const rows = () => all("#rows tbody tr").map((row) => row.innerText.replace(/\\s+/g, " ").trim());
const count = () => document.querySelector(".dt-info").textContent;
const settled = () => new Promise((resolve) => setTimeout(resolve, 100));
const click = (what) => document.querySelector(what).dispatchEvent(new MouseEvent("click", {bubbles: true}));
const choose = (what, value) => {
  const field = document.querySelector(what);
  field.value = value;
  field.dispatchEvent(new Event(field.type === "search" ? "input" : "change", {bubbles: true}));
};
const timed = (work) => {
  const before = performance.now();
  work();
  return document.body.offsetHeight && performance.now() - before;
};
(async () => {
  const found = {opened: started};
  SCRIPT
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>
"""


class Page(HTMLParser):
    """A page as a browser would read it: the elements with their attributes and text, all of which must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.words.append("")
        if tag not in _VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag
        if tag in ("td", "th"):
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.words[place] += data

    def links(self) -> list[str]:
        """Returns the target of each link."""
        return [has[name] for _, has in self.elements for name in ("href", "xlink:href") if name in has]

    def all(self, tag: str, **attributes: str) -> list[str]:
        """Returns the text of each element with this tag and these attributes."""
        return [
            " ".join(words.split())
            for (name, has), words in zip(self.elements, self.words, strict=True)
            if name == tag and attributes.items() <= has.items()
        ]


def probe(browse: Browse, folder: Path, page: str, script: str) -> dict[str, Any]:
    """Returns what a script finds in a page, with the page's own ban on scripts removed."""
    page = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    file = folder / "probe.html"
    file.write_text(page.replace("</body>", PROBE.replace("SCRIPT", script) + "</body>"), encoding="utf-8")
    ran = browse(file.as_uri(), "--virtual-time-budget=5000", "--dump-dom", height=1000)
    seen = re.search(r'<pre id="found">(.+?)</pre>', ran.stdout)
    assert seen is not None, ran.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(seen[1]))
    return found


def look_inside(browse: Browse, folder: Path, page: str, width: int) -> dict[str, Any]:
    """Returns how much width a page needs in a frame of some width, and whether a foreign script ran in it."""
    page = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    frame = f'<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{html.escape(page)}"></iframe>'
    script = """
    await new Promise((resolve) => addEventListener("load", resolve));
    const frame = document.querySelector("iframe"), root = frame.contentDocument.documentElement;
    Object.assign(found, {width: root.clientWidth, needed: root.scrollWidth, pwned: frame.contentWindow.pwned ?? 0,
      svg: [...root.querySelectorAll("figure svg")].map((each) => each.getBoundingClientRect().width)});
    """
    return probe(browse, folder, f'<!doctype html><body style="margin: 0">{frame}</body>', script)


def check_structure(page: Page) -> None:
    """Checks headings (one of the first level, none skipped), names of tables and boxes, and targets of links."""
    assert page.text.startswith("<!doctype html>\n<html lang=")
    assert len(page.all("h1")) == len(page.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all("scope" in has for tag, has in page.elements if tag == "th")
    scrolls = [has for tag, has in page.elements if "scroll" in has.get("class", "").split() or tag == "pre"]
    assert all(has["tabindex"] == "0" and {"aria-label", "aria-labelledby"} & has.keys() for has in scrolls)

    ids = Counter(has["id"] for _, has in page.elements if "id" in has)
    assert set(ids.values()) == {1}
    named = [has["aria-labelledby"] for _, has in page.elements if "aria-labelledby" in has]
    linked = [link[1:] for link in page.links() if link.startswith("#")]
    assert {*named, *linked, *re.findall(r"url\(#([^)]*)\)", page.text)} <= ids.keys()


def check_self_contained(page: Page) -> set[str]:
    """Checks that a page loads nothing and has only its own scripts, and returns its links to elsewhere."""
    assert not {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object", "base", "form"}
    for _, has in page.elements:
        assert not [name for name in has if name.startswith("on") or name in ("src", "srcset", "data", "action")]
    styles = " ".join([*page.all("style"), *(has.get("style", "") for _, has in page.elements)])
    assert "@import" not in styles
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", styles))

    # It has its own four scripts, which the policy allows by their digests, and no others.
    scripts = re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
    assert len(scripts) == len(page.all("script")) == 4
    digests = {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts}
    (policy,) = [has["content"] for tag, has in page.elements if "http-equiv" in has]
    assert set(re.findall("sha256-([^']*)'", policy)) == digests
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    return {link for link in page.links() if not link.startswith("#")}
