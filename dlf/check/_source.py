"""The files that are read: scripts, notebooks and folders, each as a syntax tree with its lines."""

from __future__ import annotations

import ast
import bisect
import itertools
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dlf.models.scripts import FILES, cells_of
from dlf.utils.errors import InvalidArgumentError

__all__ = ["Source", "read_sources"]


@dataclass(frozen=True)
class Source:
    """A file that could be read: its path, its syntax tree and its lines."""

    path: str
    tree: ast.Module
    lines: tuple[str, ...]
    cells: tuple[int, ...] = ()
    """Of a notebook, the line at which each cell of code begins."""

    def place(self, line: int) -> tuple[int | None, int]:
        """Returns the number of the cell that a line stands in, None in a script, and its line there."""
        cell = bisect.bisect(self.cells, line)
        return (cell, line - self.cells[cell - 1] + 1) if self.cells else (None, line)

    @property
    def module(self) -> str:
        """The dotted name by which a file beside it might import it; only its end counts."""
        parts = Path(self.path).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def ignores(self, line: int, rule: str) -> bool:
        """Whether a comment on the line says to leave a rule out."""
        text = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        found = _IGNORE.search(text)
        if found is None:
            return False
        return found["rules"] is None or rule in {each.strip() for each in found["rules"].split(",")}


_IGNORE = re.compile(r"#\s*dlf:\s*ignore(\[(?P<rules>[^\]]*)\])?")


def read_sources(paths: Iterable[str]) -> tuple[list[Source], dict[str, str]]:
    """Returns the files that could be read, and why the others could not, by their paths.

    Args:
        paths: Files and folders.

    Raises:
        InvalidArgumentError: A path is not there, or is no file of Python code.
    """
    read: list[Source] = []
    not_read: dict[str, str] = {}
    for file in _files(paths):
        try:
            cells = cells_of(file) if file.suffix == ".ipynb" else []
            code = "\n".join(cells) if file.suffix == ".ipynb" else file.read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Of escapes in strings; they are not what was asked.
                tree = ast.parse(code, str(file))
        except SyntaxError as error:
            not_read[str(file)] = f"line {error.lineno}: {error.msg}"
        except (ValueError, KeyError, TypeError, OSError, json.JSONDecodeError, RecursionError) as error:
            not_read[str(file)] = f"{type(error).__name__}: {error}"
        else:
            text = code if isinstance(code, str) else code.decode("utf-8", "replace")
            lengths = [each.count("\n") + 1 for each in cells]
            begins = tuple(itertools.accumulate(lengths[:-1], initial=1)) if lengths else ()
            read.append(Source(str(file), tree, tuple(text.splitlines()), begins))
    return read, not_read


def _files(paths: Iterable[str]) -> Iterator[Path]:
    seen = set()
    for each in paths:
        path = Path(each)
        if not path.exists():
            raise InvalidArgumentError(
                "PATH", expected="a file or a folder of Python code", received=each, advice="It is not there."
            )
        if path.is_file() and path.suffix not in FILES:
            raise InvalidArgumentError("PATH", expected="a .py file, an .ipynb notebook or a folder", received=each)
        for file in [path] if path.is_file() else _in_folder(path):
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _in_folder(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        # Environments, caches and the like hold other people's code.
        folders[:] = sorted(
            each
            for each in folders
            if not each.startswith(".") and each not in _SKIPPED and not (Path(root, each) / "pyvenv.cfg").exists()
        )
        yield from (Path(root, each) for each in sorted(files) if each.endswith(FILES))


_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})
