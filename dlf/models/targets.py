"""Imports the target of a command: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name``.

Requirements:

* the name is that of a function that builds a model, say, or of a model;
* the error for a target that cannot be imported shows the traceback without the lines of dlf and of Python's importer;
* a file is imported under its own name, with its folder first on ``sys.path``, as for a script without arguments;
* what a script does beside making the model, such as training, is left out where it can be, and that is said; what it
  would have trained on is kept.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import linecache
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from dlf.utils.errors import InvalidArgumentError, did_you_mean
from dlf.utils.tracebacks import own_traceback

__all__ = [
    "Fit",
    "check_target",
    "fit_instead",
    "fits_left_out",
    "is_file",
    "is_saved_model",
    "load_target",
    "load_value",
    "remarks_on",
    "training_left_out",
]

_FORM = "file.py:name, notebook.ipynb:name or package.module:name"
_FILES = (".py", ".ipynb")


def check_target(target: str, argument: str = "TARGET", *, saved: bool = False) -> tuple[str, str]:
    """Splits a target into its file or module and its function name, without importing anything.

    Args:
        target: The target.
        argument: The name of the caller's argument, for the error message.
        saved: Whether a saved model, ``file.keras``, is accepted, too; its function name is empty.

    Raises:
        InvalidArgumentError: The target is not of that form, or the file does not exist.

    Example:
        >>> check_target("package.module:build")
        ('package.module', 'build')
    """
    if saved and is_saved_model(target):
        if not Path(target).is_file():
            raise InvalidArgumentError(
                argument, expected=f"{_FORM}, or file.keras", received=target, advice=f"There is no file {target}."
            )
        return target, ""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise InvalidArgumentError(argument, expected=_FORM + ", or file.keras" * saved, received=target)
    if place.endswith(_FILES) and not Path(place).is_file():
        raise InvalidArgumentError(argument, expected=_FORM, received=target, advice=f"There is no file {place}.")
    return place, name


def is_saved_model(target: str) -> bool:
    """Tells whether a target is the name of a saved Keras model, ``file.keras``.

    Example:
        >>> is_saved_model("model.keras"), is_saved_model("model.py:build")
        (True, False)
    """
    return target.endswith(".keras")


def is_file(target: str) -> bool:
    """Tells whether a target is in a file or a notebook, and not in a package.

    Example:
        >>> is_file("model.py:build"), is_file("package.module:build")
        (True, False)
    """
    return target.rpartition(":")[0].endswith(_FILES)


def load_target(target: str, argument: str = "TARGET", *, anew: bool = False) -> Callable[..., Any]:
    """Imports the module and returns the function.

    Args:
        target: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name``.
        argument: The name of the caller's argument, for the error message.
        anew: Whether a file or module that was imported already is run once more.

    Returns:
        The function. Where the name is that of a Keras model, a function that returns it, and from its second call on
        another, for which it runs the module once more.

    Raises:
        InvalidArgumentError: The module cannot be imported, or has nothing of this name.

    Example:
        >>> load_target("math:sqrt")(4)
        2.0
    """
    found, module = _load(target, argument, anew=anew)
    if _is_model(found):
        return _returning(found, target, argument)
    if not callable(found):
        known = [each for each in vars(module) if not each.startswith("_") and callable(getattr(module, each))]
        place, _, name = target.rpartition(":")
        raise InvalidArgumentError(
            argument,
            expected=f"a function or a model of {place}",
            received=name,
            advice=" ".join(
                [
                    did_you_mean(name, known) or f"It has {', '.join(known[:10]) or 'none'}.",
                    *(f"In the file, {each}." for each in remarks_on(target)),
                ]
            ),
        )
    return found  # type: ignore[no-any-return]


def load_value(target: str, argument: str) -> Any:
    """Imports the module and returns what the name stands for, of any kind; None if there is nothing of this name.

    Args:
        target: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name``.
        argument: The name of the caller's argument, for the error message.

    Raises:
        InvalidArgumentError: The module cannot be imported.

    Example:
        >>> load_value("math:pi", "--data")
        3.141592653589793
    """
    return _load(target, argument, anew=False)[0]


def _load(target: str, argument: str, *, anew: bool) -> tuple[Any, ModuleType]:
    """Imports the module, and returns what the name stands for there, and the module."""
    place, name = check_target(target, argument)
    try:
        module = _from_file(Path(place), anew=anew) if is_file(target) else _from_path(place, anew=anew)
    except (Exception, SystemExit) as error:
        begun = _run_of(target)
        if begun is None or not hasattr(begun.module, name):
            aside = f"\n{_ASIDE}" if isinstance(error, OSError | SystemExit) else ""
            raise InvalidArgumentError(
                argument,
                expected=f"{_FORM} that can be imported",
                received=target,
                advice=f"\n{own_traceback(error)}{aside}",
            ) from error
        # What comes after the model, such as data and training, need not be there.
        module = begun.module
        begun.remarks.append(f"what follows did not run ({type(error).__name__}: {_shortened(str(error))})")
    return getattr(module, name, None), module


def remarks_on(target: str) -> list[str]:
    """Returns what has to be known of the file of a target that was loaded, in words: what of it was not run.

    Args:
        target: A target.

    Example:
        >>> remarks_on("math:sqrt")
        []
    """
    run = _run_of(target)
    return [] if run is None else run.remarks


@dataclass(frozen=True)
class Fit:
    """A call of Keras's `fit` that was left out: the model, and the other arguments by their names."""

    model: Any
    arguments: dict[str, Any]


def fits_left_out(target: str) -> list[Fit]:
    """Returns the calls of `fit` that were left out of a target's file, in their order.

    Args:
        target: A target that was loaded.

    Example:
        >>> fits_left_out("math:sqrt")
        []
    """
    run = _run_of(target)
    return [] if run is None else run.fits


_LONGEST = 200


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


_ASIDE = (
    "The file is run without arguments. What the model does not need, such as data, arguments and training, belongs "
    'under `if __name__ == "__main__":`.'
)


def _is_model(value: Any) -> bool:
    # Who has made a model has imported Keras; dlf's own command has not.
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(value, keras.Model)


def _returning(model: Any, target: str, argument: str) -> Callable[[], Any]:
    """Returns a function that returns this model, and from its second call on one of the module run once more."""
    models = [model]

    def build() -> Any:
        return models.pop() if models else load_target(target, argument, anew=True)()

    return build


@dataclass
class _Run:
    """A file that was run: its module, and what of it was not run, in words."""

    module: ModuleType
    remarks: list[str] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)


_RUN: dict[Path, _Run] = {}
"""The files that were run."""


def _run_of(target: str) -> _Run | None:
    return _RUN.get(Path(target.rpartition(":")[0]).resolve())


def _from_file(file: Path, *, anew: bool) -> ModuleType:
    place = file.resolve()
    if not anew and place in _RUN:
        return _RUN[place].module
    if str(place.parent) not in sys.path[:1]:
        sys.path.insert(0, str(place.parent))
    module = ModuleType(file.stem)
    module.__file__ = str(place)
    if place.suffix == ".ipynb":
        module.__dict__["display"] = print  # As in every notebook.
    # Keras looks classes up in sys.modules by the name of their module, when it saves a model, say.
    sys.modules[file.stem] = module
    given, sys.argv = sys.argv, [str(file)]
    _RUN[place] = run = _Run(module)
    try:
        with _left_out(run):
            code = compile(_source(place), str(place), "exec", dont_inherit=True)
            exec(code, module.__dict__)  # noqa: S102 - that is what importing is.
    finally:
        sys.argv = given
    return module


@contextmanager
def training_left_out(target: str) -> Iterator[None]:
    """Lets Keras's `fit` do nothing but note its arguments, while a function of a target's file is called.

    Args:
        target: A target that was loaded; of one in a package, nothing is left out.
    """
    run = _run_of(target)
    if run is None:
        yield
        return
    given, sys.argv = sys.argv, [target.rpartition(":")[0]]
    try:
        with _left_out(run):
            yield
    finally:
        sys.argv = given


@contextmanager
def _left_out(run: _Run) -> Iterator[None]:
    """Lets `fit` do nothing: a script that trains wherever it is imported would do so in each backend's process."""
    keras = sys.modules.get("keras")
    if keras is None:
        yield
        return
    original = keras.Model.fit

    @functools.wraps(original)  # Its signature is asked for.
    def fit(model: Any, *args: Any, **options: Any) -> Any:
        if _LEFT_OUT not in run.remarks:
            run.remarks.append(_LEFT_OUT)
        given = inspect.signature(original).bind(model, *args, **options).arguments
        run.fits.append(Fit(given.pop("self"), given))
        model.history = keras.callbacks.History()
        return model.history

    inherited = "fit" not in vars(keras.Model)
    keras.Model.fit = fit
    token = _fit_instead.set(fit)
    try:
        yield
    finally:
        _fit_instead.reset(token)
        if inherited:
            del keras.Model.fit
        else:
            keras.Model.fit = original


def fit_instead() -> Callable[..., Any] | None:
    """Returns what stands for training while the file of a target is run; None at any other time."""
    return _fit_instead.get()


_fit_instead: ContextVar[Callable[..., Any] | None] = ContextVar("fit_instead", default=None)
_LEFT_OUT = "the training is left out"


def _source(file: Path) -> str | bytes:
    """Returns a file's source code: of a notebook that of its cells, without what only a notebook can run."""
    if file.suffix != ".ipynb":
        return file.read_bytes()  # Python finds its encoding.
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(each["source"]) for each in cells if each["cell_type"] == "code"]
    code = "\n".join(_MAGIC.sub("", _COMMAND.sub(r"\1pass", _without_magic(text))) for text in texts)
    # For tracebacks: the lines of the file itself are JSON.
    linecache.cache[str(file)] = (len(code), None, code.splitlines(keepends=True), str(file))
    return code


_COMMAND = re.compile(r"^([ \t]*)[!%].*", re.MULTILINE)
"""A line for the shell or for IPython, such as ``!pip install keras`` or ``%matplotlib inline``."""
_MAGIC = re.compile(r"^@(\w+\.)*register_\w*magic\w*(\(.*\))?$", re.MULTILINE)
"""A line by which a function becomes a command of IPython's, which is not there."""
_TIMED = re.compile(r"^%%(time|timeit|capture)\b.*")


def _without_magic(cell: str) -> str:
    """Returns a cell without its first line if that only times or silences it; one of another language is empty."""
    cell = _TIMED.sub("", cell.lstrip())
    return "" if cell.startswith("%%") else cell


def _from_path(name: str, *, anew: bool) -> ModuleType:
    # `python -m` puts the working directory on the path, but a console script does not.
    sys.path.insert(0, str(Path.cwd()))
    module = importlib.import_module(name)
    return importlib.reload(module) if anew else module
