"""The folders show the architecture: a package imports only from lower floors, and nothing private to another one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dlf

pytestmark = pytest.mark.once

FOLDER = Path(dlf.__file__).parent
FLOORS = [
    {"utils", "_version"},
    {"backend", "data", "visualization"},
    {"models", "backend_protocol"},
    {"random", "check"},
    {"training", "numerics"},
    {"gradients", "lab"},
    {"parity"},
    {"bench", "testing"},
    {"cli", "pytest_plugin"},
    {"__main__", "__init__"},
]
"""The floors, from the lowest up: a part imports only from lower floors. The last is the public face of the package."""
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


def modules() -> Iterator[tuple[str, Path]]:
    for file in sorted(FOLDER.rglob("*.py")):
        yield file.relative_to(FOLDER).with_suffix("").as_posix().replace("/", "."), file


def imported(file: Path) -> set[str]:
    """Returns what a file imports from dlf, modules or names in them, without the ``dlf.``."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dlf":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "dlf"}
    return {name.partition(".")[2] for name in found}


def test_every_part_of_dlf_has_its_floor() -> None:
    assert {name.split(".")[0] for name, _ in modules()} == set(FLOOR_OF)


def test_a_module_imports_what_stands_below_it() -> None:
    wrong = []
    for name, file in modules():
        own = name.split(".")[0]
        for each in imported(file):
            part = each.split(".")[0]
            # A name that is imported from the public face belongs to no floor, and counts as above all of them.
            if part != own and FLOOR_OF.get(part, len(FLOORS)) >= FLOOR_OF[own]:
                wrong.append(f"{name} imports {each}")
    assert not wrong


def test_a_module_imports_nothing_private_to_another_package() -> None:
    wrong = []
    for name, file in modules():
        for each in imported(file) - {"_version.__version__"}:
            parts = each.split(".")
            private = next((place for place, part in enumerate(parts) if part.startswith("_")), 0)
            # A name with an underscore is private to the folder in which it lies.
            if name.split(".")[:private] != parts[:private]:
                wrong.append(f"{name} imports {each}")
    assert not wrong
